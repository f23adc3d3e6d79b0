"""OpenAI's weights: from the cache folder or fetched, and checked before anything reads them."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from promptclip import network
from promptclip.errors import UserError
from promptclip.files import expanded

# openai/CLIP d05afc4, clip/clip.py, _MODELS: addresses end in SHA-256/FILE.
_ADDRESS = "https://openaipublic.azureedge.net/clip/models/"
OPENAI = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": (
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt"
    ),
}

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without an answer


def openai_weights(name: str) -> Path:
    """The file of one of OpenAI's models, downloaded if it is not in the cache folder.

    The folder is `~/.cache/clip`, where OpenAI's package and open_clip keep them, or the one that
    the environment variable `CLIP_CACHE` names. A file is checked each time that it is asked for.

    Args:
        name: a key of `OPENAI`.

    Raises:
        UserError: if the file has another checksum, or is not there and cannot be downloaded.
    """
    address = _ADDRESS + OPENAI[name]
    sha256, file_name = OPENAI[name].split("/")
    path = expanded(os.environ.get("CLIP_CACHE") or "~/.cache/clip") / file_name
    if not path.exists():
        download(address, path, sha256)
    elif (came := network.sha256_of(path)) != sha256:
        raise UserError(
            f"{path} is not OpenAI's {name}: expected SHA-256 {sha256}, got {came}; "
            f"delete it, and it will be downloaded from {address}"
        )
    return path


def download(address: str, path: Path, sha256: str) -> None:
    """Fetches a file, with progress; it stands at its path once it is complete and checked.

    Args:
        address: an URL.
        path: where the file shall be; its folder is made.
        sha256: the checksum that it must have, 64 hexadecimal digits.

    Raises:
        UserError: if it cannot be had over TLS, has another checksum, or the network is forbidden;
            nothing is left behind then.
    """
    network.refuse_offline(
        f"{path.name} ({address})", f"put it there as {path}; its SHA-256 is {sha256}"
    )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            network.opener().open(address, timeout=_TIMEOUT) as answer,
            part.open("wb") as file,
            tqdm(
                total=int(answer.headers.get("Content-Length", 0)) or None,
                desc=path.name,
                unit="B",
                unit_scale=True,
            ) as progress,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        if (came := digest.hexdigest()) != sha256:
            raise OSError(f"{part.stat().st_size} bytes came, their SHA-256 is {came}")
        part.replace(path)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{path} is not there and could not be downloaded from {address} ({error}); "
            f"try again, or put it there yourself: its SHA-256 is {sha256}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
