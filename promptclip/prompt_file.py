"""What a run has learned, in one file that needs nothing but safetensors and JSON to be read.

The tensors are those of the learners' state dicts, named `<learner>.<name>`. The metadata has two
entries: `about`, a JSON object, and `checksum`, the SHA-256 of `promptclip.tensor_file`. In the
object are

- `schema`: of this form, whatever the CLIP;
- `method`, `epoch`, `promptclip`: by what it was learned, after how many epochs, by which version;
- `backbone`, `backbone_sha256`: what the frozen CLIP was called, and the hash of its weights;
- `classnames`: of the classes in training, in the order of labels;
- `config_hash`: of the configuration, as in `result.json`;
- `extra`: by learner, what of a state dict is no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from promptclip import tensor_file
from promptclip.errors import UserError
from promptclip.files import DamagedError

NAME = "prompts.safetensors"
SUFFIX = ".safetensors"
SCHEMA = 1
_KINDS = {
    "method": str,
    "epoch": int,
    "promptclip": str,
    "backbone": str,
    "backbone_sha256": str,
    "classnames": list,
    "config_hash": str,
    "extra": dict,
}


def write(states: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], path: Path) -> None:
    """Write what was learned, whole or not at all.

    Args:
        states: state dicts by learner; what is no tensor in them must be JSON content.
        about: the object of the metadata but for `schema` and `extra`.
        path: of the file.

    Raises:
        OSError: if the folder cannot be written.
        TypeError: if something is neither a tensor nor JSON content.
    """
    tensors: dict[str, Tensor] = {}
    extra: dict[str, dict[str, Any]] = {learner: {} for learner in states}
    for learner, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{learner}.{key}"] = value
            else:
                extra[learner][key] = value
    tensor_file.write(tensors, {"schema": SCHEMA, **about, "extra": extra}, path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the object of the metadata.

    Raises:
        UserError: if there is no such file, or it is damaged, or something else.
    """
    try:
        tensors, about = tensor_file.read(path)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}; train first") from None
    except DamagedError as error:
        raise DamagedError(f"{error}; take another copy of it, or train again") from None
    if about.get("schema") != SCHEMA:
        raise UserError(
            f"{path} holds no prompts of schema {SCHEMA}, which this promptclip reads, but of "
            f"{about.get('schema')!r}; take the version that wrote it, or train again"
        )
    if wrong := [key for key, kind in _KINDS.items() if not isinstance(about.get(key), kind)]:
        raise UserError(f"{path} holds no prompts: its metadata has no {', '.join(wrong)}")
    return tensors, about


def states(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """State dicts by learner, of what `read` gives."""
    found: dict[str, dict[str, Any]] = {
        learner: dict(extra) for learner, extra in about["extra"].items()
    }
    for name, tensor in tensors.items():
        learner = max((one for one in found if name.startswith(f"{one}.")), key=len)
        found[learner][name.removeprefix(f"{learner}.")] = tensor
    return found
