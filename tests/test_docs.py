"""README and docs name what is there, and commands that the command line takes."""

from __future__ import annotations

import re
from pathlib import Path

import docs_pages
import pytest
from docs_pages import GENERATED, PAGES, ROOT, Command, name_of

from promptclip import cli

OTHERS = {  # what is not promptclip's, and is not looked into
    *(
        "apt-get",
        "cd",
        "cp",
        "curl",
        "docker",
        "echo",
        "export",
        "find",
        "git",
        "ls",
        "mkdir",
        "module",
        "mv",
        "nohup",
    ),
    *(
        "printf",
        "pip",
        "pytest",
        "ruff",
        "scancel",
        "sbatch",
        "source",
        "squeue",
        "tail",
        "unset",
        ".",
    ),
}
WITHOUT_FLAGS = ("quickstart", "test", "results", "audit", "docs", "pretrain_tiny")
PROTOCOL_ENV = {
    **{"SHOTS": "--shots", "CFG": "--cfg", "OUTPUT": "--output", "DATA": "--root"},
    **{"DATA_FOLDER": "--data-folder", "TARGETS": "--targets", "RATIOS": "--ratios"},
}
COMMANDS = [
    command for page in PAGES for command in (*docs_pages.commands(page), *docs_pages.told(page))
]
ELSEWHERE = {  # page and path -> where it is
    ("docs/methods/ivlp.md", "trainers/independentVL.py"): "MaPLe's repository",
    ("docs/methods/upt.md", "trainers/unified.py"): "a repository with UPT",
    ("docs/methods/upt.md", "scripts/README.md"): "the same",
    ("docs/performance.md", "promptclip/features"): "the user's cache folder",
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in docs_pages.links(text):
        path, _, place = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name_of(page)} links to {target}"
        if place:
            heads = re.findall(r"(?m)^#+ (.*)$", other.read_text(encoding="utf-8"))
            anchors = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in heads}
            assert place in anchors, f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if name_of(p) not in GENERATED], ids=name_of)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = docs_pages.written(text)
    lost = []
    for path in docs_pages.paths(text):
        if any(path.startswith(name) for name in made) or (name_of(page), path) in ELSEWHERE:
            continue
        pattern = re.sub(r"<[^>]*>|\$\w+|\{[^}]*\}", "*", path).split("::")[0].rstrip("/")
        if not any(ROOT.glob(pattern)):
            lost.append(path)
    assert not lost, f"{name_of(page)} names {', '.join(lost)}"


def test_what_lies_elsewhere_is_still_named() -> None:
    for name, path in ELSEWHERE:
        assert path in set(docs_pages.paths((ROOT / name).read_text(encoding="utf-8")))


def argv_of(command: Command) -> list[str] | None:
    """What promptclip's command line is given; None for a command that is not promptclip's."""
    program, *words = command.words
    if program == "torchrun":
        words = [word for word in words if not word.startswith("--nproc")]
        program, words = "python", words
    if program == "promptclip":
        return words
    if program == "python" and words[:2] == ["-m", "promptclip"]:
        return words[2:]
    if program == "python" and words[0] == "train.py":
        return ["train", *words[1:]]
    if program != "bash":
        return None
    *folders, file = Path(words[0]).parts
    stem, words = file.removesuffix(".sh"), words[1:]
    if stem in WITHOUT_FLAGS:
        return None
    method = [folders[1]] if len(folders) > 1 else []
    flags = [part for key, flag in PROTOCOL_ENV.items() if key in command.env
             for part in (flag, command.env[key])]  # fmt: skip
    protocol, _, part = stem.partition("_")
    return [protocol, *(["--part", part] if part else []), *flags, *method, *words]


def test_there_are_commands_to_check() -> None:
    assert sum(argv_of(command) is not None for command in COMMANDS) > 110


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_are_taken(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Parsed by the real parser, and not run."""
    argv = argv_of(command)
    if argv is None:
        program = command.words[0]
        assert program in OTHERS or program in ("bash", "python", "torchrun"), command
        return
    if "..." in argv:  # a page leaves out what it has said before
        return
    try:
        cli.build_parser().parse_args(argv)
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"{command}: {capsys.readouterr().err}")
