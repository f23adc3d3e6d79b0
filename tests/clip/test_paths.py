"""The fast path and the textbook path give the same features and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from random_clip import TINY, random_state_dict
from torch import Tensor

from promptclip.clip.attention import attention
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError
from promptclip.prompts import POSITIONS, TextContext, TextTokens, VisualTokens

TOLERANCE = 1e-5
NAMES = {
    "mixed": [
        "dog",
        "fire_engine",
        "a rather long class name, with comma",
        "ox",
        "mother-in-law's",
    ],
    "one class": ["dog"],
    "equal lengths": ["cat", "dog", "owl"],
    "near the limit": ["dog", " ".join(["word"] * 68)],
}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest element of `b`."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture(scope="module")
def pair() -> tuple[FrozenCLIP, FrozenCLIP]:
    """The same weights on the fast and on the textbook path."""
    weights = random_state_dict()
    return FrozenCLIP(weights, TINY), FrozenCLIP(weights, TINY, textbook=True)


def both(
    pair: tuple[FrozenCLIP, FrozenCLIP], run: Callable[[FrozenCLIP], tuple[Tensor, list[Tensor]]]
) -> None:
    """Compare features, and the gradients of a random direction of theirs."""
    results = []
    for clip in pair:
        torch.manual_seed(0)
        features, learned = run(clip)
        torch.manual_seed(1)
        direction = torch.randn(features.shape)
        results.append([features, *torch.autograd.grad((features * direction).sum(), learned)])
    for fast, textbook in zip(*results, strict=True):
        assert fast.shape == textbook.shape
        assert textbook.abs().max() > 0
        assert relative_difference(fast, textbook) < TOLERANCE


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("csc", [False, True], ids=["generic", "class-specific"])
def test_context(pair, names, position, csc):
    def run(clip):
        context = TextContext(clip, names, n_ctx=5, csc=csc, position=position)
        return clip.encode_text(context.tokens, context), [context.ctx]

    both(pair, run)


@pytest.mark.parametrize("position", POSITIONS)
def test_context_of_each_image(pair, position):
    def run(clip):
        context = TextContext(clip, NAMES["mixed"], n_ctx=4, position=position)
        shift = torch.randn(3, 1, TINY.text_width, requires_grad=True)
        features = clip.encode_text(
            context.tokens, lambda layer, _: context.ctx + shift if layer == 0 else None
        )
        assert features.shape == (3, 5, TINY.embed_dim)
        return features, [context.ctx, shift]

    both(pair, run)


@pytest.mark.parametrize("position", POSITIONS)
def test_deep_text_prompts(pair, position):
    def run(clip):
        context = TextContext(clip, NAMES["mixed"], n_ctx=4, position=position)
        deep = torch.randn(3, 4, TINY.text_width, requires_grad=True)
        # the second layer keeps the prompts of the first, the third replaces them
        features = clip.encode_text(
            context.tokens, lambda layer, _: None if layer == 1 else deep[layer]
        )
        return features, [deep]

    both(pair, run)


def test_images_of_each_context_alone_are_the_batch(pair):
    fast, _ = pair
    torch.manual_seed(0)
    context = TextContext(fast, NAMES["mixed"], n_ctx=4)
    ctx = torch.randn(3, 4, TINY.text_width)
    together = fast.encode_text(context.tokens, lambda layer, _: ctx if layer == 0 else None)
    for row, alone in zip(together, ctx, strict=True):
        features = fast.encode_text(
            context.tokens, lambda layer, _, own=alone: own if layer == 0 else None
        )
        torch.testing.assert_close(row, features, rtol=1e-5, atol=1e-5)


def test_hand_written_prompts(pair):
    numbers = tokenize([f"a photo of a {name}." for name in NAMES["mixed"]])
    fast, textbook = (clip.encode_text(numbers) for clip in pair)
    assert relative_difference(fast, textbook) < TOLERANCE


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_images(pair, depth):
    def run(clip):
        tokens = VisualTokens(clip, 4, init=torch.nn.init.normal_, depth=depth)
        return clip.encode_image(torch.randn(2, 3, 32, 32), tokens), [tokens.ctx]

    both(pair, run)


def test_images_without_prompts(pair):
    image = torch.randn(2, 3, 32, 32)
    fast, textbook = (clip.encode_image(image) for clip in pair)
    assert relative_difference(fast, textbook) < TOLERANCE


def test_prompts_before_the_norm_pass_through_it(pair):
    fast, _ = pair
    prompt = torch.randn(4, TINY.visual_width)

    class Before:
        before_norm = True

        def __call__(self, layer, tokens):
            return prompt if layer == 0 else None

    image = torch.randn(2, 3, 32, 32)
    normed = fast.ln_pre(prompt)
    after = fast.encode_image(image, lambda layer, _: normed if layer == 0 else None)
    torch.testing.assert_close(fast.encode_image(image, Before()), after)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_activation_is_the_models(activation, tiny_state_dict):
    import dataclasses

    config = dataclasses.replace(TINY, activation=activation)
    clip = FrozenCLIP(tiny_state_dict, config)
    block = clip.visual_blocks[0]
    x = torch.randn(2, 5, TINY.visual_width)
    attended = torch.zeros(2, TINY.visual_heads, 5, TINY.visual_width // TINY.visual_heads)
    residual = x + block.out_bias
    weights = {
        name: tiny_state_dict[f"visual.transformer.resblocks.0.mlp.{name}"]
        for name in ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
    }
    hidden = block.ln_2(residual) @ weights["c_fc.weight"].T + weights["c_fc.bias"]
    expected = {
        "quick_gelu": hidden * torch.sigmoid(1.702 * hidden),
        "gelu": torch.nn.functional.gelu(hidden),
    }[activation]
    expected = residual + expected @ weights["c_proj.weight"].T + weights["c_proj.bias"]
    torch.testing.assert_close(block.finish(x, attended), expected)
    for precision, near in (("fp16", 2e-3), ("bf16", 2e-2)):
        half = FrozenCLIP(tiny_state_dict, config, precision=precision)
        found = half.visual_blocks[0].finish(x.to(half.dtype), attended.to(half.dtype))
        assert (found.float() - expected).abs().max() < near * expected.abs().max()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
def test_half_precision_is_near_full_precision(precision, tiny_state_dict):
    full = FrozenCLIP(tiny_state_dict, TINY)
    half = FrozenCLIP(tiny_state_dict, TINY, precision=precision)
    torch.manual_seed(0)
    context = TextContext(full, NAMES["mixed"], n_ctx=4)
    image = torch.randn(2, 3, 32, 32)
    for a, b in [
        (half.encode_text(context.tokens, context), full.encode_text(context.tokens, context)),
        (half.encode_image(image), full.encode_image(image)),
    ]:
        assert a.dtype == half.dtype
        assert torch.cosine_similarity(a.float(), b).min() > 0.999


def test_frozen(tiny_state_dict):
    clip = FrozenCLIP(tiny_state_dict, TINY)
    assert not list(clip.parameters())
    assert not clip.train().training


def test_too_many_tokens_name_the_class(pair):
    with pytest.raises(UserError, match="class 'word word.*' has 79 tokens, 8 of them learned"):
        TextContext(pair[0], ["dog", " ".join(["word"] * 68)], n_ctx=8)


def test_wrong_picture_size(pair):
    with pytest.raises(UserError, match="32 x 32 pixels, got 48 x 48 .36 patches instead of 16"):
        pair[0].encode_image(torch.randn(1, 3, 48, 48))


def test_slots_need_a_prompter(pair):
    tokens = TextTokens(pair[0], [[49406, TINY.vocab_size, 320, 49407]])
    with pytest.raises(ValueError, match="give a prompter"):
        pair[0].encode_text(tokens)


def test_resnet_takes_no_prompts(tiny_state_dict):
    clip = FrozenCLIP(tiny_state_dict, TINY, visual=torch.nn.Flatten())
    assert clip.encode_image(torch.zeros(1, 3, 2, 2)).shape == (1, 12)
    with pytest.raises(UserError, match="ResNet"):
        clip.encode_image(torch.zeros(1, 3, 2, 2), VisualTokens(clip, 2, init=torch.nn.init.ones_))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision(causal, precision):
    torch.manual_seed(0)
    exact = [torch.randn(19, 3, 7, 16, requires_grad=True) for _ in range(3)]  # three parts
    half = [one.detach().to(precision).requires_grad_() for one in exact]
    direction = torch.randn(19, 3, 7, 16)
    results = []
    for parts in (half, exact):
        found = attention(*parts, causal=causal)
        gradients = torch.autograd.grad((found * direction).sum(), parts)
        results.append([found, *gradients])
    for ours, theirs in zip(*results, strict=True):
        assert relative_difference(ours.float(), theirs) < 0.03
    with torch.no_grad():
        assert torch.equal(attention(*half, causal=causal), results[0][0])
