"""Examines benchmarks on disk: whole or not, what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from promptclip import pictures, plugins
from promptclip.benchmark import Benchmark, Sizes, class_faults, shared_pictures
from promptclip.data_sources import ARCHIVES, SOURCES
from promptclip.errors import UserError
from promptclip.few_shot import Picture
from promptclip.pictures import Trouble

if TYPE_CHECKING:
    from rich.progress import Progress
    from yacs.config import CfgNode

SAMPLE = 200  # pictures of a benchmark whose heads are read without `deep`
CHUNK = 256  # pictures that a worker takes at once
PARTS = ("training", "validation", "test")
PUBLISHED = ("coop", "data set")  # origins of splits that published sizes and results are of

Parts = tuple[Sequence[Picture], Sequence[Picture] | None, Sequence[Picture]]


@dataclass
class Report:
    """What is on disk of one benchmark.

    Attributes:
        state: "absent"; "broken" if there is a fault; "complete" if it is whole and has the
            published sizes; "present" if it is whole and no sizes are published.
        sizes: what was found; None if that could not be read.
        comparable: there are published sizes, and the split is one that they are of.
        faults: what is wrong and what to do.
        notes: what is worth knowing and no fault.
    """

    name: str
    folder: str
    state: str = "absent"
    sizes: Sizes | None = None
    comparable: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(
    names: Sequence[str],
    root: str,
    progress: Progress,
    *,
    deep: bool = False,
    workers: int | None = None,
) -> Iterator[Report]:
    """Examine benchmarks one after the other.

    Args:
        names: registered names or short ones; empty for the public benchmarks and all others
            that are there.
        root: the folder that holds the benchmarks.
        progress: shows how far it is.
        deep: decode every picture, instead of the heads of a sample.
        workers: threads that look for pictures, processes that decode them.

    Raises:
        UserError: if `root` or a name is not what it should be.
    """
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        raise UserError(f"{root}: expected the folder that holds the data sets, there is none")
    kinds = [plugins.benchmark(name) for name in names] or _usual(root)
    workers = workers or min(8, os.cpu_count() or 1)
    with _Workers(workers, deep, progress) as pool:
        for kind in kinds:
            yield _examine(kind, root, pool)


def look(root: str) -> Iterator[Report]:
    """The public benchmarks and all others that are there: what lies where, and no more.

    Neither lists nor pictures are read: `sizes` stays None, and `state` is "absent", "broken" or
    "present".

    Raises:
        UserError: if `root` is no folder.
    """
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        raise UserError(f"{root}: expected the folder that holds the data sets, there is none")
    for kind in _usual(root):
        report = Report(plugins.short_name(kind.__name__), os.path.join(root, kind.dataset_dir))
        there = os.path.isdir(report.folder)
        try:
            if there:
                benchmark = kind.at(_cfg(root))
                report.faults += _layout_faults(benchmark, list(benchmark.missing()))
            else:
                report.notes += _elsewhere(kind, root)
                report.faults += _dangling(report.folder)
        except OSError as error:
            report.faults.append(f"the folder cannot be read ({error}); see to its permissions")
        report.state = "broken" if report.faults else "present" if there else "absent"
        yield report


def _usual(root: str) -> list[type[Benchmark]]:
    plugins.load_plugins()
    from dassl.data.datasets import DATASET_REGISTRY

    found = [DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()]
    ours = [kind for kind in found if isinstance(kind, type) and issubclass(kind, Benchmark)]
    ours = [kind for kind in ours if kind.dataset_dir]  # else it is told where it is at each run
    return [k for k in ours if k.sizes or os.path.lexists(os.path.join(root, k.dataset_dir))]


def _examine(kind: type[Benchmark], root: str, pool: _Workers) -> Report:
    report = Report(plugins.short_name(kind.__name__), os.path.join(root, kind.dataset_dir))
    there = os.path.isdir(report.folder)
    try:
        if there:
            _examine_folder(kind.at(_cfg(root)), report, pool)
        else:
            report.notes += _elsewhere(kind, root)
            report.faults += _dangling(report.folder)
    except OSError as error:
        report.faults.append(f"the folder cannot be read ({error}); see to its permissions")
    whole = "complete" if report.comparable else "present"
    report.state = "broken" if report.faults else whole if there else "absent"
    return report


def _examine_folder(benchmark: Benchmark, report: Report, pool: _Workers) -> None:
    missing = list(benchmark.missing())
    report.faults += _layout_faults(benchmark, missing)
    report.notes += _leftovers(benchmark)
    if missing and not benchmark.split_path.is_file():
        return
    try:
        with pool.busy(f"{report.name}: reading lists"):  # ImageNet's name a million files
            parts: Parts = benchmark.read_split()
    except UserError as error:
        report.faults.append(str(error))
        return
    report.sizes = Sizes.of(*((None, None, parts[2]) if benchmark.test_only else parts))
    report.comparable = benchmark.sizes is not None and benchmark.split_origin in PUBLISHED
    report.faults += _split_faults(benchmark, parts)
    if report.comparable:
        report.faults += _size_faults(benchmark, parts, report.sizes)
    elif benchmark.sizes:
        report.notes.append(
            f"the split is {benchmark.split_origin!r}, not CoOp's: its sizes are not compared, and "
            "results with it cannot be compared with published ones"
        )
    report.notes += _known_names(benchmark, parts)
    if not missing:
        report.faults += _picture_faults(benchmark, parts, pool)


def _cfg(root: str) -> CfgNode:
    from dassl.config import get_cfg_default

    cfg: CfgNode = get_cfg_default()
    cfg.DATASET.ROOT = root
    return cfg


# What lies where


def _elsewhere(kind: type[Benchmark], root: str) -> Iterator[str]:
    """Folders of the root that look like an absent benchmark under another name."""
    source = SOURCES.get(kind.__name__)
    names = (
        kind.__name__,
        plugins.short_name(kind.__name__),
        kind.dataset_dir,
        *(source.also_called if source else ()),
    )
    wanted = set(map(_plain, names))
    for entry in sorted(os.listdir(root)):
        if _plain(entry) in wanted and os.path.isdir(os.path.join(root, entry)):
            yield (
                f"{entry}/ looks like it; here it must be called {kind.dataset_dir}/ and laid out "
                "as CoOp's"
            )


def _dangling(path: str) -> Iterator[str]:
    if os.path.islink(path):
        yield f"{path} is a link to {os.readlink(path)}, which is not there; mend the link"
    elif os.path.lexists(path):
        yield f"{path} is no folder; move it away"


def _layout_faults(benchmark: Benchmark, missing: Sequence[str]) -> Iterator[str]:
    for path in missing:
        if broken := list(_dangling(path)):
            yield broken[0]
        elif os.path.basename(path) == benchmark.split_file:
            yield from _no_split(benchmark, path)
        else:
            yield f"{path} is missing; {_where(benchmark, path)}"
    for need in benchmark.needs:
        path = os.path.join(benchmark.dataset_dir, need)
        if os.path.isdir(path) and not os.listdir(path):
            yield f"{path} is empty; {_where(benchmark, path)}"


def _no_split(benchmark: Benchmark, path: str) -> Iterator[str]:
    source = SOURCES.get(type(benchmark).__name__)
    place = f"get CoOp's from {source.split}" if source else "put it there"
    yield (
        f"{path} is missing; {place}, or make one (promptclip data split), with which results "
        "cannot be compared with published ones"
    )
    for raw in benchmark.raw:
        path = os.path.join(benchmark.dataset_dir, raw)
        if not os.path.exists(path):
            yield (
                f"{path} is missing; without it and the split file nothing says which picture is "
                f"what: {_source_of(benchmark)}"
            )


def _where(benchmark: Benchmark, path: str) -> str:
    """What to do about a path that is not there: something in the folder may be it."""
    top, name = benchmark.dataset_dir, _plain(os.path.basename(path))
    for folder, below, files in os.walk(top):
        below[:] = sorted(entry for entry in below if not entry.startswith("."))
        for entry in (*below, *files):
            found = os.path.join(folder, entry)
            if found != path and _plain(entry) == name:
                return f"{found} looks like it: move it there"
        if folder.count(os.sep) - top.count(os.sep) == 2:
            below.clear()
    entries = sorted(entry for entry in os.listdir(top) if not entry.startswith("."))
    for entry in entries:
        if entry.endswith(ARCHIVES):
            return f"{entry} is there: unpack it"
    holds = f"the folder holds {', '.join(entries[:5])}; " if entries else ""
    return holds + _source_of(benchmark)


def _source_of(benchmark: Benchmark) -> str:
    name = plugins.short_name(type(benchmark).__name__)
    return f"`promptclip data get {name}` says where to get it"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _leftovers(benchmark: Benchmark) -> Iterator[str]:
    folder = Path(benchmark.dataset_dir)
    if (folder / "preprocessed.pkl").exists():
        yield "preprocessed.pkl is not read (a pickle can run code) and can be deleted"
    if pickles := list(folder.glob("split_fewshot/*.pkl")):
        yield (
            f"split_fewshot/ has {len(pickles)} few-shot samples of CoOp: they are used, read "
            "without running anything in them"
        )
    unfinished = f".{folder.name}-*"  # what a download or a drawing that was killed leaves
    for path in sorted((*folder.parent.glob(unfinished), *folder.glob(unfinished))):
        yield f"{path} is left of something that was interrupted; if nothing runs, delete it"


# What the split says


def _split_faults(benchmark: Benchmark, parts: Parts) -> Iterator[str]:
    train, val, test = parts
    yield from (
        f"{fault}; the split or the list of names is damaged or of another version, "
        f"{_source_of(benchmark)}"
        for fault in class_faults(train, val or [], test)
    )
    for classname, labels in _same_names(parts).items():
        if classname not in benchmark.shared_names:
            yield (
                f"{len(labels)} classes (labels {', '.join(map(str, labels))}) are called "
                f"{classname!r}, so only the first of them can be predicted; give them their names"
            )
    if not benchmark.test_only:
        for fault in shared_pictures(parts):
            yield f"{fault}; the split is damaged, get it anew"
    others = {p.path: 0 for part in parts for p in part or () if not _is_picture(p.path)}
    if others:
        yield (
            f"{len(others)} files in the place of pictures are none by their name, the first is "
            f"{next(iter(others))}; take them out"
        )


def _size_faults(benchmark: Benchmark, parts: Parts, found: Sizes) -> Iterator[str]:
    published = benchmark.sizes or found
    whats = ("classes", *(f"{purpose} pictures" for purpose in PARTS))
    wrong = []
    for what, expected, got, part in zip(whats, published, found, (None, *parts), strict=True):
        if expected is not None and got != expected:
            fewest = _fewest(part) if (got or 0) < expected else ""
            wrong.append(f"{got or 0:,} {what} instead of {expected:,}{fewest}")
    if wrong:
        yield (
            f"not the published sizes: {', '.join(wrong)}; it is another version, or some are not "
            f"copied: {_source_of(benchmark)}"
        )


def _fewest(part: Sequence[Picture] | None) -> str:
    counts = Counter(picture.classname for picture in part or ())
    if not counts:
        return ""
    name, count = min(counts.items(), key=lambda item: item[1])
    return f" (fewest: {count} of {name!r})"


def _known_names(benchmark: Benchmark, parts: Parts) -> Iterator[str]:
    known = sorted(set(_same_names(parts)).intersection(benchmark.shared_names))
    if known:
        yield (
            f"two classes each are called {' and '.join(map(repr, known))}, as in CLIP's own list; "
            "the second of them cannot be predicted"
        )


def _same_names(parts: Parts) -> dict[str, list[int]]:
    labels: dict[str, set[int]] = defaultdict(set)
    for part in parts:
        for picture in part or ():
            labels[picture.classname].add(picture.label)
    return {name: sorted(found) for name, found in labels.items() if len(found) > 1}


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in pictures.SUFFIXES


# The pictures themselves


class _Workers:
    """Threads and processes that look at pictures, and the progress they make."""

    def __init__(self, workers: int, deep: bool, progress: Progress) -> None:
        self.deep, self._progress = deep, progress
        self._threads = ThreadPoolExecutor(workers)
        # New interpreters: a fork of a process with threads may hang.
        spawn = multiprocessing.get_context("spawn")
        self._readers: Executor = (
            ProcessPoolExecutor(workers, mp_context=spawn, initializer=pictures.silence)
            if deep
            else self._threads
        )

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        for executor in {self._readers, self._threads}:
            executor.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        task = self._progress.add_task(what, total=None)
        try:
            yield
        finally:
            self._progress.remove_task(task)

    def look(self, paths: Sequence[str], what: str) -> list[Trouble]:
        return self._map(self._threads, pictures.look, paths, f"{what}: looking for pictures")

    def read(self, paths: Sequence[str], what: str) -> list[Trouble]:
        if not self.deep:
            paths = paths[:: max(1, len(paths) // SAMPLE)]
        reader = partial(pictures.read, decode=self.deep)
        try:
            with pictures.quiet():
                return self._map(self._readers, reader, paths, f"{what}: reading pictures")
        except BrokenProcessPool as error:
            raise UserError(
                f"{what}: a process that decodes pictures was ended from outside; the memory may "
                "not do for so many, give fewer --workers"
            ) from error

    def _map(
        self,
        executor: Executor,
        function: Callable[[Sequence[str]], list[Trouble]],
        paths: Sequence[str],
        what: str,
    ) -> list[Trouble]:
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        task = self._progress.add_task(what, total=len(paths))
        troubles = []
        for chunk, found in zip(chunks, executor.map(function, chunks), strict=True):
            troubles += found
            self._progress.advance(task, len(chunk))
        self._progress.remove_task(task)
        return troubles


def _picture_faults(benchmark: Benchmark, parts: Parts, pool: _Workers) -> Iterator[str]:
    name = plugins.short_name(type(benchmark).__name__)
    split = {benchmark.impath(p): p for part in parts for p in part or () if _is_picture(p.path)}
    troubles = pool.look(list(split), name)
    useless = {trouble.path for trouble in troubles}
    troubles += pool.read([path for path in split if path not in useless], name)
    for kind in pictures.KINDS:
        bad = [trouble for trouble in troubles if trouble.kind == kind]
        if not bad:
            continue
        what = f"{len(bad):,} of {len(split):,} pictures are {kind}, the first is {bad[0].path}"
        detail = f" ({bad[0].detail})" if bad[0].detail else ""
        if kind == "missing":
            yield f"{what}; {_moved(benchmark, [split[trouble.path] for trouble in bad])}"
        else:
            sample = "" if pool.deep or kind == "empty" else ", of a sample: see --deep"
            yield f"{what}{detail}{sample}; replace them"


def _moved(benchmark: Benchmark, missing: Iterable[Picture]) -> str:
    """Where one of the missing pictures lies instead, if it is anywhere in the folder."""
    ends = {_end(picture.path): picture for picture in itertools.islice(missing, 100)}
    for folder, below, files in os.walk(benchmark.dataset_dir):
        below[:] = sorted(entry for entry in below if not entry.startswith("."))
        for file in sorted(files):
            found = os.path.join(folder, file)
            if picture := ends.get(_end(found)):
                return f"{found} should be {benchmark.impath(picture)}: bring all into that form"
    return "copy them there; if the split file is not CoOp's, get that"


def _end(path: str) -> tuple[str, ...]:
    """The last two parts of a path, whatever their case: enough to recognise a picture."""
    return tuple(Path(path.lower()).parts[-2:])
