"""Every method computes what the published one computes, in every case that was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import common, ours
from parity.spec import specs

CASES = [
    pytest.param(method, name, marks=pytest.mark.slow if case.clip == "vit_b16" else ())
    for method, spec in sorted(specs().items())
    for name, case in spec.cases.items()
]


@pytest.mark.parametrize("path", ["fast", pytest.param("textbook", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("method", "name"), CASES)
def test_steps(method: str, name: str, path: str, tmp_path: Path, compare: Any) -> None:
    """Features, logits, terms and their gradients, at each of the recorded optimiser steps."""
    spec = specs()[method]
    result = ours.run(spec, name, tmp_path, textbook=path == "textbook")
    compare(method, name, path, common.sketch(result, spec.largest, signed=spec.signed))


@pytest.mark.parametrize("clip", [clip for clip in common.CLIPS if clip != "vit_b16"])
def test_same_weights(clip: str) -> None:
    """The random CLIP is remade bit by bit; without this no other difference means anything."""
    remade = common.fingerprint(common.random_clip(clip))
    recorded = {method: common.provenance(method)["clips"].get(clip) for method in specs()}
    assert any(recorded.values())
    for method, there in recorded.items():
        assert there is None or there["sha256"] == remade, method


@pytest.mark.parametrize("method", sorted(specs()))
def test_start(method: str, tmp_path: Path) -> None:
    """Learned tensors start with the spread of the published ones."""
    spec = specs()[method]
    for number, (name, case) in enumerate(spec.cases.items()):
        pairs = spec.learned(case)
        if not pairs or case.clip == "vit_b16" or number > 2:
            continue
        torch.manual_seed(common.SEED)
        own = ours.learned(spec, name, ours.build(spec, name, tmp_path, textbook=False))
        for short, published in common.provenance(method)["cases"][name]["start"].items():
            value = own[short].value
            if value.numel() < 200:  # too few to tell a spread to 15 percent
                continue
            chance = max(0.15, 3 / value.numel() ** 0.5)
            assert value.std().item() == pytest.approx(published["std"], rel=chance, abs=1e-6), (
                short
            )
            assert value.abs().max().item() < 1.5 * published["max"] + 1e-6, short


def test_every_method_with_published_code_is_here() -> None:
    """A golden file without a test, or the reverse, would go unnoticed."""
    assert {file.stem for file in common.GOLDEN.glob("*.safetensors")} == specs().keys()
