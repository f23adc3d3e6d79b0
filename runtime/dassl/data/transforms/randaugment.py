"""Random augmentation with three published lists of operations and their ranges.

RandAugment's list is that of the TPU reference code, FixMatch's is Table 12 of arXiv:2001.07685;
the same random numbers give the same pictures as in Dassl.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Operation: TypeAlias = Callable[[Image.Image, float], Image.Image]
Range: TypeAlias = tuple[str, float, float]

_GREY = (125, 123, 114)


def _either_sign(value: float) -> float:
    return -value if random.random() > 0.5 else value


def _affine(img: Image.Image, *matrix: float) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, matrix)


def _solarize_add(img: Image.Image, value: float) -> Image.Image:
    brighter = np.clip(np.asarray(img, dtype=np.float64) + value, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def _cutout(img: Image.Image, size: float) -> Image.Image:
    width, height = img.size
    left = int(max(0, np.random.uniform(width) - size / 2))
    top = int(max(0, np.random.uniform(height) - size / 2))
    img = img.copy()
    box = (left, top, min(width, left + size), min(height, top + size))
    ImageDraw.Draw(img).rectangle(box, _GREY)
    return img


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda img, _: ImageOps.autocontrast(img),
    "brightness": lambda img, v: ImageEnhance.Brightness(img).enhance(v),
    "color": lambda img, v: ImageEnhance.Color(img).enhance(v),
    "contrast": lambda img, v: ImageEnhance.Contrast(img).enhance(v),
    "cutout": _cutout,
    "equalize": lambda img, _: ImageOps.equalize(img),
    "identity": lambda img, _: img,
    "invert": lambda img, _: ImageOps.invert(img),
    "posterize": lambda img, v: ImageOps.posterize(img, int(v)),
    "rotate": lambda img, v: img.rotate(_either_sign(v)),
    "sharpness": lambda img, v: ImageEnhance.Sharpness(img).enhance(v),
    "shear_x": lambda img, v: _affine(img, 1, _either_sign(v), 0, 0, 1, 0),
    "shear_y": lambda img, v: _affine(img, 1, 0, 0, _either_sign(v), 1, 0),
    "solarize": lambda img, v: ImageOps.solarize(img, v),  # type: ignore[arg-type]
    "solarize_add": _solarize_add,
    "translate_x": lambda img, v: _affine(img, 1, 0, _either_sign(v) * img.width, 0, 1, 0),
    "translate_y": lambda img, v: _affine(img, 1, 0, 0, 0, 1, _either_sign(v) * img.height),
    "translate_x_pixels": lambda img, v: _affine(img, 1, 0, _either_sign(v), 0, 1, 0),
    "translate_y_pixels": lambda img, v: _affine(img, 1, 0, 0, 0, 1, _either_sign(v)),
}

# (operation, smallest, largest value); the order decides what a random number selects.
RANDAUGMENT: Sequence[Range] = (
    ("autocontrast", 0, 1),
    ("equalize", 0, 1),
    ("invert", 0, 1),
    ("rotate", 0, 30),
    ("posterize", 4, 8),
    ("solarize", 0, 256),
    ("solarize_add", 0, 110),
    ("color", 0.1, 1.9),
    ("contrast", 0.1, 1.9),
    ("brightness", 0.1, 1.9),
    ("sharpness", 0.1, 1.9),
    ("shear_x", 0.0, 0.3),
    ("shear_y", 0.0, 0.3),
    ("cutout", 0, 40),
    ("translate_x_pixels", 0.0, 100),
    ("translate_y_pixels", 0.0, 100),
)

_GEOMETRY: Sequence[Range] = (
    ("rotate", -30, 30),
    ("sharpness", 0.1, 1.9),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("solarize", 0, 256),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
)

RANDAUGMENT2: Sequence[Range] = (
    ("autocontrast", 0, 1),
    ("brightness", 0.1, 1.9),
    ("color", 0.1, 1.9),
    ("contrast", 0.1, 1.9),
    ("equalize", 0, 1),
    ("identity", 0, 1),
    ("invert", 0, 1),
    ("posterize", 4, 8),
    *_GEOMETRY,
)

FIXMATCH: Sequence[Range] = (
    ("autocontrast", 0, 1),
    ("brightness", 0.05, 0.95),
    ("color", 0.05, 0.95),
    ("contrast", 0.05, 0.95),
    ("equalize", 0, 1),
    ("identity", 0, 1),
    ("posterize", 4, 8),
    *(("sharpness", 0.05, 0.95) if entry[0] == "sharpness" else entry for entry in _GEOMETRY),
)


class RandAugment:
    """`n` random operations, each at the same share `m` / 30 of its range."""

    def __init__(self, n: int = 2, m: float = 10) -> None:
        """Set the strength.

        Raises:
            ValueError: if m is not in 0..30.
        """
        if not 0 <= m <= 30:
            raise ValueError(f"INPUT.RANDAUGMENT_M must be in 0..30, got {m}")
        self.n = n
        self.m = m

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return an augmented picture."""
        for name, low, high in random.choices(RANDAUGMENT, k=self.n):
            img = OPERATIONS[name](img, self.m / 30 * (high - low) + low)
        return img


class RandAugment2:
    """`n` random operations, each done with probability `p` at a random strength."""

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        self.n = n
        self.p = p

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return an augmented picture."""
        for name, low, high in random.choices(RANDAUGMENT2, k=self.n):
            if random.random() <= self.p:
                img = OPERATIONS[name](img, random.random() * (high - low) + low)
        return img


class RandAugmentFixMatch:
    """`n` random operations at random strengths (FixMatch)."""

    def __init__(self, n: int = 2) -> None:
        self.n = n

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return an augmented picture."""
        for name, low, high in random.choices(FIXMATCH, k=self.n):
            img = OPERATIONS[name](img, random.random() * (high - low) + low)
        return img
