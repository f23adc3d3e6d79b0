"""CLIP's weights, from wherever they are, to one form: tensors by OpenAI's names and their sizes.

A source is
- `tiny-emoji`, the small CLIP that lies in this package;
- a name of OpenAI's (`ViT-B/16`, `RN50`, ...): found in `~/.cache/clip` or the folder that the
  environment variable `CLIP_CACHE` names, else downloaded;
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
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from promptclip.clip import openclip
from promptclip.clip.archive import is_torchscript, read_torchscript
from promptclip.clip.compiling import check_compiler
from promptclip.clip.config import CLIPConfig
from promptclip.clip.download import OPENAI, openai_weights
from promptclip.clip.layout import StateDict, build_resnet, check_tensors, infer_config
from promptclip.clip.model import PRECISIONS, FrozenCLIP
from promptclip.errors import UserError
from promptclip.files import expanded
from promptclip.tensor_file import tensors_hash

Source = str | Path | nn.Module

TINY_EMOJI = Path(__file__).parents[1] / "assets" / "tiny-emoji.safetensors"
METADATA_KEY = "promptclip.config"
OPEN_CLIP = "open_clip:"

# OpenAI's archives have these beside the weights.
_CONSTANTS = {"input_resolution", "context_length", "vocab_size"}


def resolve_precision(name: str, device: torch.device | str) -> str:
    """The precision to run in: what was asked for, or for "auto" what suits the device.

    That is "amp" on CUDA, which keeps prompts and sums in fp32. Elsewhere it is "fp32": CPUs are
    slow in half precision, in fp16 by far.

    Raises:
        UserError: if there is no such precision.
    """
    if name == "auto":
        return "amp" if torch.device(device).type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise UserError(f'precision must be one of {", ".join(PRECISIONS)} or auto, got "{name}"')
    return name


def half_type(device: torch.device | str) -> torch.dtype:
    """What "amp" computes in: bf16, which needs no loss scaling; fp16 on GPUs that lack it."""
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def load_clip(
    source: Source,
    *,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    textbook: bool = False,
    memory_budget: float = 0,
    compile_blocks: bool = False,
    graphs: bool = False,
) -> FrozenCLIP:
    """The frozen CLIP of a source, ready to run.

    Args:
        source: see the head of this module.
        precision: see `resolve_precision`.
        device: where the weights are put.
        textbook: run the towers as published, without the exact short cuts.
        memory_budget: see `FrozenCLIP`, bytes.
        compile_blocks: see `FrozenCLIP`.
        graphs: see `FrozenCLIP`.

    Raises:
        UserError: if the source cannot be read or is not a supported CLIP, or there is no compiler.
    """
    if compile_blocks:
        check_compiler(device)
    state_dict, config, visual = read_clip(source)
    image = {} if visual is None else visual.state_dict(prefix="visual.")
    weights = tensors_hash({**state_dict, **image})
    clip = FrozenCLIP(
        state_dict,
        config,
        precision=resolve_precision(precision, device),
        textbook=textbook,
        visual=visual,
        half=half_type(device),
        memory_budget=memory_budget,
        compile_blocks=compile_blocks,
        graphs=graphs,
    )
    clip.weights_hash = weights
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
        name, (state_dict, settings) = "the model", _from_module(source)
    else:
        name, (state_dict, settings) = str(source), _from_name(str(source))
    try:
        config = dataclasses.replace(infer_config(state_dict), **settings)
        visual = build_resnet(state_dict, config)
        check_tensors(state_dict, config, visual)
    except (UserError, TypeError) as error:  # TypeError: metadata with other fields or types
        raise UserError(f"{name} is not a supported CLIP: {error}") from error
    if visual is not None:
        image = {key: state_dict.pop(key) for key in [*state_dict] if key.startswith("visual.")}
        image = {key.removeprefix("visual."): tensor for key, tensor in image.items()}
        visual.load_state_dict(image, assign=True)
        visual.eval().requires_grad_(False)
    return state_dict, config, visual


def _from_name(name: str) -> tuple[StateDict, dict[str, Any]]:
    if name.startswith(OPEN_CLIP):
        path, settings = openclip.find(name.removeprefix(OPEN_CLIP))
        return _read_file(path, checkpoint=True)[0], settings
    if name in OPENAI:
        return _read_file(openai_weights(name))
    if name == "tiny-emoji":
        return _read_file(TINY_EMOJI)
    path = expanded(name)
    if not path.is_file():
        names = ["tiny-emoji", *OPENAI]
        close = get_close_matches(name, names, n=1)
        raise UserError(
            f"no weights {name!r}: expected {', '.join(names)}, {OPEN_CLIP}MODEL/TAG or the path "
            f"of a file" + (f"; did you mean {close[0]}?" if close else "")
        )
    return _read_file(path)


def _from_module(model: nn.Module) -> tuple[StateDict, dict[str, Any]]:
    settings = {} if isinstance(model, torch.jit.ScriptModule) else openclip.describe(model)
    # Copies, so that what is done to the model later does not reach the frozen one.
    tensors = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    return _by_openai_names(tensors), settings


def _read_file(path: Path, checkpoint: bool = False) -> tuple[StateDict, dict[str, Any]]:
    """Tensors of a file of any format, told by its first bytes, and what its metadata tells.

    With `checkpoint`, also those of a training checkpoint, which has them under `state_dict`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if is_torchscript(path):
        return _by_openai_names(read_torchscript(path)), {}
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path} holds no weights that can be read safely: expected safetensors, an archive of "
            f"TorchScript or a state dict of torch.save, got a file that begins with {head!r}; "
            "it is damaged, or holds other objects than tensors"
        ) from error
    if isinstance(tensors, dict) and "state_dict" in tensors:
        if not checkpoint:
            raise UserError(
                f"{path} is a training checkpoint, which does not tell its activation; name the "
                f"model of open_clip's that was trained: {OPEN_CLIP}MODEL/{path}"
            )
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f"{path} holds no state dict: expected tensors by name")
    return _by_openai_names(tensors), {}


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = dict(json.loads(metadata.get(METADATA_KEY, "{}")))
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged safetensors ({error}); get it again") from error
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return _by_openai_names(tensors), settings


def _by_openai_names(tensors: StateDict) -> StateDict:
    """Leaves out what is no weight, and undoes what open_clip's training puts before names."""
    names = {key: key.removeprefix("module.").removeprefix("text.") for key in tensors}
    return {name: tensors[key] for key, name in names.items() if name not in _CONSTANTS}
