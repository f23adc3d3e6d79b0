"""Data sets of any number of classes, made of JPEG files that are written here."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY
from open_clip.tokenizer import SimpleTokenizer
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image

from promptclip.benchmark import IMAGENET_SHARED_NAMES, Benchmark
from promptclip.clip.tokenizer import tokenize

DIFFERENT = 16  # pictures of which all files are copies, with other bytes behind the end


@DATASET_REGISTRY.register()
class SpeedPictures(Benchmark):
    """What `write` has written."""

    dataset_dir = "pictures"
    image_dir = "images"
    split_file = "split.json"
    shared_names = IMAGENET_SHARED_NAMES


def classnames(count: int) -> list[str]:
    """ImageNet's first names; beyond its 1,000, made-up ones, the same in every run.

    A made-up name has as many tokens as a name of ImageNet's that is drawn, each of them a word of
    the tokenizer's vocabulary.
    """
    names = list(IMAGENET_CLASSNAMES[:count])
    draw = random.Random(0)
    ends = (word.removesuffix("</w>") for word in SimpleTokenizer().encoder if "</w>" in word)
    words = sorted(word for word in ends if word.isascii() and word.isalpha() and len(word) > 2)
    lengths = (tokenize(IMAGENET_CLASSNAMES).argmax(-1) - 1).tolist()
    taken = {*names}
    while len(names) < count:
        name = " ".join(draw.choices(words, k=draw.choice(lengths)))
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def write(root: Path, names: list[str], *, train: int, test: int, pixels: int) -> None:
    """A data set below `root`.

    Args:
        root: the data root, DATASET.ROOT.
        names: of the classes.
        train: training pictures of each class.
        test: test pictures of each class.
        pixels: width and height.
    """
    folder = root / SpeedPictures.dataset_dir
    contents = [_jpeg(seed, pixels) for seed in range(DIFFERENT)]
    split: dict[str, list[object]] = {"train": [], "val": [], "test": []}
    written = 0
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(names):
            (folder / "images" / part / str(label)).mkdir(parents=True)
            for number in range(count):
                path = f"{part}/{label}/{number}.jpg"
                content = contents[written % DIFFERENT] + str(written).encode()
                (folder / "images" / path).write_bytes(content)
                split[part].append([path, label, name])
                written += 1
    (folder / "split.json").write_text(json.dumps(split))


def _jpeg(seed: int, pixels: int) -> bytes:
    """A picture as soft as photographs are, with some noise."""
    generator = np.random.default_rng(seed)
    rough = generator.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    smooth = Image.fromarray(rough).resize((pixels, pixels), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + generator.normal(0, 8, (pixels, pixels, 3))
    content = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()
