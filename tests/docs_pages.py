"""The pages of this project, and the commands and paths that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import promptclip

ROOT = Path(promptclip.__file__).parent.parent
GENERATED = {"docs/errors.md"}  # of bad input: what it names is wrong on purpose
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"(?ms)^( *)```([^\n`]*)\n(.*?)^\1```$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_FOLDERS = [
    "configs",
    "datasets",
    "docs",
    "promptclip",
    "runtime",
    "scripts",
    "tests",
    "trainers",
    "benchmarks",
]
_PATH = re.compile(rf"(?<![\w./$<-])(?:{'|'.join(_FOLDERS)})/(?:\{{[^}}]*\}}|[^\s`,;:()'\"])*")
_FILE = re.compile(r"(?m)^`([\w./-]+)`:\n\n```")  # that a page has one write


@dataclass(frozen=True)
class Command:
    """A command of a code block, as words; `env` are the variables before it."""

    page: str
    line: int
    env: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {' '.join(self.words)}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The code blocks in a language, with the line at which their content begins."""
    for match in _BLOCK.finditer(text):
        if match[2] == language:
            yield text[: match.start(3)].count("\n") + 1, match[3]


def commands(page: Path) -> Iterator[Command]:
    """All commands of the bash blocks of a page; comments, `cd` and the like are left out."""
    for start, block in blocks(page.read_text(encoding="utf-8"), "bash"):
        number = start
        for line in block.replace("\\\n", "\0").splitlines():
            words = shlex.split(line.replace("\0", " "), comments=True)
            for part in _split(words):
                env = {}
                while part and re.match(r"[A-Z_]+=", part[0]):
                    key, _, env[key] = part.pop(0).partition("=")
                if part:
                    yield Command(name_of(page), number, env, part)
            number += 1 + line.count("\0")


def told(page: Path) -> Iterator[Command]:
    """Commands in the cells of tables under the heading "here", as a page for others has them."""
    for table in re.finditer(r"(?m)^\|.*(?:\n\|.*)*", page.read_text(encoding="utf-8")):
        head, *rows = (_cells(row) for row in table[0].splitlines())
        for row in rows:
            for name, cell in zip(map(str.strip, head), row, strict=True):
                for code in _INLINE.findall(cell) if name == "here" else ():
                    if re.match(r"(promptclip|bash|python|[A-Z_]+=\S+) ", code):
                        yield _command(page, table[0], code)


def _command(page: Path, near: str, code: str) -> Command:
    line = page.read_text(encoding="utf-8").split(near)[0].count("\n") + 1
    env, words = {}, shlex.split(code)
    while re.match(r"[A-Z_]+=", words[0]):
        key, _, env[key] = words.pop(0).partition("=")
    return Command(name_of(page), line, env, words)


def _cells(row: str) -> list[str]:
    return re.split(r"(?<!\\)\|", row)[1:-1]


def _split(words: list[str]) -> Iterator[list[str]]:
    """Commands between `&&`, `|` and `;`, without redirections."""
    part: list[str] = []
    for word in words:
        if word in ("&&", "||", "|", ";", "&"):
            yield part
            part = []
        else:
            part.append(word)
    if any(word in (">", "<", "2>") for word in part):
        part = part[: min(part.index(word) for word in (">", "<", "2>") if word in part)]
    yield part


def links(text: str) -> Iterator[str]:
    """Relative targets of links, without the place in the page."""
    for target in _LINK.findall(_BLOCK.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def paths(text: str) -> Iterator[str]:
    """Files and folders of ours that a page names, in its text and in its blocks.

    In a table a column that is headed by another repository's name is about that one.
    """
    blank = re.sub(r"(?m)^\|.*(?:\n\|.*)*", lambda match: _ours(match[0]), text)
    parts = [*(match[3] for match in _BLOCK.finditer(text) if match[2] == "bash")]
    parts += _INLINE.findall(_BLOCK.sub("", blank))
    for part in parts:
        for path in _PATH.findall(re.sub(r"(?m)#.*$", "", part)):
            yield path.rstrip(".")


def _ours(table: str) -> str:
    rows = [_cells(row) for row in table.splitlines()]
    theirs = {i for i, head in enumerate(rows[0]) if re.match(r"\s*(CoOp|in `configs)", head)}
    kept = [[cell for i, cell in enumerate(row) if i not in theirs] for row in rows]
    return "\n".join("|".join(row) for row in kept)


def written(text: str) -> set[str]:
    """Files and folders that a page has its reader make."""
    made = set(_FILE.findall(text))
    for _, block in blocks(text, "bash"):
        made |= {words[-1] for words in map(str.split, block.splitlines()) if words[:1] == ["cp"]}
    return made
