"""Image features of the un-prompted tower, kept on disk for all runs that need the same ones.

Where a method puts no prompts into the image tower, the features of the test pictures are the same
in every run of a benchmark and backbone: with every seed, number of shots and learned text. They
are computed once, and the pictures need not even be decoded again.

A wrong number must be impossible, so a set of features is found by the hash of everything that it
depends on (`identity`): the contents of the pictures, in their order and batches; the weights and
the code of the tower; the transform; precision and path; the packages; the machine with its number
of threads. Pictures are read and hashed in every run. Path, size and time of change would be faster
to compare, but a picture can be replaced without changing them, and reading is a small part of what
decoding and the tower cost. So what is found is what this run would have computed itself, to the
last digit, and nothing can become stale: what changes gets another name.

A file is written in one step and never changed, so any number of runs may read a folder, without
locks. Of several that find nothing, one computes and the others wait for it. A checksum finds
damage; what is damaged is computed again. `LIMIT` bounds the folder: what was not used for the
longest time goes first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.features
import safetensors
import torch
from dassl.data.data_manager import DatasetWrapper
from dassl.data.transforms import build_transform
from dassl.data.transforms import transforms as transform_steps
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from promptclip import results
from promptclip.benchmark import PictureSet
from promptclip.clip.attention import attention
from promptclip.clip.model import FrozenCLIP
from promptclip.files import content_hash, expanded, user_cache, write_bytes
from promptclip.lock import alone
from promptclip.pictures import rgb
from promptclip.tensor_file import raw_bytes

if TYPE_CHECKING:
    from yacs.config import CfgNode

log = logging.getLogger(__name__)

VARIABLE = "PROMPTCLIP_FEATURE_CACHE"
OFF = "off"
LIMIT = 4 * 2**30  # bytes in a folder; ImageNet's 50,000 test pictures of ViT-B/16 take 0.1 GB
LEFT_BEHIND = 24 * 3600  # seconds after which an unfinished file has no writer any more


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """What a file of a cache holds.

    Attributes:
        file: where.
        size: in bytes.
        used: when it was written or last read, in seconds since 1970.
        identity: what `identity` gave when it was written; empty if the file is damaged.
    """

    file: Path
    size: int
    used: float
    identity: dict[str, Any]


class FeatureCache:
    """A folder of feature sets.

    Args:
        folder: made when something is kept.
        limit: bytes of all sets together.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit

    def read(self, identity: dict[str, Any]) -> Tensor | None:
        """The features [N, D] as they were kept; None if there are none, or not whole ones."""
        file, key = self._place(identity)
        try:
            with safetensors.safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                features: Tensor = opened.get_tensor("features").clone()
            whole = (metadata.get("key"), metadata.get("checksum")) == (key, checksum(features))
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError, ValueError):
            whole = False
        if not whole:
            log.warning("%s is damaged; its image features are computed again", file)
            return None
        with contextlib.suppress(OSError):  # somebody else's folder, or it has just been deleted
            os.utime(file)
        return features

    def keep(self, identity: dict[str, Any], features: Tensor) -> None:
        """Write features [N, D], if the folder can be written and has room for them."""
        file, key = self._place(identity)
        metadata = {"key": key, "checksum": checksum(features), "identity": json.dumps(identity)}
        content = save({"features": features.contiguous()}, metadata)
        try:
            if len(content) <= self.limit:
                write_bytes(content, file)
                self._trim(file)
        except OSError as error:
            log.info("Image features are not kept for other runs: %s", error)

    def alone(self, identity: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Wait inside a `with` until no other process computes the same features."""
        file, _ = self._place(identity)
        return alone(file.with_name(f".{file.name}.lock"))

    def sets(self) -> list[FeatureSet]:
        """What the folder holds, the last used first."""
        found = []
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                status = file.stat()
                found.append(FeatureSet(file, status.st_size, status.st_mtime, _identity(file)))
        return sorted(found, key=lambda one: one.used, reverse=True)

    def clear(self) -> int:
        """Delete all sets, and what writers left; other files stay.

        Returns:
            Bytes that are free again.
        """
        freed = 0
        for file in (*self._files(), *self._unfinished()):
            with contextlib.suppress(FileNotFoundError):
                freed += file.stat().st_size
                file.unlink()
        return freed

    def _files(self) -> Iterator[Path]:
        return self.folder.glob("*.safetensors")

    def _unfinished(self) -> Iterator[Path]:
        return self.folder.glob(".*.safetensors.*")

    def _place(self, identity: dict[str, Any]) -> tuple[Path, str]:
        key = content_hash(identity)
        return self.folder / f"{key}.safetensors", key

    def _trim(self, new: Path) -> None:
        """Delete what was not used for longest, but not the new set, and what writers left."""
        used = []
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):  # another run has deleted it
                used.append((file.stat().st_mtime, file.stat().st_size, file))
        room = self.limit - new.stat().st_size
        for _, size, file in sorted(used, reverse=True):
            if file != new:
                room -= size
                if room < 0:
                    file.unlink(missing_ok=True)
        for file in self._unfinished():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > LEFT_BEHIND:
                    file.unlink()


def _identity(file: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            found: dict[str, Any] = json.loads((opened.metadata() or {})["identity"])
            return found
    except (OSError, safetensors.SafetensorError, ValueError, KeyError):
        return {}


def open_cache(configured: str = "") -> FeatureCache | None:
    """The cache that TEST.FEATURE_CACHE or the environment names; None if it is off.

    Either is a folder, "off", or empty; both empty mean a folder in the user's cache.

    Args:
        configured: TEST.FEATURE_CACHE.
    """
    named = configured or os.environ.get(VARIABLE, "")
    if named == OFF:
        return None
    return FeatureCache(expanded(named) if named else user_cache() / "features")


def identity(clip: FrozenCLIP, loader: DataLoader[Any], cfg: CfgNode) -> dict[str, Any] | None:
    """Everything that the features of a loader's pictures depend on, as JSON content.

    None if that cannot be told: pictures that are shuffled, have several views or cannot be read,
    other items than `PictureSet` makes, a transform that does not show its parameters.
    """
    pictures: Any = loader.dataset
    if type(pictures) is not PictureSet or not isinstance(loader.sampler, SequentialSampler):
        return None
    transform = repr(pictures.transform)
    several = isinstance(pictures.transform, list | tuple) or pictures.k_tfm > 1
    if several or pictures.return_img0 or pictures.transform is None or " at 0x" in transform:
        return None
    try:
        contents = _content_hashes([item.impath for item in pictures.data_source])
    except OSError:  # reading it for the test will tell which one
        return None
    return {
        "pictures": content_hash(contents),
        "number": len(contents),
        "batch_size": loader.batch_size,
        "transform": transform,
        "input": json.loads(json.dumps(cfg.INPUT)),
        "weights": clip.image_tower_hash(),
        "clip": dataclasses.asdict(clip.config),
        "computing": [
            clip.precision,
            str(clip.dtype),
            str(clip.residual_dtype),
            clip.textbook,
            clip.compile_blocks,
        ],
        "code": _code_hash(clip),
        "versions": results.versions(),
        "decoders": [PIL.__version__, *map(PIL.features.version, ("jpg", "zlib", "webp"))],
        "hardware": results.hardware(clip.device),
        "torch": _torch_settings(),
    }


def _content_hashes(paths: Sequence[str]) -> list[str]:
    """SHA-256 of files; reading a disk and hashing both leave other threads time."""

    def one(path: str) -> str:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, paths))


def _code_hash(clip: FrozenCLIP) -> str:
    """Hash of the files that hold the tower, the reading of pictures and the transforms."""
    tower: list[Any] = [FrozenCLIP, attention]
    parts = [*tower, PictureSet, DatasetWrapper, rgb, build_transform]
    parts.append(transform_steps.Compose)  # type: ignore[attr-defined]  # the usual steps lie there
    if clip.visual is not None:
        parts.append(type(clip.visual))
    files = sorted({str(inspect.getsourcefile(part)) for part in parts})
    return content_hash([hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files])


def _torch_settings() -> list[Any]:
    """What in torch decides how a product of matrices is rounded, besides type and machine."""
    return [
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cpu.get_cpu_capability(),
        torch.version.cuda,
        torch.backends.cudnn.version(),
    ]


def checksum(features: Tensor) -> str:
    """SHA-256 of type, shape and numbers."""
    digest = hashlib.sha256(f"{features.dtype} {tuple(features.shape)}".encode())
    digest.update(raw_bytes(features))
    return digest.hexdigest()


class EncodedSet(Dataset[dict[str, Any]]):
    """The items of a `PictureSet` with features in the place of pixels.

    Args:
        pictures: whose items they are.
        features: of all of them, [N, D].
    """

    def __init__(self, pictures: PictureSet, features: Tensor) -> None:
        self.data_source, self.features = pictures.data_source, features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """One item of the batch dictionary."""
        item = self.data_source[idx]
        return {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
            "img": self.features[idx],
        }


def encoded_loader(loader: DataLoader[Any], features: Tensor) -> DataLoader[Any]:
    """The batches of a loader of pictures, with features [B, D] in the place of pixels."""
    pictures: Any = loader.dataset
    return DataLoader(EncodedSet(pictures, features), loader.batch_size)


@contextlib.contextmanager
def instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
