"""Tensors and what they are of, in a safetensors file in which damage is noticed.

The format itself has no checksum: a bit that flips on a disk would be another number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from promptclip.files import DamagedError, write_bytes

# Keys of the metadata: JSON, and the SHA-256 of the tensors and that text.
ABOUT, CHECKSUM = "about", "checksum"


def raw_bytes(tensor: Tensor) -> Any:
    """The numbers of a tensor as they lie in memory, for a hash: a buffer."""
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()


def tensors_hash(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of names, types, shapes and numbers, in the order of names, and of a text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(raw_bytes(tensor))
    digest.update(text.encode())
    return digest.hexdigest()


def write(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> None:
    """Write tensors, whole or not at all.

    Args:
        tensors: of any device; they may share memory.
        about: JSON content.
        path: of the file.

    Raises:
        OSError: if the folder cannot be written.
    """
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    metadata = {ABOUT: text, CHECKSUM: tensors_hash(copies, text)}
    write_bytes(save(copies, metadata), path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` has written: tensors on the CPU, and what they are of.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedError: if it is another file, or not as it was written.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
        text = metadata.get(ABOUT, "")
        if metadata.get(CHECKSUM) != tensors_hash(tensors, text):
            raise DamagedError(f"{path} is damaged (its checksum does not fit)")
        return tensors, dict(json.loads(text))
    except (FileNotFoundError, DamagedError):
        raise
    except Exception as error:  # a damaged header can raise anything
        raise DamagedError(f"{path} is damaged ({error})") from None
