"""From entries to verdicts: all hashes are compared, and as many runs as wanted are done again."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from promptclip.cell import Run
from promptclip.config import configs_dir
from promptclip.errors import UserError
from promptclip.grade.claims import Claim, impossible, parse
from promptclip.grade.reference import Reference, rerun
from promptclip.grade.submission import Entry
from promptclip.tree import Place

log = logging.getLogger(__name__)

PASS, FAIL, NOT_RERUN, OPEN = "pass", "fail", "not rerun", "undecided"
VERDICTS = (PASS, FAIL, NOT_RERUN, OPEN)


@dataclass
class Line:
    """An entry, and what is to be said of it.

    Attributes:
        claim: None if the entry could not be understood.
        run: the run here; None if there is none.
        faults: why it fails.
        troubles: why it cannot be decided here, which is not the student's fault.
        accuracy: of the run that was done again; None if it was not.
    """

    entry: Entry
    claim: Claim | None = None
    run: Run | None = None
    faults: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    accuracy: float | None = None

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        if self.faults:
            return FAIL
        if self.troubles:
            return OPEN
        return NOT_RERUN if self.accuracy is None else PASS

    @property
    def difference(self) -> Decimal | None:
        """Of the claimed accuracy to the one of the run here."""
        if self.claim is None or self.accuracy is None:
            return None
        return self.claim.accuracy - Decimal(repr(self.accuracy))

    @property
    def sound(self) -> bool:
        """Whether nothing has been found so far."""
        return not (self.faults or self.troubles)


def judge(
    entries: Iterable[Entry],
    reference: Reference,
    *,
    tolerance: Decimal,
    sample: int | None = None,
    seed: int = 1,
) -> list[Line]:
    """Judge all entries.

    Args:
        entries: of a submission.
        reference: does the runs.
        tolerance: in points, that a claimed accuracy may be off.
        sample: claims of each student that are done again; None for all.
        seed: of the sample.
    """
    lines = [_understood(entry, reference) for entry in entries]
    _refuse_twice(lines)
    for line in lines:
        if line.sound:
            _compare_hashes(line, reference)
    chosen = _chosen([line for line in lines if line.sound], sample, seed)
    _rerun(chosen, tolerance)
    return lines


def _understood(entry: Entry, reference: Reference) -> Line:
    line = Line(entry, faults=[entry.fault] if entry.fault else [])
    if line.faults:
        return line
    try:
        line.claim = parse(entry.values)
        line.run = reference.run(line.claim.place)
    except UserError as error:
        # What this machine calls its folders is nothing to a student.
        line.faults.append(str(error).replace(str(configs_dir()), "configs"))
    return line


def _refuse_twice(lines: Sequence[Line]) -> None:
    """A run counts once for each student; if it is claimed in two ways, not at all.

    Its result and the row of a table that says the same are no two claims.
    """
    seen: dict[tuple[str, Place], list[tuple[Line, Claim]]] = {}
    for line in lines:
        if line.claim is None or line.run is None:
            continue
        before = seen.setdefault((line.entry.student, line.run.place), [])
        for earlier, claim in before:
            agree = line.claim.agrees(claim)
            if not agree and not earlier.faults:
                earlier.faults.append(f"claimed otherwise in {line.entry.where}")
            if not agree or bool(earlier.entry.row) == bool(line.entry.row):
                line.faults.append(f"the same run as {earlier.entry.where}")
                break
        before.append((line, line.claim))


def _compare_hashes(line: Line, reference: Reference) -> None:
    claim, run = line.claim, line.run
    if claim is None or run is None:
        return
    try:
        pictures = reference.pictures(run)
    except Exception as error:
        if not isinstance(error, UserError):
            log.error("%s", line.entry.where, exc_info=True)
        line.troubles.append(f"cannot be checked here: {error}")
        return
    for kind, claimed, ours, what in (
        ("config", claim.config_hash, run.config_hash,
         "other settings than those of this assignment"),
        ("split", claim.split_hash, pictures.split_hash,
         "other pictures than those of this data set, shots and seed"),
    ):  # fmt: skip
        if not ours.startswith(claimed):
            line.faults.append(f"{kind} hash {claimed[:16]} is not {ours[:16]}: {what}")
    if fault := impossible(claim, pictures.num_test):
        line.faults.append(fault)


def _chosen(lines: Sequence[Line], sample: int | None, seed: int) -> list[Line]:
    """The lines to be done again: so many of each student, by the hash of what they claim.

    So it does not depend on what others have handed in.
    """
    if sample is None:
        return list(lines)

    def order(line: Line) -> bytes:
        place = line.run.place.path.as_posix() if line.run else ""
        text = f"{seed} {line.entry.student} {place}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest()

    students = dict.fromkeys(line.entry.student for line in lines)
    chosen = []
    for student in students:
        own = sorted((line for line in lines if line.entry.student == student), key=order)
        chosen += own[:sample]
    return chosen


def _rerun(lines: Sequence[Line], tolerance: Decimal) -> None:
    """Do each run once, however many claim it, and compare."""
    by_place: dict[Place, list[Line]] = {}
    for line in lines:
        if line.run:
            by_place.setdefault(line.run.place, []).append(line)
    for number, (place, claimed) in enumerate(sorted(by_place.items()), 1):
        label = f"[{number}/{len(by_place)}] {place}"
        start = time.perf_counter()
        try:
            accuracy = _accuracy(claimed)
        except Exception as error:
            log.error("%s: failed: %s", label, error, exc_info=not isinstance(error, UserError))
            for line in claimed:
                line.troubles.append(f"the run failed here: {error}")
            continue
        log.info("%s: %.2f %% (%.0f s)", label, accuracy, time.perf_counter() - start)
        for line in claimed:
            line.accuracy = accuracy
            line.faults += _too_far(line, tolerance)


def _accuracy(lines: Sequence[Line]) -> float:
    run = lines[0].run
    metrics = rerun(run)["metrics"] if run else None
    if not metrics:
        raise UserError("it tests nothing")
    return float(metrics["accuracy"])


def _too_far(line: Line, tolerance: Decimal) -> Iterator[str]:
    if line.claim is None or line.difference is None:
        return
    if abs(line.difference) > tolerance + line.claim.rounding:
        yield (
            f"claimed {line.claim.accuracy}, here {line.accuracy:.2f}: {line.difference:+.2f} "
            f"points, and {tolerance} are tolerated"
        )
