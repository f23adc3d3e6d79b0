"""Transforms named in `INPUT.TRANSFORMS`; their order is fixed here, not by the list."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from dassl.data.transforms.randaugment import RandAugment, RandAugment2, RandAugmentFixMatch
from dassl.data.transforms.usual import (
    RESAMPLING,
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

logger = logging.getLogger(__name__)

Step: TypeAlias = tuple[str, Callable[[Any], Any]]

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # accepted, and done in testing anyway
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]


def __getattr__(name: str) -> Any:
    # Third-party code imports this from here for torchvision's transforms; only then is that needed
    if name == "INTERPOLATION_MODES":
        return {mode: _theirs().InterpolationMode(mode) for mode in RESAMPLING}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _theirs() -> Any:
    """Return torchvision's transforms, where one is needed: see `usual`."""
    import torchvision.transforms  # type: ignore[import-untyped]

    return torchvision.transforms


class Random2DTranslation:
    """Resize; with probability `p`, to 9/8 of the size followed by a random crop."""

    def __init__(
        self,
        height: int,
        width: int,
        p: float = 0.5,
        interpolation: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return a picture of the target size."""
        if random.uniform(0, 1) > self.p:
            return Resize((self.height, self.width), self.interpolation)(img)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        img = Resize((height, width), self.interpolation)(img)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return img.crop((left, top, left + self.width, top + self.height))


class InstanceNormalization:
    """Zero mean and unit standard deviation in each channel of a picture [C, H, W]."""

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, img: Tensor) -> Tensor:
        """Return a picture [C, H, W]."""
        std, mean = torch.std_mean(img, dim=(1, 2), keepdim=True)
        return (img - mean) / (std + self.eps)


class Cutout:
    """Square holes of zeros at random places (arXiv:1708.04552)."""

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        """Set number and edge length in pixels of the holes."""
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: Tensor) -> Tensor:
        """Return a picture [C, H, W]."""
        _, height, width = img.shape
        img = img.clone()
        half = self.length // 2
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            img[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0.0
        return img


class GaussianNoise:
    """Additive noise with probability `p`."""

    def __init__(self, mean: float = 0, std: float = 0.15, p: float = 0.5) -> None:
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img: Tensor) -> Tensor:
        """Return a picture [C, H, W]."""
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.shape) * self.std + self.mean


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None
) -> Any:
    """Build the transform that `cfg.INPUT` describes.

    Args:
        cfg: the configuration.
        is_train: with augmentation; else resize the short side, crop the centre.
        choices: names to use instead of `cfg.INPUT.TRANSFORMS`.

    Returns:
        A function from a PIL image to a tensor [3, H, W]; None if `INPUT.NO_TRANSFORM`.

    Raises:
        ValueError: if a name is unknown.
    """
    if cfg.INPUT.NO_TRANSFORM:
        logger.info("Note: no transform is applied!")
        return None
    chosen = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in chosen:
        if choice not in AVAI_CHOICES:
            raise ValueError(f"INPUT.TRANSFORMS must be among {AVAI_CHOICES}, got {choice!r}")
    logger.info("Building transform_%s", "train" if is_train else "test")
    steps = list((_train_steps if is_train else _test_steps)(cfg.INPUT, chosen))
    for description, _ in steps:
        logger.info("+ %s", description)
    return Compose([step for _, step in steps])


def _train_steps(cfg: CfgNode, choices: Sequence[str]) -> Iterator[Step]:
    size, mode = cfg.SIZE, RESAMPLING[cfg.INTERPOLATION]
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        yield f"resize to {size[0]}x{size[1]}", Resize(size, interpolation=mode)
    if "random_translation" in choices:
        yield "random translation", Random2DTranslation(size[0], size[1])
    if "random_crop" in choices:
        padding = cfg.CROP_PADDING
        yield f"random crop (padding = {padding})", _theirs().RandomCrop(size, padding=padding)
    if "random_resized_crop" in choices:
        scale = cfg.RRCROP_SCALE
        yield (
            f"random resized crop (size={size}, scale={scale})",
            RandomResizedCrop(size, scale=scale, interpolation=mode),
        )
    if "random_flip" in choices:
        yield "random flip", RandomHorizontalFlip()
    for policy in ("imagenet", "cifar10", "svhn"):
        if f"{policy}_policy" in choices:
            yield f"{policy} policy", _theirs().AutoAugment(_theirs().AutoAugmentPolicy(policy))
    n, m = cfg.RANDAUGMENT_N, cfg.RANDAUGMENT_M
    if "randaugment" in choices:
        yield f"randaugment (n={n}, m={m})", RandAugment(n, m)
    if "randaugment_fixmatch" in choices:
        yield f"randaugment_fixmatch (n={n})", RandAugmentFixMatch(n)
    if "randaugment2" in choices:
        yield f"randaugment2 (n={n})", RandAugment2(n)
    if "colorjitter" in choices:
        b, c, s, h = cfg.COLORJITTER_B, cfg.COLORJITTER_C, cfg.COLORJITTER_S, cfg.COLORJITTER_H
        yield (
            f"color jitter (brightness={b}, contrast={c}, saturation={s}, hue={h})",
            _theirs().ColorJitter(brightness=b, contrast=c, saturation=s, hue=h),
        )
    if "randomgrayscale" in choices:
        yield "random gray scale", _theirs().RandomGrayscale(p=cfg.RGS_P)
    if "gaussian_blur" in choices:
        blur = _theirs().RandomApply([_theirs().GaussianBlur(cfg.GB_K)], p=cfg.GB_P)
        yield f"gaussian blur (kernel={cfg.GB_K})", blur
    yield "to torch tensor of range [0, 1]", ToTensor()
    if "cutout" in choices:
        holes, length = cfg.CUTOUT_N, cfg.CUTOUT_LEN
        yield f"cutout (n_holes={holes}, length={length})", Cutout(holes, length)
    yield from _normalize_step(cfg, choices)
    if "gaussian_noise" in choices:
        mean, std = cfg.GN_MEAN, cfg.GN_STD
        yield f"gaussian noise (mean={mean}, std={std})", GaussianNoise(mean, std)
    yield from _instance_norm_step(choices)


def _test_steps(cfg: CfgNode, choices: Sequence[str]) -> Iterator[Step]:
    size, mode = cfg.SIZE, RESAMPLING[cfg.INTERPOLATION]
    yield f"resize the smaller edge to {max(size)}", Resize(max(size), interpolation=mode)
    yield f"{size[0]}x{size[1]} center crop", CenterCrop(size)
    yield "to torch tensor of range [0, 1]", ToTensor()
    yield from _normalize_step(cfg, choices)
    yield from _instance_norm_step(choices)


def _normalize_step(cfg: CfgNode, choices: Sequence[str]) -> Iterator[Step]:
    if "normalize" in choices:
        mean, std = cfg.PIXEL_MEAN, cfg.PIXEL_STD
        yield f"normalization (mean={mean}, std={std})", Normalize(mean=mean, std=std)


def _instance_norm_step(choices: Sequence[str]) -> Iterator[Step]:
    if "instance_norm" in choices:
        yield "instance normalization", InstanceNormalization()
