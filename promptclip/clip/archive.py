"""Tensors out of a TorchScript archive (OpenAI's weights are such), without running any of it.

An archive is a zip: `data.pkl`, a pickle of the tree of modules; `data/N`, the bytes of storage N;
and code, which we leave alone. `torch.jit.load` would compile that code, and a pickle may name any
function of Python to be called. The reader here knows tensors, and puts an inert object in the
place of every class of the archive; at any other name it stops.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from promptclip.errors import UserError

# The names that a TorchScript archive may use: pytorch, torch/csrc/jit/serialization/pickler.cpp.
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive; one of `torch.save` has no constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except OSError:
        raise
    except Exception:  # what is no archive, or a damaged one, can raise anything
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archive, by the names that its state dict would have.

    Args:
        path: a file for which `is_torchscript`.

    Returns:
        Tensors in the types they are stored in, on the CPU.

    Raises:
        UserError: if the archive is damaged, or names what no archive of tensors needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = pickled.removesuffix(".pkl")
            with archive.open(pickled) as file:
                tree = _Unpickler(file, lambda key: archive.read(f"{root}/{key}")).load()
            return dict(_tensors(tree))
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path} is damaged TorchScript ({type(error).__name__}: {error}); download it again"
        ) from error


class _Inert:
    """An object of a class of the archive: its attributes, and no behaviour."""

    attributes: Any = None

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes


class _Unpickler(pickle._Unpickler):
    """Rebuilds tensors and inert objects.

    The base is Python's own unpickler written in Python: the one in C allocates a table as long
    as the largest index that a damaged pickle names.

    Args:
        file: the pickle.
        read: gives the bytes of a storage by its key.
    """

    def __init__(self, file: BinaryIO | Any, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read = read
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) in {("collections", "OrderedDict"), ("torch", "device")}:
            return _nothing
        if module == "torch.jit._pickle":  # typed lists and dicts
            return _nothing
        if module.split(".")[0] == "__torch__":
            return _Inert
        raise UserError(f"was not read: it asks for {module}.{name}, which no weights need")

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        _, dtype, key, _, size = pid
        if key not in self._storages:
            data = bytearray(self._read(key))
            if len(data) != size * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes for {size} elements")
            self._storages[key] = (
                torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: list[int], stride: list[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _nothing(*_: Any) -> None:
    """Stands for a value that is neither a tensor nor a module."""


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Inert) and isinstance(value.attributes, dict):
        for key, child in value.attributes.items():
            yield from _tensors(child, f"{name}.{key}" if name else key)
