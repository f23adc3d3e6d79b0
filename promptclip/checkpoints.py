"""Checkpoints in pickles, ours and those of CoOp-style repositories: read, and nothing of them run.

The reader is `dassl.utils.load_checkpoint`: it knows tensors and plain values, puts inert objects
in the place of the schedulers and optimizers that old checkpoints hold, and stops at all else.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dassl.utils import load_checkpoint

from promptclip.errors import UserError
from promptclip.stopping import stop_behind


def read(path: str) -> dict[str, Any]:
    """Dassl's dictionary, and its `path`; the epoch is 0 if the file does not say.

    Raises:
        UserError: if there is no such file, it is damaged, or it holds other objects.
    """
    file = Path(path)
    if not file.is_file():
        there = sorted(other.name for other in file.parent.glob("model*"))
        holds = f"the folder holds {', '.join(there)}" if there else "there is none in the folder"
        raise UserError(f"no checkpoint {path}: {holds}; train first, or set --load-epoch")
    with told(path):
        checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is no checkpoint: expected a state_dict with tensors by name")
    return {"epoch": 0, **checkpoint, "path": path}


@contextlib.contextmanager
def told(path: str, remedy: str = "get it again, or train again") -> Iterator[None]:
    """Tell in one line what is wrong with a checkpoint that is read, and used, inside.

    Args:
        path: of the file, or of the folder that holds it.
        remedy: what to do.

    Raises:
        UserError: if something is.
    """
    try:
        yield
    except Exception as error:  # a damaged or hostile file can raise anything
        if isinstance(error, UserError | torch.OutOfMemoryError) or stop_behind(error):
            raise
        # torch's own text, of many lines, goes on to tell how to have such a file run its code.
        first, *more = str(error).splitlines() or [""]
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = type(error).__name__ + (f": {first}" if first and not more else "")
        raise UserError(
            f"{path} was not read: it is damaged, or holds other objects than tensors and plain "
            f"values ({f'it asks for {asked[1]}' if asked else reason}), and nothing of it was "
            f"run; {remedy}"
        ) from error
