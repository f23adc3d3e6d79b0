"""DAPT computes what mlvlab/DAPT computes: prompts of both towers, prototypes, three losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import common, ours

from promptclip.losses import inter_dispersion, intra_dispersion
from promptclip.trainer import unit

SLOW = {"vit_b16": pytest.mark.slow}
CASES = [pytest.param(name, marks=SLOW.get(name, ())) for name in common.CASES["dapt"]]


@pytest.mark.parametrize("path", ["fast", "textbook"])
@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, path: str, tmp_path: Path, compare: Any) -> None:
    """Prototypes, features, logits, each term and its gradient, and five optimiser steps."""
    result = ours.run_learner("dapt", name, tmp_path, textbook=path == "textbook")
    compare("dapt", name, path, result)


@pytest.mark.parametrize("name", common.LOSSES)
def test_dispersion_losses(name: str, compare: Any) -> None:
    """Both losses on random features, and their gradients through the normalisation."""
    image, text, prototypes, label = common.loss_inputs(name)
    temperature = common.LOSSES[name][2]
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
def test_start(clip: str, tmp_path: Path) -> None:
    """Both draw the visual prompt from one interval, and the text prompt with one spread."""
    config = common.CLIPS[clip]
    bound = math.sqrt(6 / (3 * config.patch_size**2 + config.visual_width))
    trainer = ours.build("dapt", clip, tmp_path, textbook=False)
    own = ours.learned("dapt", trainer)
    for visual, text in (
        (own["vis_ctx"], own["txt_ctx"]),
        tuple(common.golden("dapt")[f"{clip}/init/{key}"] for key in ("vis_ctx", "txt_ctx")),
    ):
        assert 0.98 * bound < visual.abs().max() <= bound
        assert visual.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert text.std().item() == pytest.approx(0.02, rel=0.1)
        assert visual.shape == (1, 16, config.visual_width)
        assert text.shape == (16, config.text_width)
