"""CoOp computes what KaiyangZhou/CoOp computes: every start, position and kind of context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import common, ours

from promptclip.clip.tokenizer import tokenize

SLOW = {"vit_b16": pytest.mark.slow}
CASES = [pytest.param(name, marks=SLOW.get(name, ())) for name in common.CASES["coop"]]


@pytest.mark.parametrize("path", ["fast", "textbook"])
@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, path: str, tmp_path: Path, compare: Any) -> None:
    """Features, logits, loss and gradient, at each of five optimiser steps."""
    result = ours.run_learner("coop", name, tmp_path, textbook=path == "textbook")
    compare("coop", name, path, result)


@pytest.mark.parametrize("name", [n for n, c in common.CASES["coop"].items() if c.clip == "tiny"])
def test_tokens(name: str) -> None:
    """Class names are cut into the same tokens."""
    case = common.CASES["coop"][name]
    words = case.options.get("CTX_INIT", "").replace("_", " ")
    context = words or " ".join(["X"] * case.options["N_CTX"])
    prompts = [f"{context} {classname.replace('_', ' ')}." for classname in case.classnames]
    assert torch.equal(tokenize(prompts).int(), common.golden("coop")[f"{name}/tokens"])


@pytest.mark.parametrize("clip", ["tiny", "deep", "one_block"])
@pytest.mark.parametrize("method", ["coop", "dapt", "zsclip"])
def test_same_weights(method: str, clip: str) -> None:
    """The random CLIP is remade bit by bit; without this no other difference means anything."""
    recorded = common.provenance(method)["clips"][clip]["sha256"]
    assert common.fingerprint(common.random_clip(clip)) == recorded
