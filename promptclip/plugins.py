"""Methods and benchmarks are found by the registry, never imported by name."""

from __future__ import annotations

import difflib
import functools
import gc
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from promptclip.errors import UserError

if TYPE_CHECKING:
    from promptclip.benchmark import Benchmark
    from promptclip.trainer import PromptTrainer


@contextmanager
def _for_good() -> Iterator[None]:
    """Import without looking for garbage, neither now nor later, among what stays anyway.

    PyTorch's modules make some hundred thousand objects: searching them again and again takes a
    sixth of the start (docs/performance.md).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@functools.cache
@_for_good()
def load_plugins() -> dict[str, str]:
    """Import every file of `trainers/` and `datasets/`, which registers what it defines.

    Returns:
        Short names: file stem -> registered name, for files that define just one.
    """
    from promptclip import original_dassl

    original_dassl.repair()
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    registries: list[Any] = [TRAINER_REGISTRY, DATASET_REGISTRY]
    short = {}
    for folder in ("trainers", "datasets"):
        package = importlib.import_module(f"promptclip.{folder}")
        for file in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"promptclip.{folder}.{file.name}")
            defined = [
                name
                for registry in registries
                for name in registry.registered_names()
                if registry.get(name).__module__ == module.__name__
            ]
            if len(defined) == 1:
                short[file.name] = defined[0]
    return short


def methods() -> dict[str, type[PromptTrainer]]:
    """Our trainers by registered name."""
    load_plugins()
    from dassl.engine import TRAINER_REGISTRY

    from promptclip.trainer import PromptTrainer

    found = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    return {
        name: trainer
        for name, trainer in found.items()
        if isinstance(trainer, type) and issubclass(trainer, PromptTrainer)
    }


def trains(method: str) -> bool:
    """Whether a method has anything to train; of one that is not ours, yes."""
    ours = methods().get(method)
    return ours is None or bool(ours.Model.learns) or ours.Model.fitted


def trainer_name(text: str) -> str:
    """The registered name of a method: "coop" -> "CoOp", "zsclip" -> "ZeroshotCLIP".

    Raises:
        UserError: there is none of that name.
    """
    short = load_plugins()
    from dassl.engine import TRAINER_REGISTRY

    return _resolve("method", text, TRAINER_REGISTRY.registered_names(), short)


def dataset_name(text: str) -> str:
    """The registered name of a benchmark: "emoji" -> "Emoji".

    Raises:
        UserError: there is none of that name.
    """
    short = load_plugins()
    from dassl.data.datasets import DATASET_REGISTRY

    return _resolve("dataset", text, DATASET_REGISTRY.registered_names(), short)


def short_name(name: str) -> str:
    """What a method or a benchmark is called on command lines: "OxfordPets" -> "oxford_pets"."""
    return {long: short for short, long in load_plugins().items()}.get(name, name)


def benchmark(name: str) -> type[Benchmark]:
    """A benchmark by its registered or short name.

    Raises:
        UserError: if there is none of that name, or it is not one of ours.
    """
    name = dataset_name(name)
    from dassl.data.datasets import DATASET_REGISTRY

    from promptclip.benchmark import Benchmark

    kind: type[Benchmark] = DATASET_REGISTRY.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Benchmark)):
        raise UserError(f"{name} is no benchmark of promptclip's, so its layout is not known")
    return kind


def _resolve(kind: str, text: str, names: list[str], short: dict[str, str]) -> str:
    known = {_plain(name): name for name in names}
    known |= {_plain(stem): name for stem, name in short.items() if name in names}
    if (plain := _plain(text)) in known:
        return known[plain]
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    hint = f"did you mean {known[close[0]]!r}?" if close else "known are"
    raise UserError(f"unknown {kind} {text!r}; {hint} ({', '.join(sorted(names))})")


def _plain(name: str) -> str:
    """A name without what spellings differ in: emoji_line, EmojiLine."""
    return name.lower().replace("_", "").replace("-", "")
