"""CLIP's weights, from wherever they are, to one form: tensors by OpenAI's names and their sizes.

A source is
- `tiny-emoji`, the small CLIP that lies in this package;
- a name of OpenAI's (`ViT-B/16`, `RN50`, ...): found in the cache folder, else downloaded;
- `open_clip:MODEL/TAG`, such as `open_clip:ViT-B-32/laion2b_s34b_b79k`, or
  `open_clip:MODEL/PATH` for a checkpoint that was trained with open_clip
  (an absolute path makes it `open_clip:ViT-B-32//home/me/epoch_32.pt`);
- a path to a TorchScript archive of OpenAI's, a state dict saved by `torch.save`, or safetensors.
  What the tensors do not tell is taken to be OpenAI's: QuickGELU, 64 features in a head, pixel
  statistics. A safetensors file can tell it in its metadata: `promptclip.config` is a JSON object
  with fields of `CLIPConfig`;
- a model in memory, of OpenAI's `clip` package or of open_clip.

No source can run code: archives and pickles are read for their tensors only.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import nn

from promptclip.clip.config import CLIPConfig
from promptclip.clip.layout import StateDict, build_resnet, check_tensors, infer_config
from promptclip.errors import UserError

if TYPE_CHECKING:
    from promptclip.clip.model import FrozenCLIP

Source = str | Path | nn.Module

TINY_EMOJI = Path(__file__).parents[1] / "assets" / "tiny-emoji.safetensors"
METADATA_KEY = "promptclip.config"
PRECISIONS = ("fp32", "fp16", "amp", "bf16")


def resolve_precision(name: str, device: torch.device | str) -> str:
    """The precision to run in: what was asked for, or for "auto" what suits the device.

    On CUDA that is "amp", which keeps the prompts and the sums in fp32; elsewhere "fp32": half
    precision is slow on most CPUs, and without loss scaling not safe to train in on MPS.

    Raises:
        UserError: if there is no such precision.
    """
    if name == "auto":
        return "amp" if torch.device(device).type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise UserError(f'precision must be one of {", ".join(PRECISIONS)} or auto, got "{name}"')
    return name


def load_clip(
    source: Source,
    *,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    textbook: bool = False,
) -> FrozenCLIP:
    """The frozen CLIP of a source, ready to run.

    Args:
        source: see the head of this module.
        precision: see `resolve_precision`.
        device: where the weights are put.
        textbook: run the towers as published, without the exact short cuts.

    Raises:
        UserError: if the source cannot be read or is not a supported CLIP.
    """
    from promptclip.clip.model import FrozenCLIP

    state_dict, config, visual = read_clip(source)
    precision = resolve_precision(precision, device)
    clip = FrozenCLIP(state_dict, config, precision=precision, textbook=textbook, visual=visual)
    return clip.to(device)


def read_clip(source: Source) -> tuple[StateDict, CLIPConfig, nn.Module | None]:
    """Reads a source; see the head of this module.

    Returns:
        The tensors by OpenAI's names in the types they are stored in, the sizes, and the image
        tower, weights loaded, where it is a ResNet (the tensors are then the text tower's alone).

    Raises:
        UserError: if the source cannot be read or is not a supported CLIP.
    """
    if isinstance(source, nn.Module):
        name, state_dict, settings = "the model", *_from_module(source)
    else:
        name, state_dict, settings = str(source), *_from_file(_path(str(source)))
    try:
        config = dataclasses.replace(infer_config(state_dict), **settings)
        visual = build_resnet(state_dict, config)
        check_tensors(state_dict, config, visual)
    except UserError as error:
        raise UserError(f"{name} is not a supported CLIP: {error}") from None
    if visual is not None:
        image, state_dict = _split(state_dict, "visual.")
        visual.load_state_dict(image)
        visual.eval().requires_grad_(False)
    return state_dict, config, visual


def _path(source: str) -> Path:
    return TINY_EMOJI if source == "tiny-emoji" else Path(source).expanduser()


def _from_file(path: Path) -> tuple[StateDict, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"no such weights: {path}")
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _from_safetensors(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise UserError(f"{path} is not a file of weights") from None
    return _clean(payload), {}


def _from_safetensors(path: Path) -> tuple[StateDict, dict[str, Any]]:
    with safetensors.safe_open(path, "pt") as file:
        settings = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return state_dict, {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def _from_module(model: nn.Module) -> tuple[StateDict, dict[str, Any]]:
    return {key: value.detach().clone() for key, value in _clean(model.state_dict()).items()}, {}


def _clean(state_dict: StateDict) -> StateDict:
    constants = ("input_resolution", "context_length", "vocab_size")
    return {key: value for key, value in state_dict.items() if key not in constants}


def _split(state_dict: StateDict, prefix: str) -> tuple[StateDict, StateDict]:
    chosen = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    return chosen, {k: v for k, v in state_dict.items() if not k.startswith(prefix)}
