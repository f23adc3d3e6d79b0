"""Prompts at several layers of both towers: MaPLe's coupled ones and IVLP's independent ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_clip import TINY

from promptclip import plugins
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError
from promptclip.prompts import LayerTokens

NAMES = ("dog", "Golden_Retriever", "hippopotamus in a zoo")


@pytest.fixture(params=[False, True], ids=["fast", "textbook"])
def clip(request, tiny_state_dict) -> FrozenCLIP:
    return FrozenCLIP(tiny_state_dict, TINY, textbook=request.param)


def build(method: str, clip: FrozenCLIP, **options: Any) -> Any:
    """A method's model with depths that fit, unless told otherwise."""
    depths = {
        "MaPLe": {"prompt_depth": 2},
        "IVLP": {"prompt_depth_text": 2, "prompt_depth_vision": 2},
        "PromptSRC": {"prompt_depth_text": 2, "prompt_depth_vision": 2},
    }
    trainer = plugins.methods()[method]
    wanted = trainer.Options(**{**depths[method], **options})
    return trainer.Model(clip, NAMES, wanted, "a photo of a {}.")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


SHALLOW = {
    "MaPLe": {"prompt_depth": 1},
    "IVLP": {"prompt_depth_text": 1, "prompt_depth_vision": 1},
}


@pytest.mark.parametrize("words", ["a photo of a", "a_photo_of_a", "hippopotamus and a photo of a"])
@pytest.mark.parametrize("method", ["MaPLe", "IVLP"])
def test_untrained_words_are_the_hand_written_prompt(method, words, clip):
    model = build(method, clip, ctx_init=words, **SHALLOW[method])
    assert len(model.text_prompter.ctx) == 2
    prompts = [f"{words} {name}.".replace("_", " ") for name in NAMES]
    written = clip.encode_text(tokenize(prompts))
    torch.testing.assert_close(model.text_features(), written)


@pytest.mark.parametrize("method", ["MaPLe", "IVLP"])
def test_only_the_first_words_are_learned(method, clip):
    model = build(method, clip, **SHALLOW[method])
    (gradient,) = torch.autograd.grad(model.text_features().sum(), [model.text_prompter.ctx])
    assert gradient.shape == (2, TINY.text_width)
    with torch.no_grad():
        model.text_prompter.ctx.copy_(clip.token_embedding[tokenize(["two cats"])[0, 1:3]])
    prompts = [f"two cats of a {name}.".replace("_", " ") for name in NAMES]
    torch.testing.assert_close(model.text_features(), clip.encode_text(tokenize(prompts)))


@pytest.mark.parametrize("method", ["MaPLe", "IVLP", "PromptSRC"])
def test_too_few_words(method, clip):
    key = "n_ctx" if method == "MaPLe" else "n_ctx_text"
    with pytest.raises(UserError, match="CTX_INIT must be empty.* 5 context.*'a photo of a' has 4"):
        build(method, clip, **{key: 5})
    assert len(build(method, clip, ctx_init="", **{key: 5}).text_prompter.ctx) == 5


@pytest.mark.parametrize(
    ("method", "option", "value", "expected"),
    [
        ("MaPLe", "prompt_depth", 4, "at most 3, the layers"),
        ("MaPLe", "prompt_depth", 0, "at least 1"),
        ("MaPLe", "n_ctx", 0, "at least 1"),
        ("IVLP", "prompt_depth_text", 4, "1 to 3, the layers"),
        ("IVLP", "prompt_depth_text", 0, "1 to 3, the layers"),
        ("IVLP", "prompt_depth_vision", 4, "0 to 3, the layers"),
        ("IVLP", "prompt_depth_vision", -1, "0 to 3, the layers"),
        ("IVLP", "n_ctx_text", 0, "at least 1"),
        ("IVLP", "n_ctx_vision", -1, "at least 0"),
        ("PromptSRC", "prompt_depth_vision", 4, "0 to 3, the layers"),
    ],
)
def test_out_of_range(method, option, value, expected, clip):
    key = f"TRAINER.{method.upper()}.{option.upper()}"
    with pytest.raises(UserError, match=f"{key} must be {expected}.*, got {value}"):
        build(method, clip, **{option: value})


def test_visual_prompts_are_maps_of_the_text_prompts(clip, image):
    model = build("MaPLe", clip, prompt_depth=3)
    prompts, text = model.prompt_learner, model.text_prompter
    layers = [text.ctx, *text.deep]
    maps = [(one.weight, one.bias) for one in prompts.coupling]
    tokens = [x @ weight.T + bias for x, (weight, bias) in zip(layers, maps, strict=True)]
    expected = clip.encode_image(image, LayerTokens(tokens, before_norm=True))
    torch.testing.assert_close(model.image_features(image), expected)
    assert prompts(3, image) is None


def test_all_but_the_first_map_start_equal(clip):
    first, second, third = build("MaPLe", clip, prompt_depth=3).prompt_learner.coupling
    assert torch.equal(second.weight, third.weight)
    assert torch.equal(second.bias, third.bias)
    assert second.weight is not third.weight
    assert not torch.equal(first.weight, second.weight)


def test_one_loss_moves_both_towers(clip, image):
    model = build("MaPLe", clip, prompt_depth=3)
    wanted = [model.text_prompter.ctx, model.text_prompter.deep]
    for gradient in torch.autograd.grad(model.image_features(image).sum(), wanted):
        assert (gradient.flatten(-2).abs().amax(-1) > 0).all()
    model = build("IVLP", clip, prompt_depth_text=3)
    wanted = [model.text_prompter.ctx, model.text_prompter.deep]
    with pytest.raises(RuntimeError, match="not.* used in the graph"):
        torch.autograd.grad(model.image_features(image).sum(), wanted)


@pytest.mark.parametrize("option", ["n_ctx_vision", "prompt_depth_vision"])
def test_text_only(option, clip, image):
    model = build("IVLP", clip, **{option: 0})
    assert set(dict(model.prompt_learner.named_parameters())) == {"text.ctx", "text.deep"}
    torch.testing.assert_close(model.image_features(image), clip.encode_image(image))
    assert not model.image_features(image).requires_grad


def test_towers_of_other_widths_and_depths():
    from parity import common

    config = common.CLIPS["deep"]  # 3 and 4 layers of 128
    clip = FrozenCLIP(common.random_clip("deep"), config)
    model = build("MaPLe", clip, prompt_depth=3)
    assert model.prompt_learner.coupling[0].weight.shape == (128, 128)
    with pytest.raises(UserError, match="at most 3"):
        build("MaPLe", clip, prompt_depth=4)
    assert len(build("IVLP", clip, prompt_depth_text=4).text_prompter.deep) == 3
