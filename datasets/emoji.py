"""Emoji: a class is a Unicode subcategory, a picture one emoji; three styles are three domains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import emoji
from promptclip.benchmark import Benchmark

if TYPE_CHECKING:
    from yacs.config import CfgNode


class DrawnBenchmark(Benchmark):
    """A benchmark whose pictures come with packages and are drawn when first used."""

    image_dir = "images"
    template = "a picture of a {}."

    def find_root(self, cfg: CfgNode) -> str:
        """The data root, or the user's cache folder, with the pictures in it."""
        root = Path(cfg.DATASET.ROOT).expanduser() if cfg.DATASET.ROOT else emoji.default_root()
        emoji.prepare(root / self.dataset_dir, type(self).__name__)
        return str(root.absolute())


@DATASET_REGISTRY.register()
class Emoji(DrawnBenchmark):
    """In Twemoji's style."""

    dataset_dir = "emoji"
    split_file = "split_zhou_Emoji.json"


@DATASET_REGISTRY.register()
class EmojiOpenMoji(DrawnBenchmark):
    """The same concepts in OpenMoji's style."""

    dataset_dir = "emoji_openmoji"
    split_file = "split_zhou_EmojiOpenMoji.json"


@DATASET_REGISTRY.register()
class EmojiLine(DrawnBenchmark):
    """The same concepts as OpenMoji's black line art."""

    dataset_dir = "emoji_line"
    split_file = "split_zhou_EmojiLine.json"
