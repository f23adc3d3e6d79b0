"""What the generator of the golden numbers and the tests against them must both remake.

A random CLIP, pictures and cases: everything is drawn from raw PCG64 words, whose stream NumPy
guarantees for ever, so that nothing but results has to be stored.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from promptclip.clip.config import CLIPConfig

if TYPE_CHECKING:
    from yacs.config import CfgNode

GOLDEN = Path(__file__).parent / "golden"
SEED = 20230902
EPOCHS = 5  # of the schedule
LIMIT = 1e-5  # largest allowed max|a-b| / max|b| of a tensor, fp32
# Large rates blow rounding up: in the case "deep" of DAPT (rate 0.2) the published code in fp32 is
# 3e-6 from itself in float64, and other instruction sets move ours by as much as 1e-5. Where four
# times the recorded rounding is more than the limit, it is the limit (five tensors of 491).
OWN_ROUNDING = 4.0


def draw(name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> Tensor:
    """Uniform numbers of the given spread, exact in half precision, the same on every machine.

    Half precision because the published loaders convert the weights to it and back.
    """
    words = np.random.PCG64([SEED, zlib.crc32(name.encode())]).random_raw(math.prod(shape))
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    values = (mean + unit * (std * math.sqrt(3.0))).astype(np.float16).astype(np.float32)
    return torch.from_numpy(values).reshape(shape)


def small_clip(embed_dim: int, image_size: int, patch_size: int, **towers: int) -> CLIPConfig:
    """A CLIP with heads of 64 features, as OpenAI's; `towers`: visual_/text_ width and layers."""
    return CLIPConfig(
        embed_dim=embed_dim,
        image_size=image_size,
        patch_size=patch_size,
        visual_heads=towers["visual_width"] // 64,
        text_heads=towers["text_width"] // 64,
        **towers,
    )


CLIPS = {
    "tiny": small_clip(32, 32, 16, visual_width=64, visual_layers=2, text_width=64, text_layers=2),
    "deep": small_clip(64, 48, 8, visual_width=128, visual_layers=3, text_width=128, text_layers=4),
    "one_block": small_clip(
        48, 64, 16, visual_width=128, visual_layers=1, text_width=64, text_layers=1
    ),
    "vit_b16": small_clip(
        512, 224, 16, visual_width=768, visual_layers=12, text_width=512, text_layers=12
    ),
}


def block_shapes(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the blocks of one tower, by OpenAI's key names."""
    block: dict[str, tuple[int, ...]] = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }
    return {
        f"{prefix}transformer.resblocks.{layer}.{key}": shape
        for layer in range(layers)
        for key, shape in block.items()
    }


