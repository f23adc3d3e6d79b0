"""What the cases of DPT must cover for their numbers to mean anything."""

from __future__ import annotations

import pytest
from parity import common
from parity.methods.dpt import SPEC


@pytest.mark.parametrize("name", ["top", "all-guided", "deep-two", "many"])
def test_some_true_classes_are_missed(name: str) -> None:
    """L_ca leaves images out in some, and not in all."""
    case, likely = SPEC.cases[name], common.golden("dpt")[f"{name}/likely"]
    hit = (likely.long() == case.label(0)[:, None]).any(1)
    assert 0 < hit.sum() < len(hit)


def test_both_phases() -> None:
    """Terms that every step has tell the phase; a case with both has the auxiliary one alone."""
    phases = {
        name: {
            key.split("/")[2]
            for key in common.golden("dpt")
            if key.startswith(f"{name}/steps/") and key.count("/") == 2
        }
        - {"lr", "loss", "logits", "logits#0", "logits#1", "logits#some"}
        for name in ("top", "all-guided", "longest", "deep-two")
    }
    assert phases == {
        "top": {"class_aware"},
        "deep-two": {"class_aware"},
        "all-guided": {"text", "image", "joint", "class_aware"},
        "longest": {"ce", "class_aware"},
    }
