"""Emoji: a class is a Unicode subcategory, a picture one emoji; three styles are three domains."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.emoji import DrawnBenchmark


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
