"""Zero-shot CLIP computes what the zero-shot trainer of KaiyangZhou/CoOp computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import common, ours

SLOW = {"vit_b16": pytest.mark.slow}
CASES = [pytest.param(name, marks=SLOW.get(name, ())) for name in common.CASES["zsclip"]]


@pytest.mark.parametrize("path", ["fast", "textbook"])
@pytest.mark.parametrize("name", CASES)
def test_features(name: str, path: str, tmp_path: Path, compare: Any) -> None:
    """Features of both towers and logits, with the benchmark's hand-written prompt."""
    trainer = ours.build("zsclip", name, tmp_path, textbook=path == "textbook")
    with torch.no_grad():
        output = trainer.model(common.CASES["zsclip"][name].images(0))
    result = {
        "image_features": output.image_features,
        "text_features": output.text_features,
        "logits": output.logits,
    }
    compare("zsclip", name, path, result)
