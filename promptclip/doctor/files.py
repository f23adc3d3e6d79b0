"""Weights, data sets, room on disks, and the caches."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from promptclip import network
from promptclip.doctor.finding import GIB, NOTE, OK, PROBLEM, Finding, gib
from promptclip.errors import UserError
from promptclip.files import expanded, user_cache

_HASHED = GIB  # bytes of weights whose checksums are compared without being asked
_ROOM, _LEAST = GIB, GIB // 10  # free on a disk: less is a note, less is a problem


class _Checker:
    """Compares checksums, of everything or of as much as takes a moment."""

    def __init__(self, everything: bool) -> None:
        self._left = float("inf") if everything else _HASHED

    def __call__(self, path: Path, name: str, sha256: str) -> Finding:
        """What is to be said of a file that is there."""
        size = path.stat().st_size
        text = f"{name}: {path}, {gib(size)}"
        if size > self._left:
            return Finding(OK, f"{text}, not verified (--verify)")
        self._left -= size
        if network.sha256_of(path) == sha256:
            return Finding(OK, f"{text}, verified")
        return Finding(
            PROBLEM, f"{text}: its SHA-256 is not {sha256}", f"delete {path}, and get it again"
        )


def weights(verify: bool) -> Iterator[Finding]:
    """The small CLIP, OpenAI's files, and open_clip's in the cache of the Hugging Face hub."""
    from promptclip.clip.download import OPENAI
    from promptclip.clip.load import TINY_EMOJI, read_clip

    try:
        read_clip("tiny-emoji")
        yield Finding(OK, f"tiny-emoji: {TINY_EMOJI}, whole")
    except UserError as error:
        yield Finding(PROBLEM, f"tiny-emoji: {error}", "install promptclip again")
    check = _Checker(verify)
    folder = expanded(os.environ.get("CLIP_CACHE") or "~/.cache/clip")
    missing = []
    for name, place in OPENAI.items():
        sha256, file = place.split("/")
        if (folder / file).is_file():
            yield check(folder / file, f"OpenAI's {name}", sha256)
        else:
            missing.append(name)
    if missing:
        text = f"not in {folder}: OpenAI's {', '.join(missing)}"
        if network.is_offline():
            remedy = f"nothing is downloaded, as {network.OFFLINE} is set: copy what is needed"
            yield Finding(NOTE, text, remedy)
        else:
            yield Finding(NOTE, text, "each is downloaded when a run first needs it")
    yield from _hub(check)


def _hub(check: _Checker) -> Iterator[Finding]:
    """Files of weights of open_clip's, which the cache keeps under their SHA-256."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        blobs = {
            file.blob_path: file.file_name
            for revision in repository.revisions
            for file in revision.files
            if file.file_name.startswith("open_clip") and file.size_on_disk > 2**20
        }
        for blob, name in sorted(blobs.items()):
            if re.fullmatch("[0-9a-f]{64}", blob.name):
                yield check(blob, f"{repository.repo_id}/{name}", blob.name)
            else:
                yield Finding(OK, f"{repository.repo_id}/{name}: {blob}, cannot be verified")


def data_sets(root: str) -> Iterator[Finding]:
    """Which data sets are there and laid out as they must be; no picture is read."""
    from promptclip import data_check, emoji

    drawn = emoji.default_root()
    state = "drawn" if (drawn / "emoji").is_dir() else "drawn when a run first needs them"
    yield Finding(OK, f"the built-in benchmarks' pictures: {drawn}, {state}")
    if not root:
        yield Finding(
            NOTE, "no folder with other data sets was named", "give it with --root, or set DATA"
        )
        return
    missing = []
    for report in data_check.look(root):
        if report.state == "absent":
            missing.append(report.name)
        elif report.faults:
            remedy = f"`promptclip data check {report.name} --root {root}` says more"
            yield Finding(PROBLEM, f"{report.name}: {report.faults[0]}", remedy)
        else:
            yield Finding(OK, f"{report.name}: {report.folder}, all parts are there")
        for note in report.notes:
            yield Finding(NOTE, f"{report.name}: {note}")
    if missing:
        yield Finding(
            NOTE,
            f"not in {root}: {', '.join(missing)}",
            f"`promptclip data get NAME --root {root}` gets one, or says where it is",
        )


def disk() -> Iterator[Finding]:
    """Room where runs, caches and temporary files go, and what the caches hold."""
    places = {
        "this folder": Path.cwd(),
        "caches": user_cache(),
        "temporary files": Path(tempfile.gettempdir()),
        "loader workers' memory": Path("/dev/shm"),
    }
    for what, path in places.items():
        there = next((one for one in (path, *path.parents) if one.exists()), None)
        if there is None or (what.startswith("loader") and there != path):
            continue
        free = shutil.disk_usage(there).free
        text = f"{what}: {path}, {gib(free)} free"
        if not os.access(there, os.W_OK):
            yield Finding(NOTE, f"{text}, but it cannot be written", "see to its permissions")
        elif free < _LEAST:
            yield Finding(PROBLEM, text, "make room")
        else:
            yield Finding(OK if free >= _ROOM else NOTE, text)
    from promptclip.feature_cache import open_cache

    cache = open_cache()
    if cache is None:
        yield Finding(NOTE, "no image features are kept: PROMPTCLIP_FEATURE_CACHE is off")
    else:
        sizes = [file.stat().st_size for file in cache.folder.glob("*.safetensors")]
        text = f"image features: {cache.folder}, {len(sizes)} sets, {gib(sum(sizes))} of at most "
        yield Finding(OK, f"{text}{gib(cache.limit)}")
