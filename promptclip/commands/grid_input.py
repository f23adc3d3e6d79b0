"""What `promptclip grid` is asked for: flags, before those of a yaml file, before the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from promptclip.commands.protocols import names, targets
from promptclip.errors import UserError

if TYPE_CHECKING:
    from promptclip.grid.plan import Spec

LAUNCHERS = ("local", "slurm")
# Of the flags and of a yaml file; what is not given here or there.
DEFAULTS: dict[str, Any] = {
    "methods": (),
    "datasets": (),
    "protocol": ("fewshot",),
    "shots": (),
    "seeds": (1, 2, 3),
    "targets": (),
    "cfg": "",
    "root": "",
    "set": (),
    "output": "output",
    "name": "",
    "workers": None,
    "gpus": (),
    "per_gpu": 1,
    "launcher": "local",
    "slurm": "",
}
_TEXTS = ("cfg", "root", "output", "name")
_SECTIONS = ("set", "slurm")
_MOST = 100_000  # numbers of a span
# What the commands of a folder take; all others take everything but --watch.
_TAKES = {"status": {"output", "watch"}, "work": {"output", "workers", "gpus", "per_gpu"}}


def spans(text: str) -> list[int]:
    """Whole numbers, with 1-3 for 1, 2, 3.

    Raises:
        ArgumentTypeError: for anything else.
    """
    found: list[int] = []
    for word in names(text):
        first, dash, last = word.partition("-")
        try:
            start, end = int(first), int(last if dash else first)
        except ValueError:
            start, end = 0, -1
        if not 0 <= end - start < _MOST:
            raise argparse.ArgumentTypeError(
                f"expected whole numbers, such as 1,2 or 1-3, got {word!r}"
            )
        found += range(start, end + 1)
    return found


def refuse_idle_flags(args: argparse.Namespace) -> None:
    """Have no flag stand there without effect.

    Raises:
        UserError: if one does.
    """
    takes = _TAKES.get(args.what, {*DEFAULTS, "dry_run"})
    for key in {*DEFAULTS, "dry_run", "watch"} - takes:
        if getattr(args, key, None):
            what = args.what if args.what in _TAKES else "METHODS"
            raise UserError(f"promptclip grid {what} takes no --{key.replace('_', '-')}")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The value of every key of `DEFAULTS`.

    Raises:
        UserError: if the yaml file holds something else.
    """
    flags = {key: getattr(args, key) for key in DEFAULTS if getattr(args, key, None) is not None}
    if not args.what.endswith((".yaml", ".yml")):
        return DEFAULTS | {"methods": args.what} | flags
    return DEFAULTS | _of_file(args.what) | flags


def spec_of(given: Mapping[str, Any]) -> Spec:
    """The runs that are asked for.

    Raises:
        UserError: for a value of another kind.
    """
    from promptclip.grid.plan import Spec

    pairs = given["set"].items() if isinstance(given["set"], Mapping) else given["set"]
    return Spec(
        methods=_words(given["methods"]),
        datasets=_words(given["datasets"], targets),
        protocols=_words(given["protocol"]),
        shots=_numbers(given, "shots"),
        seeds=_numbers(given, "seeds"),
        targets=_words(given["targets"], targets),
        cfg=given["cfg"],
        root=given["root"],
        overrides=tuple(_plain(part) for pair in pairs for part in pair),
    ).absolute()


def seats_of(given: Mapping[str, Any]) -> list[dict[str, str]]:
    """The workers that are asked for, as `promptclip.grid.pool.seats` has them.

    Raises:
        UserError: for other than whole numbers, and as of `seats`.
    """
    from promptclip.grid.pool import seats

    workers = None if given["workers"] is None else number_of(given, "workers")
    return seats(workers, _words(given["gpus"]), number_of(given, "per_gpu"))


def number_of(given: Mapping[str, Any], key: str) -> int:
    """One whole number.

    Raises:
        UserError: if it is something else.
    """
    try:
        return int(str(given[key]))
    except ValueError:
        raise UserError(f"{key} must be a whole number; got {given[key]!r}") from None


def _of_file(file: str) -> dict[str, Any]:
    from promptclip.config import read_yaml
    from promptclip.merge import meant

    content = {key: value for key, value in read_yaml(file).items() if value is not None}
    for key in content.keys() - DEFAULTS.keys():
        hint = meant(key, list(DEFAULTS))
        raise UserError(f"{file}: unknown key {key}{hint}; there are {', '.join(DEFAULTS)}")
    for key in _SECTIONS:
        if not isinstance(content.get(key, {}), Mapping):
            raise UserError(f"{file}: {key} must hold KEY: VALUE lines, got {content[key]!r}")
    for key in content.keys() & _TEXTS:
        if isinstance(content[key], list | dict):
            raise UserError(f"{file}: {key} must be text, got {content[key]!r}")
        content[key] = str(content[key])
    if content.get("launcher", "local") not in LAUNCHERS:
        raise UserError(f"{file}: launcher must be one of {', '.join(LAUNCHERS)}")
    return content


def _words(value: Any, split: Callable[[str], list[str]] = names) -> tuple[str, ...]:
    """A list of a flag or of a yaml file, which may also have one text or number."""
    return tuple(map(str, value if isinstance(value, list | tuple) else split(str(value))))


def _numbers(given: Mapping[str, Any], key: str) -> tuple[int, ...]:
    try:
        return tuple(spans(",".join(_words(given[key]))))
    except argparse.ArgumentTypeError:
        raise UserError(f"{key} must be whole, such as 1,2 or 1-3; got {given[key]!r}") from None


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value
