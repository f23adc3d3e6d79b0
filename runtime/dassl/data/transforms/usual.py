"""The transforms of nearly every recipe, on PIL images, without torchvision.

Importing torchvision imports PyTorch's compiler, which takes longer than all else that a training
on a small data set needs before its first step. These draw the random numbers that torchvision's
transforms of the same names draw, and give the same pixels to the bit (`tests/runtime`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_ATTEMPTS = 10  # at a crop that lies inside of the picture
_RATIOS = 3 / 4, 4 / 3  # of a crop's width to its height


@dataclass
class Compose:
    """Several transforms, one after the other."""

    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, img: Any) -> Any:
        """Return what the last one makes."""
        for transform in self.transforms:
            img = transform(img)
        return img


@dataclass
class Resize:
    """To a height and a width; with a single number, that becomes the shorter edge."""

    size: int | Sequence[int]
    interpolation: Image.Resampling = Image.Resampling.BILINEAR

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return a picture of that size."""
        if isinstance(self.size, int):
            width, height = (self.size * edge // min(img.size) for edge in img.size)
        else:
            height, width = self.size
        if (width, height) == img.size:
            return img
        return img.resize((width, height), self.interpolation)


@dataclass
class CenterCrop:
    """The middle of a picture that is at least as large: height and width."""

    size: Sequence[int]

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return a picture of that size."""
        height, width = self.size
        left, top = round((img.width - width) / 2), round((img.height - height) / 2)
        return img.crop((left, top, left + width, top + height))


@dataclass
class RandomResizedCrop:
    """A random part of the picture, made as large as all others: height and width.

    Args:
        size: to be returned.
        scale: the least and the largest share of the picture's area.
        interpolation: how pixels are resampled.
    """

    size: Sequence[int]
    scale: Sequence[float] = (0.08, 1.0)
    interpolation: Image.Resampling = Image.Resampling.BILINEAR

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return a picture of that size."""
        left, top, width, height = self._part(img.width, img.height)
        part = img.crop((left, top, left + width, top + height))
        return Resize(self.size, self.interpolation)(part)

    def _part(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left and upper edge, width and height, drawn at random."""
        logarithms = torch.tensor(_RATIOS).log().tolist()  # rounded to fp32, as the draw from them
        for _ in range(_ATTEMPTS):
            area = width * height * torch.empty(1).uniform_(*self.scale).item()
            ratio = torch.empty(1).uniform_(*logarithms).exp().item()
            its_width, its_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < its_width <= width and 0 < its_height <= height:
                top = int(torch.randint(0, height - its_height + 1, (1,)))
                left = int(torch.randint(0, width - its_width + 1, (1,)))
                return left, top, its_width, its_height
        # The largest part in the middle that is neither too high nor too wide
        least, most = _RATIOS
        its_width, its_height = width, height
        if width / height < least:
            its_height = round(width / least)
        elif width / height > most:
            its_width = round(height * most)
        return (width - its_width) // 2, (height - its_height) // 2, its_width, its_height


@dataclass
class RandomHorizontalFlip:
    """Left and right exchanged, with probability `p`."""

    p: float = 0.5

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return a picture of the same size."""
        flip = torch.rand(1) < self.p
        return img.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else img


@dataclass
class ToTensor:
    """Numbers from 0 to 1 of a picture with 8 bits in each channel."""

    def __call__(self, img: Image.Image) -> Tensor:
        """Return a tensor [C, H, W]."""
        pixels = np.array(img)
        if pixels.dtype != np.uint8:  # other depths: torchvision knows what they mean
            import torchvision.transforms.functional as F  # type: ignore[import-untyped]

            other: Tensor = F.to_tensor(img)
            return other
        whole = torch.from_numpy(pixels.reshape(img.height, img.width, -1))
        return whole.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255)


@dataclass
class Normalize:
    """Channels less their means, over their deviations."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if not all(self.std):
            raise ValueError(f"expected deviations other than 0, got {list(self.std)}")

    def __call__(self, img: Tensor) -> Tensor:
        """Return a tensor [C, H, W]."""
        mean, std = (
            torch.tensor(numbers, dtype=img.dtype)[:, None, None]
            for numbers in (self.mean, self.std)
        )
        return (img - mean).div_(std)
