"""Fetches benchmarks through torchvision and lays them out as CoOp's; tells how for the others."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from promptclip import network, plugins
from promptclip.benchmark import Benchmark
from promptclip.data_sources import ARCHIVES, DATED, MIRROR, SOURCES, Download, Source
from promptclip.errors import UserError

TIMEOUT = 60  # seconds without a byte until a download is given up
# What a broken connection, a wrong checksum and a damaged archive raise, here and in torchvision.
FAILURES = (
    OSError,
    RuntimeError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def source_of(kind: type[Benchmark]) -> Source:
    """Where a benchmark comes from.

    Raises:
        UserError: if that is not known.
    """
    if kind.__name__ not in SOURCES:
        raise UserError(
            f"{kind.__name__} is none of the public benchmarks: it is made here, or comes with a "
            "plug-in that says where its pictures are from"
        )
    return SOURCES[kind.__name__]


def _name(kind: type[Benchmark]) -> str:
    return plugins.short_name(kind.__name__)


def guide(kind: type[Benchmark], folder: Path) -> str:
    """What to do by hand to have a benchmark, and what is known of the links."""
    source = source_of(kind)
    steps = list(source.steps)
    if kind.split_file:
        steps.append(
            f"Put CoOp's split file here as {kind.split_file}: {source.split} (Google Drive, no "
            "published checksum, so it is not fetched for you; data check compares its numbers). "
            "Another split can be made (promptclip data split), but results with it cannot be "
            "compared with published ones"
        )
    steps.append(f"See whether it is whole: promptclip data check {_name(kind)}")
    lines = [f"{_name(kind)}, {source.page}", f"By hand, in {folder}:"]
    lines += [f"  {number}. {step}" for number, step in enumerate(steps, 1)]
    known = f" {source.links}" if source.links else " Nothing else is known of its links."
    lines.append(f"Links, {DATED} (they could not be opened where this was written):{known}")
    if kind.__name__ != "ImageNet":
        lines.append(MIRROR)
    return "\n".join(lines)


def plan(kind: type[Benchmark], download: Download, root: Path) -> str:
    """What `fetch` would do, with sizes.

    Raises:
        UserError: if it cannot be done: something is in the way, there is no room, or the network
            is forbidden.
    """
    target = _target(kind, root)
    _refuse_offline(kind, download, target)
    place = _workplace(target)
    free = shutil.disk_usage(place).free // 10**6
    needed = 2 * download.megabytes  # the archive and what is in it
    if free < needed:
        raise UserError(
            f"{place}: {_name(kind)} takes about {needed:,} MB while it is unpacked, and "
            f"{free:,} MB are free; make room, or let {target} be a link to a folder on another "
            "disk"
        )
    return (
        f"{_name(kind)}: about {download.megabytes:,} MB are fetched through "
        f"torchvision.datasets.{download.torchvision} and checked by their MD5, then laid out as "
        f"{target}; that takes about {needed:,} MB meanwhile, and {free:,} MB are free. Terms of "
        f"use: {source_of(kind).page}"
    )


def fetch(kind: type[Benchmark], download: Download, root: Path) -> Path:
    """Fetch a benchmark's pictures and lay them out as CoOp's.

    All is done in a temporary folder on the same disk; the benchmark appears when it is there
    and right, or not at all. A split file that is there already stays.

    Returns:
        The benchmark's folder.

    Raises:
        UserError: if something is in the way, the network is forbidden, the download fails, a
            checksum is wrong, or the archive holds something else.
    """
    target = _target(kind, root)
    _refuse_offline(kind, download, target)
    hidden = f".{target.name}-"
    try:
        with tempfile.TemporaryDirectory(prefix=hidden, dir=_workplace(target)) as work:
            with _careful():
                _download(download, Path(work))
            _place(kind, Path(work, download.folder), target)
    except UserError:
        raise
    except FAILURES as error:
        raise UserError(
            f"{_name(kind)}: the download failed ({_first(error)}); nothing of "
            "it was kept. Try again later, or with a newer torchvision, or by hand: "
            f"{source_of(kind).page}"
        ) from error
    return target


def _refuse_offline(kind: type[Benchmark], download: Download, target: Path) -> None:
    network.refuse_offline(
        f"{_name(kind)} (about {download.megabytes:,} MB, {source_of(kind).page})",
        f"put it into {target} by hand; docs/data.md tells what must lie there",
    )


def _first(error: BaseException) -> str:
    """The failure in whose wake others came: torchvision tries again, over a plain connection."""
    while isinstance(error.__context__, FAILURES):
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def _target(kind: type[Benchmark], root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: expected the folder that holds the data sets, there is none")
    target = root / kind.dataset_dir
    in_the_way = [target / need for need in _fetched(kind)] if target.is_dir() else [target]
    for path in in_the_way:
        if path.exists() or path.is_symlink():
            raise UserError(
                f"{path} is there already; `promptclip data check {_name(kind)}` says whether it "
                "is whole; to get it anew, move it away"
            )
    return target


def _workplace(target: Path) -> Path:
    """A folder on the disk on which the benchmark will lie: its own may be a link to another."""
    return target if target.is_dir() else target.parent


def _fetched(kind: type[Benchmark]) -> list[str]:
    """What of a benchmark's needs comes with the download."""
    return [need for need in kind.__new__(kind).needs if need != kind.split_file]


