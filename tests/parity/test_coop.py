"""CoOp's tokens."""

from __future__ import annotations

import pytest
import torch
from parity import common
from parity.spec import specs

from promptclip.clip.tokenizer import tokenize

CASES = specs()["coop"].cases


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.clip == "tiny"])
def test_tokens(name: str) -> None:
    """Class names are cut into the same tokens."""
    case = CASES[name]
    words = case.options.get("CTX_INIT", "").replace("_", " ")
    context = words or " ".join(["X"] * case.options["N_CTX"])
    prompts = [f"{context} {classname.replace('_', ' ')}." for classname in case.classnames]
    assert torch.equal(tokenize(prompts).int(), common.golden("coop")[f"{name}/tokens"])
