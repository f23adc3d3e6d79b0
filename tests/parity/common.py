"""What the generator of the golden numbers and the tests against them must both remake.

A random CLIP, pictures and cases: everything is drawn from raw PCG64 words, whose stream NumPy
guarantees for ever, so that nothing but results has to be stored.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
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
LARGEST = 20_000  # elements of a tensor that is stored whole
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
    # MaPLe's published code has these two widths written into it.
    "wide": small_clip(
        32, 32, 16, visual_width=768, visual_layers=2, text_width=512, text_layers=2
    ),
    # CLIP-Adapter's published code has RN50's 1,024 features written into it.
    "many_features": small_clip(
        1024, 32, 16, visual_width=64, visual_layers=1, text_width=64, text_layers=1
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


@cache
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

    `options` are the published keys of the method; `dataset` is one of the published benchmarks,
    whose name decides over the zero-shot template; `epochs` are those of the schedule.
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
    epochs: int = EPOCHS

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

    def configure(self, cfg: CfgNode) -> None:
        """Fill what is the same for all methods in either runtime's `cfg`, in place."""
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
        cfg.OPTIM.MAX_EPOCH = self.epochs
        cfg.OPTIM.LR_SCHEDULER = "cosine"
        cfg.OPTIM.WARMUP_EPOCH = 1
        cfg.OPTIM.WARMUP_TYPE = "constant"
        cfg.OPTIM.WARMUP_CONS_LR = 1e-5


def sketch(
    tensors: Mapping[str, Tensor], largest: int = LARGEST, *, signed: bool = False
) -> dict[str, Tensor]:
    """The same, but of a large matrix only its sums along each axis and some of its elements.

    No element can differ without its two sums, and the files stay small. With `signed` a fixed half
    of the elements counts negative: plain sums are 0 for a weight in front of a normalisation.
    """
    result = {}
    for key, value in tensors.items():
        if value.numel() <= largest:
            result[key] = value
            continue
        matrix = value.flatten(0, -2)
        if signed:
            matrix = matrix * draw("signs", tuple(matrix.shape), 1.0).sign().to(matrix.dtype)
        result[f"{key}#0"], result[f"{key}#1"] = matrix.sum(0), matrix.sum(1)
        result[f"{key}#some"] = value.flatten()[:: value.numel() // 1009]
    return result


@cache
def golden(method: str) -> dict[str, Tensor]:
    """All recorded tensors of a method, by "case/tensor"."""
    return load_file(GOLDEN / f"{method}.safetensors")


def golden_case(method: str, name: str) -> dict[str, Tensor]:
    """The recorded tensors of one case."""
    whole = golden(method).items()
    return {key.removeprefix(f"{name}/"): v for key, v in whole if key.startswith(f"{name}/")}


@cache
def provenance(method: str) -> dict[str, Any]:
    """The sidecar: repository, commit, versions, date, settings of every case."""
    return json.loads((GOLDEN / f"{method}.json").read_text(encoding="utf-8"))


def relative_difference(ours: Tensor, theirs: Tensor, scale: float = 0.0) -> float:
    """max |a-b| / max |b| over a tensor, max |b| at least `scale`; 0 where both are zero."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, published {theirs.shape}")
    if not theirs.numel():
        return 0.0
    difference = (ours.double() - theirs.double()).abs().max().item()
    return difference / max(theirs.double().abs().max().item(), scale) if difference else 0.0


def difference_of(key: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The relative difference of one tensor of a sketch.

    Sums are measured by the elements if these are larger: before a normalisation the columns of a
    gradient sum to zero, and what is left of that is rounding.
    """
    name, _, part = key.partition("#")
    scale = theirs[f"{name}#some"].abs().max().item() if part else 0.0
    return relative_difference(ours[key], theirs[key], scale)
