"""UPT: the fork pedramyamini2023/UPT of the authors' release, trainers/unified.py, `Unified_v6`.

The fork's one change to that file calls the routine for image prompts that exists. Dropout is 0.1
in the published modules and 0 here in all cases but one: in "dropout" both sides draw their masks
from a generator seeded before each forward pass, and it shows that they drop at the same places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from parity.common import MANY, NAMES, SEED, Case, draw
from parity.spec import Pair, Spec, unit
from torch import Tensor, nn

LONGEST = "very " * 69 + "dog"  # 70 tokens: with 4 context tokens the prompt has exactly 77


def cases() -> dict[str, Case]:
    """Every position and shape; the published split works for four tokens only."""
    default = Case("tiny", NAMES, {"DROPOUT": 0.0})

    def at(position: str) -> dict[str, Any]:
        return {"DROPOUT": 0.0, "CLASS_TOKEN_POSITION": position}

    return {
        "deep": replace(default, clip="deep", classnames=NAMES[:6], lr=0.02),
        "one_block": replace(default, clip="one_block", classnames=NAMES[:5], options=at("middle")),
        "tiny": default,
        "middle": replace(default, options=at("middle")),
        "front": replace(default, options=at("front")),
        "random-start": replace(default, options={"DROPOUT": 0.0, "CTX_INIT": "", "N_CTX": 4}),
        "single-class": replace(default, classnames=("dog",), lr=2.0),
        "longest": replace(default, classnames=(LONGEST, "cat", "sea lion")),
        "many": replace(default, classnames=MANY, batch=20),
        "epochs": replace(default, batches_per_epoch=2, steps=8, epochs=50, lr=0.2),
        "dropout": replace(default, options={"DROPOUT": 0.1}, batches_per_epoch=2),
        "vit_b16": replace(default, clip="vit_b16", batch=2, steps=2),
    }


def seed_every_forward(model: nn.Module) -> None:
    """Let every forward pass of a model draw the same dropout masks."""
    model.register_forward_pre_hook(lambda *_: torch.manual_seed(SEED) and None)


class UPT(Spec):
    """The published keys are CoOp's. Words to start from only set the number of tokens."""

    name = "upt"
    repository = "https://github.com/pedramyamini2023/UPT"
    module = "trainers.unified"
    trainer = "Unified_v6"
    cases = cases()
    node = "COOP"
    defaults = {
        "N_CTX": 16,
        "CTX_INIT": "a photo of a",
        "CSC": False,
        "CLASS_TOKEN_POSITION": "end",
    }
    largest = 2_000

    def learned(self, case: Case) -> dict[str, Pair]:
        """U and the transform."""
        modules = {
            "attention.in_proj_": ("self_attn.in_proj_", "attention.in_proj_"),
            "attention.out_": ("self_attn.out_proj.", "attention.out_proj."),
            "norm_1.": ("norm1.", "norm_1."),
            "norm_2.": ("norm2.", "norm_2."),
            "ffn_in.": ("linear1.", "ffn_in."),
            "ffn_out.": ("linear2.", "ffn_out."),
            "to_visual.": ("mlp.", "to_visual."),
        }
        pairs = {
            f"{short}{kind}": (f"prompt_learner.{theirs}{kind}", f"prompt_learner.{ours}{kind}")
            for short, (theirs, ours) in modules.items()
            for kind in ("weight", "bias")
        }
        return {"ctx": ("prompt_learner.uni_ctx", "prompt_learner.ctx"), **pairs}

    def build(self, published: type, cfg: Any) -> Any:
        """With the case's dropout."""
        trainer = published(cfg)
        rate = cfg.TRAINER.COOP.DROPOUT
        for module in trainer.model.prompt_learner.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = rate
        seed_every_forward(trainer.model)
        return trainer

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """In training, and in a test of other pictures; and the prompts of the test."""
        learner = trainer.model.prompt_learner
        torch.manual_seed(SEED)
        result = self._towers(trainer.model, images)
        learner.eval()
        tested = self._towers(trainer.model, test_pictures(images.shape[-1]).to(images.dtype))
        result |= {f"test/{key}": value for key, value in tested.items()}
        result["test/u_t"] = learner.get_text_prompt()
        result["test/u_v"] = learner.get_visual_prompt()
        return result

    def _towers(self, model: Any, images: Tensor) -> dict[str, Tensor]:
        image, _ = model.image_encoder.forward_prompt(
            images, model.prompt_learner.get_visual_prompt()
        )
        text = model.text_encoder(model.prompt_learner(), model.tokenized_prompts)
        return {"image_features": unit(image), "text_features": unit(text)}

    def options(self, case: Case) -> dict[str, Any]:
        """The published defaults of the others are ours."""
        ours = ("DROPOUT", "CLASS_TOKEN_POSITION")
        return {key: value for key, value in case.options.items() if key in ours}

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """A test, where the prompts are computed once."""
        model = trainer.model
        seed_every_forward(model)
        trainer.set_model_mode("eval")
        with torch.no_grad():
            output = model(test_pictures(model.clip.config.image_size))
            text, visual = model.prompts()
        model.forget()
        return {
            "test/image_features": output.image_features,
            "test/text_features": output.text_features,
            "test/u_t": text,
            "test/u_v": torch.cat(visual),
        }


def test_pictures(size: int) -> Tensor:
    """A batch of pictures that no step sees, [3, 3, H, W]."""
    return draw(f"upt/test/{size}", (3, 3, size, size), 1.0)


SPEC = UPT()
