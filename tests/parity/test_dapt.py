"""DAPT's dispersion losses, and the bound of its visual prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import common, ours
from parity.methods.dapt import LOSSES, SPEC, loss_inputs

from promptclip.losses import inter_dispersion, intra_dispersion
from promptclip.trainer import unit


@pytest.mark.parametrize("name", LOSSES)
def test_dispersion_losses(name: str, compare: Any) -> None:
    """Both losses on random features, and their gradients through the normalisation."""
    image, text, prototypes, label = loss_inputs(name)
    temperature = LOSSES[name][2]
    intra = intra_dispersion(unit(image.requires_grad_()), prototypes, label)
    inter = inter_dispersion(unit(text.requires_grad_()), temperature)
    (image_gradient,) = torch.autograd.grad(intra, [image])
    (text_gradient,) = torch.autograd.grad(inter, [text])
    result = {
        "losses/intra": intra.detach(),
        "losses/inter": inter.detach(),
        "grad/image": image_gradient,
        "grad/text": text_gradient,
    }
    compare("dapt", name, "losses", result)


@pytest.mark.parametrize("clip", ["tiny", "deep", "one_block"])
def test_bound(clip: str, tmp_path: Path) -> None:
    """Both draw the visual prompt from one interval."""
    config = common.CLIPS[clip]
    bound = math.sqrt(6 / (3 * config.patch_size**2 + config.visual_width))
    own = ours.learned(SPEC, clip, ours.build(SPEC, clip, tmp_path, textbook=False))
    for visual in (own["vis_ctx"].value, common.golden("dapt")[f"{clip}/init/vis_ctx"]):
        assert 0.98 * bound < visual.abs().max() <= bound
