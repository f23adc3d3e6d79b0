"""`torch.compile` for the parts of the towers that take the time, where it is asked for.

One block is compiled, not a tower: all blocks of a tower share what comes out of that, so it takes
seconds rather than minutes, and prompts may enter between any two of them.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from promptclip.errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@functools.cache
def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function, compiled when it is first called with arguments of some kind.

    Equal but for rounding: elementwise operations are computed in one pass.
    """
    return torch.compile(function)


def check_compiler(device: torch.device | str) -> None:
    """Refuse where torch.compile has nothing to compile with.

    Raises:
        UserError: telling what is missing on this device.
    """
    on_gpu = torch.device(device).type == "cuda"
    program = os.environ.get("CC", "cc") if on_gpu else os.environ.get("CXX", "g++")
    if shutil.which(program) is None:
        raise UserError(
            f"COMPUTE.COMPILE needs a compiler of C{'' if on_gpu else '++'}, but there is no "
            f"{program!r}; install one (such as Debian's package g++), or leave COMPUTE.COMPILE "
            "False"
        )
