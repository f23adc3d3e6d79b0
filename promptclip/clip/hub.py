"""Weights of the Hugging Face hub: from its cache on this machine, else fetched, and checked.

The hub names a large file by its SHA-256, and its client's cache keeps it under that name: so what
is read is compared with what the hub, asked over TLS, has said when it was fetched. Nobody has
published these checksums elsewhere, so this does not tell whether the hub is right.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from promptclip import network
from promptclip.errors import UserError

log = logging.getLogger(__name__)


def weights(place: str) -> Path:
    """A file of weights in the client's cache.

    Args:
        place: as open_clip's list has it: REPOSITORY/FILE, or REPOSITORY/ for the usual file.

    Returns:
        The path; of safetensors where the repository has them.

    Raises:
        UserError: if the file is damaged, or is not there and the network is forbidden.
        Exception: whatever the hub's client, the network and the disk raise.
    """
    repository, _, file = place.rpartition("/")
    names = list(_names(file))
    path = _cached(repository, names)
    if path is None:
        network.refuse_offline(
            f"{' or '.join(names)} of https://huggingface.co/{repository}",
            f"fetch it where there is a network (`hf download {repository}`) and copy the folder "
            "~/.cache/huggingface, or name its file: open_clip:MODEL/PATH",
        )
        path = _fetched(repository, names)
    _check(path)
    return path


def _names(file: str) -> Iterator[str]:
    """The names that a file may have, safetensors first."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if not file:
        yield HF_SAFE_WEIGHTS_NAME
        yield HF_WEIGHTS_NAME
        return
    if file.endswith((".bin", ".pth")):
        yield f"{file[:-4]}.safetensors"
    yield file


def _cached(repository: str, names: list[str]) -> Path | None:
    """The first of the files that is on this machine; nobody is asked."""
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _fetched(repository: str, names: list[str]) -> Path:
    """The first of the files that the repository has."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    network.refuse_plain(constants.ENDPOINT)
    for name in names:
        try:
            # Public files need no token, so nobody is told who asks.
            return Path(huggingface_hub.hf_hub_download(repository, name, token=False))
        except EntryNotFoundError:
            if name == names[-1]:
                raise
    raise FileNotFoundError(repository)


def _check(path: Path) -> None:
    """Compare a file with the SHA-256 under which the cache keeps it."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        log.warning("%s is not checked: the cache does not keep it under its SHA-256", path)
    elif (came := network.sha256_of(blob)) != blob.name:
        raise UserError(
            f"{path} is damaged: its SHA-256 is {came}, the hub's is {blob.name}; delete {blob} "
            "and it will be fetched anew"
        )