@lru_cache(maxsize=3)
def random_clip(name: str) -> dict[str, Tensor]:
    """State dict of the random CLIP `name`, by OpenAI's key names; do not write to it."""
    c = CLIPS[name]
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (c.visual_width, 3, c.patch_size, c.patch_size),
        "visual.class_embedding": (c.visual_width,),
        "visual.positional_embedding": ((c.image_size // c.patch_size) ** 2 + 1, c.visual_width),
        "visual.ln_pre.weight": (c.visual_width,),
        "visual.ln_pre.bias": (c.visual_width,),
        "visual.ln_post.weight": (c.visual_width,),
        "visual.ln_post.bias": (c.visual_width,),
        "visual.proj": (c.visual_width, c.embed_dim),
        "token_embedding.weight": (c.vocab_size, c.text_width),
        "positional_embedding": (c.context_length, c.text_width),
        "ln_final.weight": (c.text_width,),
        "ln_final.bias": (c.text_width,),
        "text_projection": (c.text_width, c.embed_dim),
        **block_shapes("visual.", c.visual_width, c.visual_layers),
        **block_shapes("", c.text_width, c.text_layers),
    }
    weights = {"logit_scale": torch.tensor(2.65625)}  # CLIP's own start, ln(1/0.07), in fp16
    for key, shape in sorted(shapes.items()):
        if "ln_" in key:
            std, mean = 0.1, float(key.endswith("weight"))
        elif "embedding" in key:
            std, mean = 0.02, 0.0
        elif key.endswith("bias"):
            std, mean = 0.1, 0.0
        else:
            fan_in = shape[0] if key.endswith("proj") or len(shape) < 2 else math.prod(shape[1:])
            std, mean = (shape[0] if key.endswith("projection") else fan_in) ** -0.5, 0.0
        weights[key] = draw(f"{name}/{key}", shape, std, mean)
    return weights


def fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 over the names and values, to tell a wrong remake from a wrong result."""
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


# From one token to as many as fit; capitals, underscores, digits, inner and final punctuation.
NAMES = (
    "cat",
    "Golden_Retriever",
    "hippopotamus",
    "sea lion",
    "T-shirt (white)",
    "St. Bernard's dog",
    "1957 Chevrolet Bel-Air",
)
LONGEST = "very " * 57 + "dog"  # 58 tokens: with 16 context tokens the prompt has exactly 77
MANY = tuple(f"{kind} {number}" for number in range(9) for kind in NAMES[:7])[:61]


@dataclass(frozen=True)
class Case:
    """One configuration in which the published code was run.

    `options` are keys of `cfg.TRAINER.<METHOD>`; `dataset` is one of the published benchmarks,
    whose name decides over the zero-shot template.
    """

    clip: str
    classnames: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 6
    batches_per_epoch: int = 1
    lr: float = 0.002
    dataset: str = "EuroSAT"
    shots: int = 2
    steps: int = 5

    def images(self, step: int) -> Tensor:
        """Normalised pictures of one training step, [B, 3, H, W]."""
        size = CLIPS[self.clip].image_size
        return draw(f"images/{size}/{step}", (self.batch, 3, size, size), 1.0)

    def label(self, step: int) -> Tensor:
        """Class indices of one training step, [B]; every class comes up where there is room."""
        order = torch.arange(self.batch) * 5 + step * self.batch
        return order % len(self.classnames)

    def pictures(self) -> list[tuple[np.ndarray, int]]:
        """The few-shot training set: 8-bit pictures [H, W, 3] and labels, classes interleaved.

        They are wide, so that the training transform, which squeezes them, and the test
        transform, which crops them, give different prototypes.
        """
        size = CLIPS[self.clip].image_size
        labels = [label for _ in range(self.shots) for label in range(len(self.classnames))]
        pixels = draw(f"pictures/{size}", (len(labels), size, size * 3 // 2, 3), 0.5)
        coarse = pixels.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
        return list(zip(coarse, labels, strict=True))

    def configure(self, cfg: CfgNode, node: str) -> None:
        """Fill either runtime's `cfg` in place; `node` is the method's key under TRAINER."""
        clip = CLIPS[self.clip]
        cfg.SEED = 1
        cfg.USE_CUDA = False
        cfg.DATASET.NUM_SHOTS = self.shots
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.INPUT.SIZE = (clip.image_size, clip.image_size)
        cfg.INPUT.INTERPOLATION = "bicubic"
        cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(clip.mean), list(clip.std)
        cfg.INPUT.TRANSFORMS = ["normalize"]  # a random crop could not be remade
        cfg.OPTIM.NAME = "sgd"  # with Dassl's default momentum and weight decay, as published
        cfg.OPTIM.LR = self.lr
        cfg.OPTIM.MAX_EPOCH = EPOCHS
        cfg.OPTIM.LR_SCHEDULER = "cosine"
        cfg.OPTIM.WARMUP_EPOCH = 1
        cfg.OPTIM.WARMUP_TYPE = "constant"
        cfg.OPTIM.WARMUP_CONS_LR = 1e-5
        for key, value in {**self.options, "PREC": "fp32"}.items():
            cfg.TRAINER[node][key] = value


def coop_cases() -> dict[str, Case]:
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


def dapt_cases() -> dict[str, Case]:
    """The published settings of several benchmarks, on every shape."""

    def options(vis: int, txt: int, vis_beta: float, txt_beta: float) -> dict[str, Any]:
        return {
            "VIS_NUM_TOKENS": vis,
            "TXT_NUM_TOKENS": txt,
            "VIS_BETA": vis_beta,
            "TXT_BETA": txt_beta,
        }

    default = Case("tiny", NAMES, options(16, 16, 0.1, 0.1), lr=0.002)
    return {
        "tiny": default,
        "deep": replace(default, clip="deep", options=options(16, 16, 10.0, 0.01), lr=0.2),
        "one_block": replace(
            default, clip="one_block", options=options(16, 16, 10.0, 0.1), lr=0.02
        ),
        "eurosat": replace(default, options=options(16, 16, 100.0, 10.0), lr=20.0),
        "aircraft": replace(default, clip="deep", options=options(4, 4, 100.0, 0.01), lr=2.0),
        "unequal": replace(default, options=options(3, 5, 0.1, 0.1), batches_per_epoch=2),
        "narrow-kernel": replace(default, options={**options(1, 1, 1.0, 1.0), "TXT_RBF_T": 0.5}),
        "two-classes": replace(default, classnames=NAMES[:2]),
        "longest": replace(default, classnames=(LONGEST, "cat", "sea lion")),
        "many": replace(default, classnames=MANY, options=options(4, 4, 0.1, 0.1), batch=20),
        "vit_b16": replace(default, clip="vit_b16", batch=2, steps=2),
    }


def zsclip_cases() -> dict[str, Case]:
    """Three shapes, three hand-written templates."""
    return {
        "tiny": Case("tiny", NAMES, dataset="EuroSAT"),
        "deep": Case("deep", NAMES, dataset="ImageNet"),
        "one_block": Case("one_block", MANY, dataset="DescribableTextures"),
        "vit_b16": Case("vit_b16", NAMES, dataset="FGVCAircraft", batch=2),
    }


CASES = {"coop": coop_cases(), "dapt": dapt_cases(), "zsclip": zsclip_cases()}

# The dispersion losses alone: classes, features, t, and how far the classes lie apart.
LOSSES = {
    "losses-pair": (2, 8, 2.0, 1.0),
    "losses-many": (60, 128, 2.0, 1.0),
    "losses-wide": (20, 64, 0.5, 1.0),
    "losses-near": (12, 128, 2.0, 0.1),  # cosines of 0.99; trained CLIPs have 0.5 to 0.9
}


def loss_inputs(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Raw image features [B, D], raw text features [C, D], prototypes [C, D], label [B]."""
    classes, width, _, spread = LOSSES[name]
    label = torch.arange(2 * classes) * 7 % classes
    common_part = draw(f"{name}/common", (width,), 1.0)
    text = common_part * (1 - spread) + spread * draw(f"{name}/text", (classes, width), 1.0)
    image = draw(f"{name}/image", (2 * classes, width), 1.0)
    prototypes = 0.9 * draw(f"{name}/prototypes", (classes, width), width**-0.5)
    return image, text, prototypes, label


@lru_cache
def golden(method: str) -> dict[str, Tensor]:
    """All recorded tensors of a method, by "case/tensor"."""
    return load_file(GOLDEN / f"{method}.safetensors")


@lru_cache
def provenance(method: str) -> dict[str, Any]:
    """The sidecar: repository, commit, versions, date, settings of every case."""
    return json.loads((GOLDEN / f"{method}.json").read_text(encoding="utf-8"))


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """max |a-b| / max |b| over a tensor; 0 where both are zero throughout."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, published {theirs.shape}")
    if not theirs.numel():
        return 0.0
    difference = (ours.double() - theirs.double()).abs().max().item()
    return difference / theirs.double().abs().max().item() if difference else 0.0