@contextlib.contextmanager
def _careful() -> Iterator[None]:
    """No connection is plain or hangs for ever, and no archive writes outside its folder."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError(
            "this Python unpacks archives without care (PEP 706); update it to 3.10.12, 3.11.4 or "
            "later"
        )
    timeout, unguarded = socket.getdefaulttimeout(), tarfile.TarFile.extraction_filter
    socket.setdefaulttimeout(TIMEOUT)
    tarfile.TarFile.extraction_filter = staticmethod(_unpacked)
    try:
        with network.tls_alone():
            yield
    finally:
        socket.setdefaulttimeout(timeout)
        tarfile.TarFile.extraction_filter = unguarded


def _unpacked(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """What of a member of an archive is unpacked: nothing that leads up, nor devices and rights.

    Python's own filter follows links to see where they end, and some versions of it lose their way
    in long paths (CVE-2025-4517). Where neither names nor links lead up, none can end outside.
    """
    target = PurePosixPath(member.linkname if member.issym() or member.islnk() else "")
    if target.is_absolute() or ".." in (*target.parts, *PurePosixPath(member.name).parts):
        raise tarfile.TarError(f"{member.name!r} leads out of the folder that it is unpacked in")
    return tarfile.data_filter(member, folder)


def _download(download: Download, work: Path) -> None:
    from torchvision import datasets  # type: ignore[import-untyped]
    from torchvision.datasets.utils import (  # type: ignore[import-untyped]
        download_and_extract_archive,
    )

    if download.archive:
        url, md5 = download.archive
        download_and_extract_archive(url, work, md5=md5)
        return
    getattr(datasets, download.torchvision)(work, download=True)


def _place(kind: type[Benchmark], fetched: Path, target: Path) -> None:
    for need in _fetched(kind):
        if not (fetched / need).exists():
            raise UserError(
                f"{_name(kind)}: the archive has no {need}, so it is not the one that was "
                "expected; nothing of it was kept"
            )
    entries = [entry for entry in fetched.iterdir() if not entry.name.endswith(ARCHIVES)]
    if target.is_dir():
        # The pictures come last: they are what says that the benchmark is there.
        for entry in sorted(entries, key=lambda entry: entry.name in _fetched(kind)):
            if not os.path.lexists(target / entry.name):
                entry.rename(target / entry.name)
        return
    for archive in set(fetched.iterdir()).difference(entries):
        archive.unlink()
    fetched.rename(target)
