"""VPT: the two published sets of keys, and what each of them makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import batch_of, build

from promptclip.errors import UserError
from promptclip.trainer import unit

LAYERS = 3  # of the small CLIP's image tower
DEFAULTS: dict[str, object] = {
    "N_CTX_VISION": 2,
    "PROMPT_DEPTH_VISION": 1,
    "CTX_INIT": "a photo of a",
}


def vpt(mini: Path, folder: Path, **options: object) -> Any:
    """A trainer with the defaults of MaPLe's repository, not those of tiny.yaml."""
    options = DEFAULTS | options
    overrides = [word for key in options for word in (f"TRAINER.VPT.{key}", options[key])]
    return build("VPT", mini, folder, *overrides)


def test_maples_keys(mini: Path, tmp_path: Path) -> None:
    model = vpt(mini, tmp_path, N_CTX_VISION=4, PROMPT_DEPTH_VISION=2).model
    assert model.prompt_learner.ctx.shape == (2, 4, model.clip.config.visual_width)
    assert model.prompt_learner.before_norm
    written = unit(model.encode_template("a photo of a {}."))
    torch.testing.assert_close(model.unit_text_features(), written)


def test_dpts_keys(mini: Path, tmp_path: Path) -> None:
    model = vpt(mini, tmp_path, N_CTX=4).model
    assert model.prompt_learner.ctx.shape == (LAYERS, 4, model.clip.config.visual_width)
    assert not model.prompt_learner.before_norm
    written = unit(model.encode_template("a picture of a {}."))  # the benchmark's
    torch.testing.assert_close(model.unit_text_features(), written)


@pytest.mark.parametrize(
    ("words", "template"),
    [("", "a picture of a {}."), ("  ", "a picture of a {}."), ("an_icon of", "an icon of {}.")],
)
def test_words_of_the_classifier(words: str, template: str, mini: Path, tmp_path: Path) -> None:
    model = vpt(mini, tmp_path, CTX_INIT=words).model
    torch.testing.assert_close(model.unit_text_features(), unit(model.encode_template(template)))


def test_shallow_tokens_stay_and_deep_ones_are_replaced(mini: Path, tmp_path: Path) -> None:
    shallow = vpt(mini, tmp_path / "shallow")
    deep = vpt(mini, tmp_path / "deep", PROMPT_DEPTH_VISION=LAYERS)
    image = batch_of(shallow)["img"]
    with torch.no_grad():
        deep.model.prompt_learner.ctx[:1].copy_(shallow.model.prompt_learner.ctx)
        before = deep.model(image).image_features
        assert not torch.allclose(before, shallow.model(image).image_features)
        # What the first layer makes of its tokens is dropped, but not what it told the others
        deep.model.prompt_learner.ctx[0].add_(1)
        assert not torch.allclose(before, deep.model(image).image_features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"PROMPT_DEPTH_VISION": 4}, "PROMPT_DEPTH_VISION must be at most 3, the layers, got 4"),
        ({"PROMPT_DEPTH_VISION": 0}, "PROMPT_DEPTH_VISION must be at least 1, got 0"),
        ({"N_CTX_VISION": 0}, "N_CTX_VISION must be at least 1, got 0"),
        ({"N_CTX": -1}, "N_CTX must be at least 0, got -1"),
        ({"LN": True}, "LN must be False: .* never reads it, got True"),
        ({"CTX_INIT": "a {} of"}, "CTX_INIT must be words, which the class name follows"),
        ({"N_CTX": 5, "N_CTX_VISION": 8}, "N_CTX_VISION must be left at 2 .*two repositories"),
        ({"N_CTX": 5, "PROMPT_DEPTH_VISION": 3}, "PROMPT_DEPTH_VISION must be left at 1 "),
        ({"N_CTX": 5, "CTX_INIT": ""}, "CTX_INIT must be left at 'a photo of a' "),
    ],
)
def test_values_out_of_range(
    options: dict[str, object], message: str, mini: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"TRAINER.VPT.{message}"):
        vpt(mini, tmp_path, **options)
