"""The towers on a GPU: the budget, compiled blocks, the textbook path."""

from __future__ import annotations

import pytest
import torch
from clip.test_shared_prefix import AMPLE, CASES, NONE, clip, run
from torch import Tensor

from promptclip.prompts import TextContext


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in ("promptclip.prompts", "promptclip.clip.shared_prefix"):
        monkeypatch.setattr(f"{module}.TOKENS_AT_ONCE", 8)


def on_gpu(**settings: object):
    return clip(**settings).to("cuda")


def near(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float) -> None:
    for mine, textbook in zip(ours, theirs, strict=True):
        assert (mine - textbook).abs().max() < tolerance * textbook.abs().max()


@pytest.mark.parametrize("budget", [NONE, AMPLE])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_textbook_path(case, budget):
    near(run(on_gpu(memory_budget=budget), **case), run(on_gpu(textbook=True), **case), 1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_budget_changes_no_bit(case):
    ample, tiny = (run(on_gpu(memory_budget=budget), **case) for budget in (AMPLE, NONE))
    assert all(map(torch.equal, ample, tiny))


@pytest.mark.parametrize("precision", ["amp", "bf16", "fp16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_half_precision_is_as_near_as_the_textbook_path_in_it(case, precision):
    exact = run(on_gpu(textbook=True), **case)
    ours = run(on_gpu(precision=precision), **case)
    theirs = run(on_gpu(precision=precision, textbook=True), **case)
    for mine, textbook, true in zip(ours, theirs, exact, strict=True):
        assert (mine - true).norm() < 2 * (textbook - true).norm() + 1e-3 * true.norm()


@pytest.mark.parametrize("case", ["generic", "deep"])
def test_compiled_blocks(case):
    pytest.importorskip("triton")
    near(run(on_gpu(compile_blocks=True), **CASES[case]), run(on_gpu(), **CASES[case]), 1e-5)


def test_a_recording_is_not_replayed_while_its_backward_pass_is_due():
    tower = on_gpu(graphs=True)
    context = TextContext(tower, ["cat", "oak tree"], n_ctx=4)

    def gradient(features: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(features.square().sum(), context.ctx)
        return found

    first, second = (tower.encode_text(context.tokens, context) for _ in range(2))
    one, other = gradient(second), gradient(first)
    assert torch.allclose(one, other, rtol=1e-4)
    with torch.no_grad():
        context.ctx.mul_(2)
    later = tower.encode_text(context.tokens, context)
    tower.record_text = False
    expected = tower.encode_text(context.tokens, context)
    assert torch.allclose(later, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient(later), gradient(expected), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(later, first, rtol=1e-3)


def test_a_second_backward_pass_through_a_recording_is_refused():
    tower = on_gpu(graphs=True)
    context = TextContext(tower, ["cat", "oak tree"], n_ctx=4)
    loss = tower.encode_text(context.tokens, context).square().sum()
    torch.autograd.grad(loss, context.ctx, retain_graph=True)
    with pytest.raises(RuntimeError, match="COMPUTE.CUDA_GRAPHS False"):
        torch.autograd.grad(loss, context.ctx)
