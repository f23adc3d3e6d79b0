"""CoOp: KaiyangZhou/CoOp, trainers/coop.py."""

from __future__ import annotations

from parity.common import LONGEST, MANY, NAMES, Case
from parity.spec import Pair, Spec


def cases() -> dict[str, Case]:
    """Every position, generic and class-specific, on every shape; starts, lengths, counts."""
    cases = {}
    for index, clip in enumerate(("tiny", "deep", "one_block")):
        names = NAMES[: 7 - index]
        for position in ("end", "middle", "front"):
            place = {"CLASS_TOKEN_POSITION": position}
            cases[f"{clip}-generic-{position}"] = Case(clip, names, {"N_CTX": 16, **place})
            cases[f"{clip}-specific-{position}"] = Case(
                clip, names, {"N_CTX": 4, "CSC": True, **place}
            )
    for position in ("end", "middle", "front"):
        place = {"CLASS_TOKEN_POSITION": position}
        words = {"CTX_INIT": "a photo of a", **place}
        cases[f"words-{position}"] = Case("deep", NAMES, words, batches_per_epoch=2)
        cases[f"longest-{position}"] = Case("tiny", (LONGEST, "cat"), {"N_CTX": 16, **place})
        cases[f"odd-{position}"] = Case("tiny", NAMES, {"N_CTX": 5, **place})
        cases[f"full-stop-{position}"] = Case("tiny", ("dr.", "cat", "U.S."), {"N_CTX": 4, **place})
    cases["words-underscores"] = Case("tiny", NAMES, {"CTX_INIT": "a_photo_of_a"})
    # Its gradient is zero, so that all it learns is weight decay.
    cases["single-class"] = Case("tiny", ("dog",), {"N_CTX": 16}, lr=2.0)
    cases["one-token"] = Case("tiny", ("dog", "cat"), {"N_CTX": 1}, batch=5)
    cases["many"] = Case("tiny", MANY, {"N_CTX": 4})
    cases["vit_b16"] = Case("vit_b16", NAMES, {"N_CTX": 16}, batch=2, steps=2)
    return cases


class CoOp(Spec):
    """Its keys are ours."""

    name = "coop"
    repository = "https://github.com/KaiyangZhou/CoOp"
    module = "trainers.coop"
    trainer = "CoOp"
    cases = cases()
    node = "COOP"
    defaults = {"N_CTX": 16, "CTX_INIT": "", "CSC": False, "CLASS_TOKEN_POSITION": "end"}
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """The context."""
        return {"ctx": ("prompt_learner.ctx", "prompt_learner.ctx")}


SPEC = CoOp()
