"""`promptclip grid`: many runs by many processes, and how they stand."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip.commands.protocols import names, targets
from promptclip.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from promptclip.grid.plan import Spec
    from promptclip.grid.status import Reader, Status

log = logging.getLogger(__name__)

EPILOG = """The same command goes on with what is not finished, and tries again what has failed.
`promptclip grid status [DIR]` shows how it stands, `promptclip grid work DIR` adds workers from
another terminal or machine. A yaml file holds the flags, without their dashes. See docs/grid.md."""

LAUNCHERS = ("local", "slurm")
# Of the flags and of a yaml file; what is not given here or there.
DEFAULTS: dict[str, Any] = {
    "methods": (),
    "datasets": (),
    "protocol": ("fewshot",),
    "shots": (),
    "seeds": (1, 2, 3),
    "targets": (),
    "cfg": "",
    "root": "",
    "set": (),
    "output": "output",
    "name": "",
    "workers": None,
    "gpus": (),
    "per_gpu": 1,
    "launcher": "local",
    "slurm": "",
}


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
    flag("what", metavar="METHODS", help="such as coop,dapt; a yaml file; status; work")
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


def spans(text: str) -> list[int]:
    """Whole numbers, with 1-3 for 1, 2, 3; argparse shows this function's name in its error."""
    found: list[int] = []
    for word in names(text):
        first, dash, last = word.partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise ValueError(f"{word} goes backwards")
        found += numbers
    return found


def _grid(args: argparse.Namespace) -> int:
    if args.worker:
        from promptclip.grid.worker import work

        status = work(Path(args.folder), args.worker)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)  # to take torch apart takes seconds that a preempted job may not have
    if args.what in ("status", "work"):
        return _of_a_folder(args)
    if args.folder:
        raise UserError(f"methods are one word with commas; got {args.what} and {args.folder}")
    given = _given(args)
    # What is wrong with the seats shall not wait for a long plan.
    seats = _seats(given)
    spec = _spec(given)
    if args.dry_run:
        return _dry_run(spec, given["output"], len(seats))
    return _start(spec, given, seats)


