"""Checkpoints, pre-trained weights, and what of a model is trained.

A checkpoint holds tensors and plain values only, is written whole or not at all, and is read with
`weights_only=True`: reading one never runs code from it.
"""

import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from dassl.utils.tools import atomic_write, is_intact, tolist_if_not

_ARCHIVE = b"PK\x03\x04"  # what torch.save writes begins so; older versions wrote no archive
logger = logging.getLogger(__name__)


class _Attributes:
    """Stands in for an object of an old checkpoint: its attributes, and nothing that runs."""


def _plain_dict(factory: Any) -> dict[Any, Any]:
    """Stand in for `defaultdict`."""
    del factory
    return {}


# Checkpoints of the original Dassl hold the schedule after the warm-up as an object, and in it the
# optimizer. A reader that makes inert objects instead of these classes stays safe.
_STAND_INS: list[Any] = [
    (dict, "builtins.dict"),
    (_plain_dict, "collections.defaultdict"),
    *(
        (_Attributes, f"{kind.__module__}.{kind.__qualname__}")
        for kind in (
            *(lr_scheduler.CosineAnnealingLR, lr_scheduler.MultiStepLR, lr_scheduler.StepLR),
            *(optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD),
        )
    ),
    (_Attributes, "dassl.optim.radam.RAdam"),
]


def _without_module(name: str) -> str:
    """Return a state-dict key without the prefix that DataParallel adds."""
    return name.removeprefix("module.")


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write a checkpoint, and its name to the file `checkpoint` beside it.

    Args:
        state: `state_dict` and `epoch` (epochs completed), and whatever else resuming needs.
        save_dir: folder, made if missing.
        is_best: write it as `model-best.pth.tar` too.
        remove_module_from_keys: strip the prefix that DataParallel adds to names.
        model_name: file name; by default `model.pth.tar-<epoch>`.
    """
    if remove_module_from_keys:
        weights = OrderedDict((_without_module(k), v) for k, v in state["state_dict"].items())
        state = {**state, "state_dict": weights}
    fpath = os.path.join(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    with atomic_write(fpath) as file:
        torch.save(state, file)
    logger.info("Checkpoint saved to %s", fpath)
    with atomic_write(os.path.join(save_dir, "checkpoint")) as file:
        file.write(f"{os.path.basename(fpath)}\n".encode())
    if is_best:
        best = os.path.join(save_dir, "model-best.pth.tar")
        with atomic_write(best) as file:
            torch.save(state, file)
        logger.info('Best checkpoint saved to "%s"', best)


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """Read a checkpoint of this runtime or of the original Dassl.

    Args:
        fpath: path of the file.

    Returns:
        What was saved; tensors on the CPU on a machine without CUDA.

    Raises:
        ValueError: if the path is None.
        FileNotFoundError: if there is no such file.
        RuntimeError: if it is damaged; files of PyTorch before 1.6 have no checksums.
        pickle.UnpicklingError: if it holds more than tensors and plain values.
    """
    if fpath is None:
        raise ValueError("expected the path of a checkpoint, got None")
    if not os.path.exists(fpath):
        raise FileNotFoundError(f'File is not found at "{fpath}"')
    with open(fpath, "rb") as file:
        archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    if archive and not is_intact(fpath):
        raise RuntimeError(f"{fpath} is damaged: its contents do not match its checksums")
    map_location = None if torch.cuda.is_available() else "cpu"
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            checkpoint: dict[str, Any] = torch.load(
                fpath, map_location=map_location, weights_only=True
            )
    except Exception:
        logger.error('Unable to load checkpoint from "%s"', fpath)
        raise
    return checkpoint


def resume_from_checkpoint(
    fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> int:
    """Load the checkpoint that was saved last in a folder.

    Args:
        fdir: folder with a file `checkpoint` that names it.
        model: gets the weights.
        optimizer: gets its state, unless None.
        scheduler: gets its state, unless None.

    Returns:
        Number of epochs completed.
    """
    fpath = os.path.join(fdir, Path(fdir, "checkpoint").read_text().splitlines()[0])
    logger.info('Loading checkpoint from "%s"', fpath)
    checkpoint = load_checkpoint(fpath)
    model.load_state_dict(checkpoint["state_dict"])
    logger.info("Loaded model weights")
    for name, part in {"optimizer": optimizer, "scheduler": scheduler}.items():
        if part is not None and checkpoint.get(name) is not None:
            part.load_state_dict(checkpoint[name])
            logger.info("Loaded %s", name)
    epoch: int = checkpoint["epoch"]
    logger.info("Previous epoch: %d", epoch)
    return epoch


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load those weights whose name and shape fit, and say which do not.

    Args:
        model: gets the weights.
        weight_path: a checkpoint or a bare state dict.
    """
    checkpoint = load_checkpoint(weight_path)
    loaded = {_without_module(k): v for k, v in checkpoint.get("state_dict", checkpoint).items()}
    own = model.state_dict()
    fitting = {
        k: v
        for k, v in loaded.items()
        if isinstance(v, Tensor) and getattr(own.get(k), "shape", None) == v.shape
    }
    if not fitting:
        warnings.warn(f"Cannot load {weight_path} (check the key names manually)", stacklevel=2)
        return
    model.load_state_dict({**own, **fitting})
    logger.info("Successfully loaded pretrained weights from %s", weight_path)
    if discarded := [k for k in loaded if k not in fitting]:
        logger.info("Layers discarded due to unmatched keys or size: %s", discarded)


def open_all_layers(model: nn.Module) -> None:
    """Make every parameter trainable, in training mode."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Train the named children and freeze the others.

    Raises:
        ValueError: if the model has no such child.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    names = tolist_if_not(open_layers)
    children = dict(model.named_children())
    if unknown := set(names) - set(children):
        raise ValueError(f"expected layers among {list(children)}, got {sorted(unknown)}")
    for name, child in children.items():
        child.train(name in names)
        child.requires_grad_(name in names)


def count_num_param(
    model: nn.Module | None = None, params: Iterable[Tensor | dict[str, Any]] | None = None
) -> int:
    """Count the numbers in a model's parameters, or in given parameters or parameter groups.

    Raises:
        ValueError: if neither is given.
    """
    if model is not None:
        return sum(parameter.numel() for parameter in model.parameters())
    if params is None:
        raise ValueError("expected a model or parameters, got neither")
    total = 0
    for entry in params:
        tensors = entry["params"] if isinstance(entry, dict) else entry
        total += sum(t.numel() for t in ([tensors] if isinstance(tensors, Tensor) else tensors))
    return total


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise convolutions and linear layers; normalisation layers start at identity.

    Args:
        model: changed in place.
        init_type: `normal`, `xavier`, `kaiming` or `orthogonal`.
        gain: standard deviation of `normal`, gain of `xavier` and `orthogonal`.

    Raises:
        ValueError: if the type is unknown.
    """
    fill = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in fill:
        raise ValueError(f"expected init_type in {list(fill)}, got {init_type!r}")
    for module in model.modules():
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is not None and ("Conv" in kind or "Linear" in kind):
            fill[init_type](weight)
        elif weight is not None and ("BatchNorm" in kind or "InstanceNorm" in kind):
            nn.init.ones_(weight)
        else:
            continue
        if bias is not None:
            nn.init.zeros_(bias)
