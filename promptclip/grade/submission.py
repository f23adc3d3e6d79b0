"""What lies in a submission: rows of CSV files and results of runs, by student, in their own words.

Only CSV files and `result.json` are opened. Links are not followed, so that nothing outside the
submission, and nothing of another student's, can be claimed. What cannot be read is an entry too,
with its fault.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptclip import results
from promptclip.errors import UserError
from promptclip.tree import Place, find

# Of a CSV file, in the order in which the template has them.
COLUMNS = (
    *("student", "method", "cfg", "dataset", "protocol", "target", "shots", "seed"),
    *("split_hash", "config_hash", "accuracy"),
)
OPTIONAL = frozenset({"student", "cfg", "target"})
MAX_BYTES = 16 * 2**20  # of a file; the result of a run on ImageNet has 200 kB
MAX_ROWS = 10_000  # of a CSV file


@dataclass(frozen=True)
class Entry:
    """A row of a CSV file or the result of a run.

    Attributes:
        student: whose it is.
        file: its path below the submission, with slashes.
        row: of a CSV file, whose head is row 1; 0 for a result.
        values: by column; what is not said is "".
        fault: why it cannot be read; "" if it can.
    """

    student: str
    file: str
    row: int = 0
    values: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def where(self) -> str:
        """Such as "ann/claims.csv, row 3"."""
        return f"{self.file}, row {self.row}" if self.row else self.file


def read(submission: str | Path) -> list[Entry]:
    """All that is claimed in a folder or in a CSV file.

    In a folder, each sub-folder is a student's; a file that lies in the folder itself names its
    students in a column, or is the one it is called after.

    Raises:
        UserError: if there is no such submission, it cannot be read, or it claims nothing.
    """
    root = Path(os.path.abspath(os.path.expanduser(submission)))
    if root.is_dir():
        entries = list(_in_folder(root))
    elif root.exists():
        entries = list(_in_csv(root, root.parent))
        if len(entries) == 1 and not entries[0].row:
            raise UserError(f"{root}: {entries[0].fault}")
    else:
        raise UserError(f"no folder or CSV file {root}; give a submission, or --new FOLDER")
    if not entries:
        raise UserError(
            f"{root} claims nothing; expected CSV files with the columns {', '.join(COLUMNS)}, or "
            f"output trees with {results.RESULT_FILE} in them"
        )
    return entries


def _in_folder(root: Path) -> Iterator[Entry]:
    def told(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for top, folders, files in os.walk(root, onerror=told):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        folder = Path(top)
        for name in folders:
            if (folder / name).is_symlink():
                yield _faulty(folder / name, root, _LINK)
        for name in sorted(files):
            if name == results.RESULT_FILE:
                yield _in_result(folder / name, root)
            elif name.lower().endswith(".csv") and name[0] != ".":
                yield from _in_csv(folder / name, root)


_LINK = "is a link, and links are not followed: hand in what it leads to"


def _faulty(path: Path, root: Path, fault: str, student: str = "") -> Entry:
    return Entry(student or _owner(path, root), _below(path, root), fault=fault)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _owner(path: Path, root: Path) -> str:
    """The student whose folder a path lies in, or the name of what lies in none."""
    first, *rest = path.relative_to(root).parts
    return first if rest else Path(first).stem


def _unreadable(path: Path) -> str:
    """Why a file is not opened; "" for one that is."""
    try:
        status = path.lstat()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISLNK(status.st_mode):
        return _LINK
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_size > MAX_BYTES:
        return f"is too large: {status.st_size:,} bytes, and at most {MAX_BYTES:,} are read"
    return ""


def _in_result(path: Path, root: Path) -> Entry:
    """What a run has measured, with the place in the tree for what it is."""
    relative = Path(os.sep, path.parent.relative_to(root))
    place = find(relative)
    student = _owner(path, root)
    if place is None:
        return _faulty(
            path,
            root,
            "lies in no folder of an output tree, such as "
            "fewshot/<dataset>/shots_<k>/<method>/<cfg>/seed<s>/",
        )
    above = relative.parts[1 : len(relative.parts) - len(place.path.parts)]
    student = above[0] if above else root.name
    if fault := _unreadable(path):
        return _faulty(path, root, fault, student)
    try:
        result = results.read(path.parent)
    except RecursionError:  # nested so that it cannot be hashed
        result = None
    except UserError:
        return _faulty(path, root, "is of a newer promptclip than this one", student)
    if result is None:
        return _faulty(
            path, root, "is not as promptclip wrote it: its checksum does not fit", student
        )
    said = [result.get(key) for key in ("shots", "method", "subsample", "seed")]
    if said != [place.shots, place.method, place.classes, place.seed]:
        return _faulty(path, root, "is of another run than its folder says", student)
    return Entry(student, _below(path, root), values=_values(place, result))


def _values(place: Place, result: Mapping[str, Any]) -> dict[str, str]:
    metrics = result.get("metrics")
    accuracy = metrics.get("accuracy") if isinstance(metrics, dict) else None
    said = {
        "method": place.method,
        "cfg": place.cfg,
        "dataset": place.dataset,
        "protocol": place.protocol,
        "target": place.target,
        "shots": place.shots,
        "seed": place.seed,
        "split_hash": result.get("split_hash"),
        "config_hash": result.get("config_hash"),
        "accuracy": accuracy,
    }
    return {key: "" if value is None else str(value) for key, value in said.items()}


def _in_csv(path: Path, root: Path) -> Iterator[Entry]:
    if fault := _unreadable(path):
        yield _faulty(path, root, fault)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        yield _faulty(path, root, f"cannot be read ({error.strerror})")
        return
    except UnicodeDecodeError:
        yield _faulty(path, root, "is no text in UTF-8; save it as CSV in UTF-8")
        return
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            if number == 1:
                columns = columns_of(row)
                if fault := _wrong_columns(columns):
                    yield _faulty(path, root, fault)
                    return
            elif number > MAX_ROWS:
                yield _faulty(path, root, f"has more than {MAX_ROWS:,} rows")
                return
            elif any(cell.strip() for cell in row):
                yield _entry(path, root, number, columns, row)
    except csv.Error as error:
        fault = f"cannot be read as CSV from row {number + 1} on ({error})"
        yield _faulty(path, root, fault)
        return
    if not columns:
        yield _faulty(path, root, "is empty")


def columns_of(head: Sequence[str]) -> list[str]:
    """The columns that the first row of a table names, however it writes them."""
    return ["_".join(name.lower().split()) for name in head]


def _wrong_columns(columns: Sequence[str]) -> str:
    if lost := [name for name in COLUMNS if name not in columns and name not in OPTIONAL]:
        hint = "; put commas between them" if any(";" in name for name in columns) else ""
        return f"is no table of claims: there is no column {', '.join(lost)}{hint}"
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        return f"has the column {twice[0]} twice"
    return ""


def _entry(path: Path, root: Path, number: int, columns: list[str], row: list[str]) -> Entry:
    cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
    values = {name: cells.get(name, "") for name in COLUMNS}
    fault = ""
    if len(row) != len(columns):
        fault = f"has {len(row)} cells, and the head has {len(columns)}"
    named, owner = values["student"], _owner(path, root)
    if path.parent == root:  # in no student's folder
        student = named or owner
    else:
        student = owner
        if named and named != owner:
            fault = fault or f"claims for {named!r:.100} in the folder of {owner!r:.100}"
    return Entry(student, _below(path, root), number, values, fault)
