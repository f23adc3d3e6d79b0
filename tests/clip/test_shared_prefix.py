"""The text tower in parts: the numbers of the textbook path, whatever the memory budget."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_clip import TINY, random_state_dict
from torch import Tensor

from promptclip import memory, prompts
from promptclip.clip import shared_prefix
from promptclip.clip.model import FrozenCLIP
from promptclip.prompts import LayerTokens, TextContext, group_lengths

NAMES = ["cat", "golden retriever", "dog", "yellow lady slipper orchid", "sea", "jet", "oak tree"]
NONE, AMPLE = 1.0, 1e12  # budgets in bytes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in ("promptclip.prompts", "promptclip.clip.shared_prefix"):
        monkeypatch.setattr(f"{module}.TOKENS_AT_ONCE", 8)


def clip(**settings: object) -> FrozenCLIP:
    return FrozenCLIP(random_state_dict(), TINY, **settings)


def run(clip: FrozenCLIP, images: int = 0, **options: object) -> tuple[Tensor, Tensor]:
    """Features and the gradient with respect to the learned vectors."""
    torch.manual_seed(0)
    context = TextContext(clip, NAMES, n_ctx=4, **options)
    prompter = context
    if images:
        shift = torch.randn(images, 1, clip.config.text_width).to(clip.device) / 10
        prompter = LayerTokens([context.ctx + shift])
    features = clip.encode_text(context.tokens, prompter)
    (features * torch.randn(features.shape).to(clip.device)).sum().backward()
    return features.detach(), context.ctx.grad


CASES = {
    "generic": {},
    "class-specific": {"csc": True},
    "middle": {"position": "middle"},
    "front": {"position": "front"},
    "deep": {"depth": 2},
    "of 3 images": {"images": 3},
    "of 3 images, front": {"images": 3, "position": "front"},
}


@pytest.mark.parametrize("cost", [0, 3, 10**6])  # of a group: none, some, all of them padded
@pytest.mark.parametrize("budget", [NONE, AMPLE])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_textbook_path(case, budget, cost, monkeypatch):
    monkeypatch.setattr(prompts, "group_cost", lambda device, dtype: cost)
    ours = run(clip(memory_budget=budget), **case)
    theirs = run(clip(textbook=True), **case)
    for mine, textbook in zip(ours, theirs, strict=True):
        assert (mine - textbook).abs().max() < 1e-5 * textbook.abs().max()


@pytest.mark.parametrize("precision", ["bf16", "amp"])
def test_few_groups_in_half_precision(precision, monkeypatch):
    """On a CPU names of several lengths are padded to one, and read where they end."""
    monkeypatch.setattr(prompts, "TOKENS_AT_ONCE", 100)
    own = TextContext(clip(precision=precision), NAMES, n_ctx=4).tokens.parts
    plain = TextContext(clip(), NAMES, n_ctx=4).tokens.parts
    assert sum(len(part.groups) for part in own) < sum(len(part.groups) for part in plain)
    for mine, textbook in zip(
        run(clip(precision=precision)), run(clip(precision=precision, textbook=True)), strict=True
    ):
        assert torch.cosine_similarity(mine.float(), textbook.float()).min() > 0.999


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_budget_changes_no_bit(case):
    ample, tiny = (run(clip(memory_budget=budget), **case) for budget in (AMPLE, NONE))
    assert all(map(torch.equal, ample, tiny))


def test_parts_are_computed_again_where_the_budget_ends(monkeypatch):
    parts, counted = [], []
    own, saved_for_backward = shared_prefix._part, memory.saved_for_backward

    def part(clip, tokens, own_tokens, learned):
        parts.append(own_tokens)
        return own(clip, tokens, own_tokens, learned)

    @contextmanager
    def counting(without):
        with saved_for_backward(without) as saved:
            counted.append(saved)
            yield saved

    monkeypatch.setattr(shared_prefix, "_part", part)
    monkeypatch.setattr(memory, "saved_for_backward", counting)
    run(clip(memory_budget=AMPLE))
    number, needed = len(parts), sum(saved.bytes for saved in counted)
    assert number == len(set(parts)) > 3  # none twice
    parts.clear()
    run(clip(memory_budget=NONE))
    assert len(parts) == 2 * number - 1  # the first is kept, to see what a part needs
    parts.clear()
    counted.clear()
    run(clip(memory_budget=needed / 2))
    assert number < len(parts) < 2 * number - 1
    assert sum(saved.bytes for saved in counted) < needed / 2 + max(s.bytes for s in counted)


def test_without_gradient_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(memory, "available", None)
    tower = clip()
    context = TextContext(tower, NAMES, n_ctx=4)
    with torch.no_grad():
        assert len(tower.encode_text(context.tokens, context)) == len(NAMES)


@pytest.mark.parametrize("budget", [NONE, AMPLE])
def test_nothing_stays_behind(budget):
    tower = clip(memory_budget=budget)
    context = TextContext(tower, NAMES, n_ctx=4)
    features = tower.encode_text(context.tokens, context)
    learned = weakref.ref(context.ctx)  # which the graph holds
    del context
    assert learned() is not None
    del features
    gc.collect()
    assert learned() is None


def test_half_of_the_free_memory_is_the_budget_unless_one_is_given(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    assert shared_prefix._Budget(clip()).left == 500
    assert shared_prefix._Budget(clip(memory_budget=70)).left == 70


@pytest.mark.parametrize(
    ("lengths", "cost", "padded"),
    [
        ([2, 2, 3, 7], 0, [2, 2, 3, 7]),
        ([2, 2, 3, 7], 3, [3, 3, 3, 7]),  # two tokens of padding for a group less
        ([2, 2, 3, 7], 2, [2, 2, 3, 7]),  # as good: then none is padded
        ([2, 2, 3, 7], 1, [2, 2, 3, 7]),
        ([2, 2, 3, 7], 100, [7, 7, 7, 7]),
        ([4], 100, [4]),
    ],
)
def test_groups_are_merged_where_padding_costs_less(lengths, cost, padded):
    assert group_lengths(lengths, cost) == padded


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12).map(sorted),
    st.integers(0, 30),
)
def test_no_other_groups_cost_less(lengths, cost):
    def total(ends):
        padded = [next(end for end in ends if end >= length) for length in lengths]
        return sum(padded) + cost * len(set(padded))

    kinds = sorted(set(lengths))
    every = [[*some, kinds[-1]] for n in range(len(kinds)) for some in combinations(kinds[:-1], n)]
    found = group_lengths(lengths, cost)
    assert all(a >= b for a, b in zip(found, lengths, strict=True))
    assert sum(found) + cost * len(set(found)) == min(map(total, every))
