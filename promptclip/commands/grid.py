"""`promptclip grid`: many runs by many processes, and how they stand."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip.commands.grid_input import (
    DEFAULTS,
    LAUNCHERS,
    given,
    number_of,
    refuse_idle_flags,
    seats_of,
    spans,
    spec_of,
)
from promptclip.commands.protocols import names, targets
from promptclip.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from promptclip.grid.plan import Spec
    from promptclip.grid.status import Reader, Status
    from promptclip.tree import Place

log = logging.getLogger(__name__)

EPILOG = """The same command goes on with what is not finished, and tries again what has failed.
`promptclip grid status [DIR]` shows how it stands, `promptclip grid work DIR` adds workers from
another terminal or machine. A yaml file holds the flags, without their dashes. See docs/grid.md."""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "grid",
        help="methods x data sets x protocols x shots x seeds, by many processes",
        description="Plan many runs once and work them off from a queue.",
        epilog=EPILOG,
        usage="promptclip grid METHODS --datasets ... | FILE.yaml | status [DIR] | work DIR",
        argument_default=None,
    )
    command.set_defaults(command=_grid)
    flag = command.add_argument
    flag("what", metavar="METHODS", help="such as coop,dapt, or all; a yaml file; status; work")
    flag("folder", nargs="?", metavar="DIR", help="of a grid (default: the newest in --output)")
    flag("--datasets", type=targets, metavar="A[,B...]", help="names or yaml files, or all")
    flag("--protocol", type=names, metavar="P[,P...]",
         help="fewshot, base2new, xd, dg, imbalance (default: fewshot)")  # fmt: skip
    flag("--shots", type=spans, metavar="K[,K...]", help="(default: each protocol's own)")
    flag("--seeds", type=spans, metavar="S[,S...]", help="such as 1,2,3 or 1-3 (default: 1-3)")
    flag("--targets", type=targets, metavar="A[,B...]",
         help="what xd and dg test on (default: the usual ones of each source)")  # fmt: skip
    flag("--cfg", metavar="NAME", help="the methods' yaml (default: the data set's)")
    flag("--root", metavar="DIR", help="the folder that holds the data sets")
    flag("--output", metavar="DIR", help="(default: output)")
    flag("--name", help="of the grid's folder in OUTPUT/grid (default: from what is asked for)")
    flag("--set", nargs=2, action="append", metavar=("KEY", "VALUE"),
         help="any configuration key; can be repeated")  # fmt: skip
    flag("--workers", type=int, metavar="N",
         help="processes; with slurm, jobs (default: 1, or --per-gpu on each GPU)")  # fmt: skip
    flag("--gpus", type=names, metavar="G[,G...]", help="such as 0,1")
    flag("--per-gpu", type=int, metavar="N", help="workers that share a GPU (default: 1)")
    flag("--launcher", choices=LAUNCHERS, help="(default: local)")
    flag("--slurm", metavar="KEY=VALUE[,...]",
         help="options of sbatch (default: the environment's PROMPTCLIP_SLURM)")  # fmt: skip
    flag("--dry-run", action="store_true", help="say what would be run and how long it takes")
    flag("--watch", action="store_true", help="status: go on showing it")
    flag("--worker", help=argparse.SUPPRESS)  # the name of a single worker, for pools


def _grid(args: argparse.Namespace) -> int:
    if args.worker:
        from promptclip.grid.worker import work

        status = work(Path(args.folder), args.worker)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)  # to take torch apart takes seconds that a preempted job may not have
    refuse_idle_flags(args)
    if args.what in ("status", "work"):
        return _of_a_folder(args)
    if args.folder:
        raise UserError(f"methods are one word with commas; got {args.what} and {args.folder}")
    asked = given(args)
    # What is wrong with the seats shall not wait for a long plan.
    seats = seats_of(asked)
    spec = spec_of(asked)
    if args.dry_run:
        return _dry_run(spec, asked["output"], len(seats))
    return _start(spec, asked, seats)


def _of_a_folder(args: argparse.Namespace) -> int:
    """`grid status` and `grid work`."""
    from promptclip.grid import plan, status

    folder = Path(os.path.abspath(args.folder or plan.newest(args.output or DEFAULTS["output"])))
    if args.what == "work":
        return _work(folder, seats_of(given(args)))
    reader = status.Reader(folder)
    if args.watch:
        with _live(reader) as tick:
            while tick().open:
                time.sleep(1)
    now = reader.read()
    _console().print(status.shown(now, folder))
    return 1 if now.failed or now.skipped else 0


def _dry_run(spec: Spec, output: str, workers: int) -> int:
    from promptclip.grid import plan

    planned = plan.make(spec, output)
    for note in planned.notes:
        log.info("%s", note)
    todo = []
    for number, run in enumerate(planned.runs, 1):
        state = run.state
        log.info("[%d/%d] %s", number, len(planned.runs), run.plan(state))
        if state != "done":
            todo.append(run.place)
    log.info("%d runs, %d of them to do", len(planned.runs), len(todo))
    if todo:
        log.info("%s", _estimated(todo, output, workers))
    for line in planned.skipped:
        log.error("failed: %s", line)
    return 1 if planned.skipped else 0


def _estimated(todo: Sequence[Place], output: str, workers: int) -> str:
    """How long runs will take, going by all that have finished below the output folder."""
    from promptclip.grid.estimate import Estimate, from_tree, told

    seconds, unknown = Estimate(from_tree(Path(output))).total(todo)
    if unknown == len(todo):
        return f"no finished run in {output} to estimate the time from"
    shared = f", {told(seconds / workers)} for {workers}" if workers > 1 else ""
    rest = f"; {unknown} runs are of a kind that has not finished yet" if unknown else ""
    how = f"going by the finished runs in {output}"
    return f"about {told(seconds)} for one worker{shared}, {how}{rest}"


def _start(spec: Spec, asked: Mapping[str, Any], seats: list[dict[str, str]]) -> int:
    from promptclip.grid import plan, slurm
    from promptclip.grid.queue import Queue
    from promptclip.lock import locked
    from promptclip.run import traceless

    options = asked["slurm"] or os.environ.get(slurm.ENVIRONMENT, "")
    if not isinstance(options, str):  # of a yaml file
        options = " ".join(f"{key}={value}" for key, value in options.items())
    options = slurm.options_of(options)
    folder = plan.folder_of(asked["output"], asked["name"] or spec.name)
    with traceless(folder) as keep, locked(folder):
        stored = plan.store(spec, folder)
        keep()
        log.info("%d runs in %s", len(stored.runs), folder)
        if asked["launcher"] == "slurm" and (jobs := slurm.jobs(folder)):
            log.info("%d jobs are in Slurm's queue already: %s", len(jobs), " ".join(jobs))
            return 0
        queue = Queue(folder)
        queue.forgive()
        queue.withdraw_damaged()
        if asked["launcher"] == "local" or not queue.left():
            return _work(folder, seats)
        jobs = slurm.submit(folder, len(seats), number_of(asked, "per_gpu"), options)
        log.info("%d jobs sent to Slurm: %s", len(jobs), " ".join(jobs))
        log.info("promptclip grid status %s shows how it stands", folder)
        return 0


def _work(folder: Path, seats: list[dict[str, str]]) -> int:
    """Work on a stored plan until it is done; gives the exit status."""
    from promptclip.grid import pool, status

    reader = status.Reader(folder)
    with _live(reader) as tick:
        pool.Pool(folder, seats).run(tick)
    now = reader.read()
    for line in status.failures(now):
        log.error("%s", line)
    log.info("%d of %d runs are done, %d failed; promptclip table %s",
             len(now.done), len(now.places), len(now.failed), folder.parents[1])  # fmt: skip
    return 0 if now.complete else 1


@contextlib.contextmanager
def _live(reader: Reader) -> Iterator[Callable[[], Status]]:
    """Gives what tells how it stands, and shows the news: bars on a terminal, else lines."""
    from rich.live import Live

    from promptclip.grid import status

    now = reader.read()
    console = _console()
    bars = Live(status.shown(now, reader.folder), console=console, transient=True)

    def show(found: Status | None) -> Status:
        nonlocal now
        if found and console.is_terminal:
            bars.update(status.shown(found, reader.folder))
        elif found:
            for line in status.news(now, found):
                log.info("%s", line)
        now = found or now
        return now

    with bars if console.is_terminal else contextlib.nullcontext():
        yield lambda: show(reader.poll())
    show(reader.read())


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)
