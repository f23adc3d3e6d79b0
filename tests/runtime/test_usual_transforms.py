"""The usual transforms do what torchvision's of the same names do: pixels and random numbers."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from dassl.data.transforms import INTERPOLATION_MODES, usual
from PIL import Image

SIZES = [(40, 30), (30, 40), (32, 32), (33, 32), (97, 50), (50, 97), (8, 200), (200, 8)]
MODES = sorted(usual.RESAMPLING)


def picture(width, height, mode="RGB"):
    numbers = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(numbers.astype(np.uint8)).convert(mode)


def same(ours, theirs, image, seeds=1):
    """Equal pixels, and equal random numbers left to draw."""
    for seed in range(seeds):
        found = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            result = transform(image)
            pixels = result if torch.is_tensor(result) else torch.from_numpy(np.array(result))
            found.append((pixels, torch.get_rng_state()))
        (mine, my_state), (expected, their_state) = found
        assert mine.dtype == expected.dtype
        assert torch.equal(mine, expected), (seed, image.size)
        assert torch.equal(my_state, their_state)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [32, (32, 32), (20, 33), [50, 8]])
def test_resize(size, mode):
    ours = usual.Resize(size, usual.RESAMPLING[mode])
    for width, height in SIZES:
        same(ours, T.Resize(size, INTERPOLATION_MODES[mode]), picture(width, height))


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 5)])
def test_center_crop(size):
    for width, height in SIZES:
        same(usual.CenterCrop(size), T.CenterCrop(size), picture(width, height))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.0)])
def test_random_resized_crop(mode, scale):
    ours = usual.RandomResizedCrop((24, 20), scale, usual.RESAMPLING[mode])
    theirs = T.RandomResizedCrop((24, 20), scale, interpolation=INTERPOLATION_MODES[mode])
    for width, height in SIZES:
        same(ours, theirs, picture(width, height), seeds=20)


def test_random_flip():
    same(usual.RandomHorizontalFlip(), T.RandomHorizontalFlip(), picture(9, 7), seeds=20)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I", "F", "1"])
def test_to_tensor(mode):
    same(usual.ToTensor(), T.ToTensor(), picture(9, 7, mode))


def test_normalize():
    mean, std = [0.481, 0.457, 0.408], [0.268, 0.261, 0.275]
    ours = usual.Compose([usual.ToTensor(), usual.Normalize(mean, std)])
    same(ours, T.Compose([T.ToTensor(), T.Normalize(mean, std)]), picture(9, 7))
    with pytest.raises(ValueError, match="deviations other than 0"):
        usual.Normalize(mean, [1.0, 0.0, 1.0])


def test_a_tensor_that_is_normalized_stays_as_it_was():
    image = torch.rand(3, 2, 2)
    before = image.clone()
    usual.Normalize([0.5] * 3, [2.0] * 3)(image)
    assert torch.equal(image, before)
