"""`promptclip grade`: claimed results of a class, checked."""

from __future__ import annotations

import argparse
import logging
import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from promptclip.errors import UserError

log = logging.getLogger(__name__)

EPILOG = """Nothing of a submission is executed, loaded as weights or read as a configuration.
Exit status: 0 if all have passed, 1 if not, 2 for unusable input. docs/grade.md tells more."""
TOLERANCE = "2"  # points; what was measured stands in docs/grade.md
WORK = "grading"


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "grade",
        help="for teachers: check claimed results of a class, or make an assignment",
        description="Compare the hashes of claimed results, do their runs again, and write a sheet "
        "of who has passed and why not.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_grade)
    flag = command.add_argument
    flag("submission", nargs="?", default="", metavar="SUBMISSION",
         help="a folder with a folder or a CSV file for each student, or a CSV file")  # fmt: skip
    flag("--new", default="", metavar="FOLDER", help="make an assignment to start from")
    flag("--fill", default="", metavar="FILE",
         help="for students: SUBMISSION is your output folder; its numbers go into the empty rows "
         "of this CSV file of claims")  # fmt: skip
    flag("--work", default=WORK, metavar="FOLDER",
         help=f"for the sheet and the runs that are done again (default: {WORK})")  # fmt: skip
    flag("--sample", type=_whole, metavar="N",
         help="do N runs of each student again, 0 for none (default: all)")  # fmt: skip
    flag("--seed", type=int, default=1, metavar="S", help="of the sample (default: 1)")
    flag("--tolerance", type=_points, default=TOLERANCE, metavar="POINTS",
         help=f"that an accuracy may be off (default: {TOLERANCE})")  # fmt: skip
    flag("--root", default="", metavar="DIR", help="the folder that holds the data sets")
    flag("--data", action="append", default=[], metavar="PATH",
         help="another data set that may be claimed: own pictures of yours, or a yaml file of "
         "yours; can be repeated")  # fmt: skip
    flag("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
         help="of the assignment, for every run; can be repeated")  # fmt: skip


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _points(text: str) -> Decimal:
    try:
        points = Decimal(text)
    except InvalidOperation:
        points = Decimal(-1)
    if not (points.is_finite() and 0 <= points <= 100):
        raise argparse.ArgumentTypeError(f"expected points from 0 to 100, got {text!r}")
    return points


def _grade(args: argparse.Namespace) -> int:
    from promptclip.grade import assignment

    if args.new:
        if args.submission:
            raise UserError("--new makes an assignment, and grades no submission; give one of both")
        folder = assignment.make(Path(args.new))
        log.info("%s holds the assignment; read its README.md", folder)
        return 0
    if not args.submission:
        raise UserError("give a submission, or --new FOLDER")
    if args.fill:
        left = assignment.fill(Path(args.fill), Path(args.submission))
        for row in left:
            log.info("row %d stays empty: no finished run of it in %s", row, args.submission)
        log.info("%s is filled", args.fill)
        return 1 if left else 0
    return _judged(args)


def _judged(args: argparse.Namespace) -> int:
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from promptclip import data_sets
    from promptclip.grade import sheet, submission
    from promptclip.grade.judge import VERDICTS, judge
    from promptclip.grade.reference import Reference

    work = Path(os.path.abspath(os.path.expanduser(args.work)))
    _refuse_inside(work, args.submission)
    entries = submission.read(args.submission)
    overrides = [part for pair in args.set for part in pair]
    data = [data_sets.find(data_sets.as_path(path), overrides) for path in args.data]
    reference = Reference(work, args.root, data, overrides)
    lines = judge(entries, reference, tolerance=args.tolerance, sample=args.sample, seed=args.seed)
    found = sheet.Sheet(lines, sheet.notes(lines, args.tolerance, args.sample, args.seed))
    sheet.write(found, work)
    for name, verdict, *counts in found.students():
        told = zip(counts, VERDICTS, strict=True)
        log.info("%s: %s (%s)", name, verdict, ", ".join(f"{n} {what}" for n, what in told))
    log.info("%s", ", ".join(str(work / name) for name in sheet.FILES))
    return 0 if found.passed else 1


def _refuse_inside(work: Path, submission: str) -> None:
    """Keep finished runs of a student's from being taken for ours, and ours from being claimed."""
    theirs, ours = Path(submission).expanduser().resolve(), work.resolve()
    if theirs.is_dir() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours)):
        raise UserError(
            f"the folder for our own runs, {work}, and the submission {theirs} lie in each other; "
            "give another --work"
        )
