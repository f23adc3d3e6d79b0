"""Bad inputs, each made for real and given to the command line as a user would.

`python tests/faults/bad_inputs.py --write` writes what the program says into docs/errors.md, which
`test_bad_input_table.py` compares with what it says now.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
HEAD = "| what is wrong | what the program says | exit |\n|---|---|---:|\n"
_ROW = re.compile(r"\| (?P<what>.+?) \| ``(?P<message>.*)`` \| (?P<status>\d+) \|")

if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "runtime"), str(ROOT / "tests")]


@dataclass
class World:
    """A folder with everything that a run needs, which a case spoils.

    Attributes:
        folder: holds `data/mini`, `data/mini.yaml`, `data/clip.safetensors`.
        env: environment variables while the command runs; None takes one away.
        undo: what is to be done after it.
    """

    folder: Path
    env: dict[str, str | None] = field(default_factory=dict)
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def benchmark(self) -> Path:
        return self.data / "mini"

    @property
    def split(self) -> Path:
        return self.benchmark / "split_zhou_Mini.json"

    @property
    def output(self) -> Path:
        return self.folder / "run"

    def file(self, name: str, content: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def patch(self, target: str, value: Any) -> None:
        """Something in the program or the system is otherwise."""
        self.undo.enter_context(mock.patch(target, value))

    def train(self, *words: object, method: str = "CoOp", **flags: object) -> list[str]:
        """The command that trains for a moment, with other flags and more words at its end."""
        from promptclip.config import configs_dir

        given = {
            "trainer": method,
            "root": self.data,
            "dataset-config-file": self.data / "mini.yaml",
            "config-file": configs_dir() / "trainers" / method / "tiny.yaml",
            "output-dir": self.output,
            "seed": 1,
        } | {key.replace("_", "-"): value for key, value in flags.items()}
        argv = ["train"]
        for key, value in given.items():
            argv += [] if value is None else [f"--{key}"] if value is True else [f"--{key}", value]
        return [*argv, "DATASET.NUM_SHOTS", 2, "OPTIM.MAX_EPOCH", 1, *words]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        area: a heading of the page.
        what: in words, as the page has it.
        make: spoils a world and gives the command's words.
        line: a part of the line that tells, where the program goes on; else it is its last word.
        hide: parts of the message that depend on versions and machines, and what stands there.
    """

    area: str
    what: str
    make: Callable[[World], list[Any]]
    line: str = ""
    hide: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    status: int
    message: str
    text: str = field(default="", compare=False)


@contextlib.contextmanager
def world(template: Path) -> Iterator[World]:
    """A world of its own, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as folder, contextlib.ExitStack() as undo:
        place = World(Path(folder), undo=undo)
        samples = shutil.ignore_patterns("split_fewshot")
        shutil.copytree(template, place.data, ignore=samples, copy_function=_linked_or_copied)
        yaml = place.data / "mini.yaml"
        yaml.write_text(yaml.read_text().replace(str(template), str(place.data)))
        yield place


def _linked_or_copied(source: str, target: str) -> None:
    """The weights are large, and no case writes into them."""
    if source.endswith(".safetensors"):
        os.symlink(source, target)
    else:
        shutil.copy(source, target)


def outcome(case: Case, place: World) -> Outcome:
    """Give a case's words to the command line, and see what it says."""
    from promptclip.cli import main

    argv = [str(word) for word in case.make(place)]
    out, err = io.StringIO(), io.StringIO()
    env = {key: value for key, value in place.env.items() if value is not None}
    logger = logging.getLogger("promptclip")
    handlers, before = list(logger.handlers), os.getcwd()
    with (
        mock.patch.dict(os.environ, {"TQDM_DISABLE": "1", "COLUMNS": "200"} | env),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for key in place.env.keys() - env.keys():
            os.environ.pop(key, None)
        os.chdir(place.folder)
        try:
            status = main(argv)
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        except Exception as error:  # a defect of the program, to be seen with all others
            traceback.print_exc()
            status, case = -1, replace(case, line=type(error).__name__)
        finally:
            os.chdir(before)
            logger.handlers = handlers
            place.undo.close()
    text = out.getvalue() + err.getvalue()
    lines = [line for line in text.splitlines() if line.strip()]
    found = [line for line in lines if case.line in line] if case.line else lines[-1:]
    message = found[-1] if found else ""
    return Outcome(status, plain(message, case, place), text)


def plain(message: str, case: Case, place: World) -> str:
    """A message without what differs from machine to machine."""
    from promptclip.config import configs_dir

    for path, name in (
        (place.folder, ""),
        (configs_dir(), "configs"),
        (Path(sys.prefix), "<python>"),
    ):
        message = message.replace(f"{path}/", f"{name}/" if name else "").replace(
            str(path), name or "."
        )
    for pattern, name in case.hide:
        message = re.sub(pattern, name, message)
    # The names of all methods or data sets, which tests add to
    return re.sub(r"\(\w+(, \w+){7,}\)", "(<all names>)", message)


def page() -> str:
    """The page as it stands."""
    return PAGE.read_text(encoding="utf-8")


def rows(text: str) -> dict[tuple[str, str], Outcome]:
    """What a page says, by area and what is wrong."""
    found, area = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            area = line.removeprefix("## ").strip()
        elif match := _ROW.fullmatch(line):
            message = match["message"].strip().replace(r"\|", "|")
            found[area, match["what"].replace(r"\|", "|")] = Outcome(int(match["status"]), message)
    return found


def row(case: Case, found: Outcome) -> str:
    """A line of the page."""
    message = found.message.replace("|", r"\|")
    what = case.what.replace("|", r"\|")
    return f"| {what} | `` {message} `` | {found.status} |\n"


def written(text: str, outcomes: dict[Case, Outcome]) -> str:
    """A page with the tables of these outcomes under their headings; the other text stays."""
    areas = dict.fromkeys(case.area for case in outcomes)
    for area in areas:
        table = HEAD + "".join(row(c, o) for c, o in outcomes.items() if c.area == area)
        section = re.compile(rf"(## {re.escape(area)}\n\n)(?:\|[^\n]*\n)*")
        if not section.search(text):
            text = f"{text.rstrip()}\n\n## {area}\n\n"
        text = section.sub(lambda match, table=table: match[1] + table, text)
    return text


def main() -> None:
    """Write the page, or show what single cases say: `bad_inputs.py WORDS OF ITS DESCRIPTION`."""
    import mini_benchmark
    from faults.bad_input_cases import CASES

    words = [word for word in sys.argv[1:] if word != "--write"]
    chosen = [case for case in CASES if all(word in case.what + case.area for word in words)]
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        template = mini_benchmark.make(Path(folder)).parent
        os.environ["PROMPTCLIP_FEATURE_CACHE"] = f"{folder}/features"
        for case in chosen:
            with world(template) as place:
                try:
                    outcomes[case] = found = outcome(case, place)
                except Exception as error:
                    raise RuntimeError(f"{case.area}: {case.what} cannot be made") from error
            if "--write" not in sys.argv or "Traceback" in found.text:
                sys.stdout.write(f"{case.area}: {case.what}\n  {found.status}: {found.message}\n")
    if "--write" in sys.argv:
        PAGE.write_text(written(page(), outcomes), encoding="utf-8")


if __name__ == "__main__":
    import faults.bad_inputs  # the cases are of this module under its name in tests

    faults.bad_inputs.main()