def _of_a_folder(args: argparse.Namespace) -> int:
    """`grid status` and `grid work`."""
    from promptclip.grid import plan, status

    given = args.folder or plan.newest(args.output or DEFAULTS["output"])
    folder = Path(os.path.abspath(given))
    if args.what == "work":
        return _work(folder, _seats(_given(args)))
    reader = status.Reader(folder)
    if args.watch:
        with _live(reader) as tick:
            while reader.read().open:
                tick()
                time.sleep(1)
    now = reader.read()
    _console().print(status.shown(now, folder))
    return 1 if now.failed or now.skipped else 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Flags, before those of the yaml file, before the defaults."""
    flags = {key: getattr(args, key) for key in DEFAULTS if getattr(args, key, None) is not None}
    if not args.what.endswith((".yaml", ".yml")):
        return DEFAULTS | {"methods": args.what} | flags
    from promptclip.config import closest, read_yaml

    content = read_yaml(args.what)
    for key in content.keys() - DEFAULTS.keys():
        match = closest(key, list(DEFAULTS))
        hint = f", did you mean {match}?" if match else ""
        raise UserError(f"{args.what}: unknown key {key}{hint}; there are {', '.join(DEFAULTS)}")
    for key in ("set", "slurm"):
        if not isinstance(content.get(key, {}), Mapping):
            raise UserError(f"{args.what}: {key} must hold KEY: VALUE lines, got {content[key]!r}")
    if content.get("launcher", "local") not in LAUNCHERS:
        raise UserError(f"{args.what}: launcher must be one of {', '.join(LAUNCHERS)}")
    return DEFAULTS | content | flags


def _spec(given: Mapping[str, Any]) -> Spec:
    from promptclip.grid.plan import Spec

    pairs = given["set"].items() if isinstance(given["set"], Mapping) else given["set"]
    return Spec(
        methods=_words(given["methods"]),
        datasets=_words(given["datasets"]),
        protocols=_words(given["protocol"]),
        shots=_whole(given, "shots"),
        seeds=_whole(given, "seeds"),
        targets=_words(given["targets"]),
        cfg=given["cfg"],
        root=given["root"],
        overrides=tuple(_plain(part) for pair in pairs for part in pair),
    ).absolute()


def _seats(given: Mapping[str, Any]) -> list[dict[str, str]]:
    from promptclip.grid.pool import seats

    numbers = {key: _whole(given, key) for key in ("workers", "per_gpu") if given[key] is not None}
    workers, per_gpu = (next(iter(numbers.get(key, ())), None) for key in ("workers", "per_gpu"))
    return seats(workers, _words(given["gpus"]), per_gpu or 0)


def _words(value: Any) -> tuple[str, ...]:
    """A list of a flag or of a yaml file, which may also have one text or number."""
    return tuple(map(str, value)) if isinstance(value, list | tuple) else tuple(names(str(value)))


def _whole(given: Mapping[str, Any], key: str) -> tuple[int, ...]:
    try:
        return tuple(spans(",".join(_words(given[key]))))
    except ValueError:
        raise UserError(f"{key} must be whole, such as 1,2 or 1-3; got {given[key]!r}") from None


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _dry_run(spec: Spec, output: str, workers: int) -> int:
    from promptclip.grid import plan
    from promptclip.grid.estimate import Estimate, from_tree, told
    from promptclip.run import state

    planned, _ = plan.make(spec, output)
    for note in planned.notes:
        log.info("%s", note)
    todo = []
    for number, run in enumerate(planned.runs, 1):
        log.info("[%d/%d] %s", number, len(planned.runs), run.plan())
        if state(run.cfg, **run.how) != "done":
            todo.append(run.place)
    log.info("%d runs, %d of them to do", len(planned.runs), len(todo))
    seconds, unknown = Estimate(from_tree(Path(output))).total(todo)
    if todo and unknown == len(todo):
        log.info("no finished run in %s to estimate the time from", output)
    elif todo:
        shared = f", {told(seconds / workers)} for {workers}" if workers > 1 else ""
        rest = f"; {unknown} runs are of a kind that has not finished yet" if unknown else ""
        log.info("about %s for one worker%s, going by the finished runs in %s%s",
                 told(seconds), shared, output, rest)  # fmt: skip
    for line in planned.skipped:
        log.error("failed: %s", line)
    return 1 if planned.skipped else 0


def _start(spec: Spec, given: Mapping[str, Any], seats: list[dict[str, str]]) -> int:
    from promptclip.grid import plan, slurm
    from promptclip.grid.queue import Queue
    from promptclip.lock import locked
    from promptclip.run import traceless

    options = given["slurm"] or os.environ.get(slurm.ENVIRONMENT, "")
    if not isinstance(options, str):  # of a yaml file
        options = " ".join(f"{key}={value}" for key, value in options.items())
    options = slurm.options_of(options)
    folder = plan.folder_of(given["output"], given["name"] or spec.name)
    with traceless(folder) as keep, locked(folder):
        stored = plan.store(spec, folder)
        keep()
        log.info("%d runs in %s", len(stored.runs), folder)
        if given["launcher"] == "slurm" and (jobs := slurm.jobs(folder)):
            log.info("%d jobs are in Slurm's queue already: %s", len(jobs), " ".join(jobs))
            return 0
        queue = Queue(folder)
        queue.forgive()
        if given["launcher"] == "local" or not queue.left():
            return _work(folder, seats)
        jobs = slurm.submit(folder, len(seats), _whole(given, "per_gpu")[0], options)
        log.info("%d jobs sent to Slurm: %s", len(jobs), " ".join(jobs))
        log.info("promptclip grid status %s shows how it stands", folder)
        return 0


def _work(folder: Path, seats: list[dict[str, str]]) -> int:
    """Work on a stored plan until it is done; gives the exit status."""
    from promptclip.grid import pool, status

    reader = status.Reader(folder)
    with _interruptible(), _live(reader) as tick:
        pool.Pool(folder, seats).run(tick)
    now = reader.read()
    for line in status.failures(now):
        log.error("%s", line)
    log.info("%d of %d runs are done, %d failed; promptclip table %s",
             len(now.done), len(now.places), len(now.failed), folder.parents[1])  # fmt: skip
    return 0 if now.complete else 1


@contextlib.contextmanager
def _live(reader: Reader) -> Iterator[Callable[[], None]]:
    """Gives what shows the news when it is called: bars on a terminal, else lines."""
    from rich.live import Live

    from promptclip.grid import status

    before = reader.read()
    console = _console()
    if console.is_terminal:
        with Live(status.shown(before, reader.folder), console=console, transient=True) as live:
            yield lambda: _each(reader, lambda now: live.update(status.shown(now, reader.folder)))
        return

    def say(now: Status) -> None:
        nonlocal before
        for line in status.news(before, now):
            log.info("%s", line)
        before = now

    yield lambda: _each(reader, say)


def _each(reader: Reader, show: Callable[[Status], None]) -> None:
    if now := reader.poll():
        show(now)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have a closed terminal and a plain `kill` do what ctrl-C does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True)
