"""Own pictures: whatever lies in the folder or CSV file DATASET.FOLDER."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import own_pictures, splits
from promptclip.benchmark import Benchmark
from promptclip.errors import UserError
from promptclip.few_shot import PARTS, Picture

if TYPE_CHECKING:
    from yacs.config import CfgNode

log = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class OwnPictures(Benchmark):
    """Classes, template and split are those of `promptclip.own_pictures`."""

    needs = ()

    def locate(self, cfg: CfgNode) -> None:
        """Read what the folder says; it must still be what the command noted."""
        if not cfg.DATASET.FOLDER:
            raise UserError("OwnPictures: no pictures are given; give their path as --data-folder")
        self.own = own_pictures.read(cfg.DATASET.FOLDER)
        self.dataset_dir = self.image_dir = str(self.own.folder)
        self.sample_dir = str(self.own.sample_dir)
        self.template = self.own.template
        if cfg.DATASET.FOLDER_HASH != (found := self.own.hash):
            raise UserError(
                f"{self.own.path}: expected hash {cfg.DATASET.FOLDER_HASH or '(none)'} of what it "
                f"holds, got {found}: it has changed since the command began, or DATASET.FOLDER "
                "was given without --data-folder"
            )

    @property
    def needs_split(self) -> bool:
        """Whether the folder has no parts of its own."""
        return self.own.parts is None

    @property
    def our_split_path(self) -> Path:
        """The split file of the folder."""
        return self.own.split_path

    @property
    def split_path(self) -> Path:
        """The same: there is no other."""
        return self.own.split_path

    def read_split(self) -> tuple[list[Picture], list[Picture] | None, list[Picture]]:
        """The folder's own parts, those of its split file, or a new split, which is kept."""
        parts, self.split_origin = self.own.split
        if self.needs_split and not self.split_path.is_file():
            try:
                splits.write(self.make_split(splits.SEED), self.split_path, splits.made_here())
            except OSError as error:
                log.info("The split is kept in memory only: %s", error)
        self.split_file_hash = splits.parts_hash(
            {"train": parts[0], "val": parts[1] or [], "test": parts[2]}
        )
        return parts

    def make_split(self, seed: int) -> splits.Split:
        """A split of a folder that has none."""
        return splits.three_parts(self.own.pictures, seed)

    def check_split(self, parts: Sequence[Sequence[Picture]], source: str | Path) -> None:
        """As of any benchmark, and every class must be that of the folder."""
        super().check_split(parts, source)
        self.own.check_split(dict(zip(PARTS, parts, strict=True)), Path(source))
