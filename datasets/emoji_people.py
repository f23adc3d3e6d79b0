"""EmojiPeople: a class is a person, activity or gesture, in its skin tones and genders."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.emoji import DrawnBenchmark


@DATASET_REGISTRY.register()
class EmojiPeople(DrawnBenchmark):
    """In Twemoji's style."""

    dataset_dir = "emoji_people"
    split_file = "split_zhou_EmojiPeople.json"
