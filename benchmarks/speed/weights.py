"""A CLIP with random weights, written to a file that trainers load like any other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from promptclip.clip.config import CLIPConfig
from promptclip.clip.load import METADATA_KEY

VIT_B16 = CLIPConfig(
    embed_dim=512,
    image_size=224,
    patch_size=16,
    visual_width=768,
    visual_layers=12,
    visual_heads=12,
    text_width=512,
    text_layers=12,
    text_heads=8,
)
TINY = CLIPConfig(
    embed_dim=64,
    image_size=32,
    patch_size=8,
    visual_width=48,
    visual_layers=3,
    visual_heads=4,
    text_width=32,
    text_layers=3,
    text_heads=4,
)


def write(file: Path, config: CLIPConfig) -> None:
    """Random weights as safetensors, with the sizes in the metadata."""
    save_file(random_weights(config), file, {METADATA_KEY: json.dumps(dataclasses.asdict(config))})


def random_weights(config: CLIPConfig) -> dict[str, Tensor]:
    """Both towers under OpenAI's names, at CLIP's own scale of initialisation."""
    torch.manual_seed(0)
    t, v, d = config.text_width, config.visual_width, config.embed_dim
    patches = (config.image_size // config.patch_size) ** 2
    weights = {
        "visual.conv1.weight": torch.randn(v, 3, config.patch_size, config.patch_size) * 0.02,
        "visual.class_embedding": torch.randn(v) * v**-0.5,
        "visual.positional_embedding": torch.randn(patches + 1, v) * v**-0.5,
        "visual.proj": torch.randn(v, d) * v**-0.5,
        "token_embedding.weight": torch.randn(config.vocab_size, t) * 0.02,
        "positional_embedding": torch.randn(config.context_length, t) * 0.01,
        "text_projection": torch.randn(t, d) * t**-0.5,
        "logit_scale": torch.tensor(4.6052),
        **_blocks("visual.transformer", v, config.visual_layers),
        **_blocks("transformer", t, config.text_layers),
    }
    for norm, width in (("visual.ln_pre", v), ("visual.ln_post", v), ("ln_final", t)):
        weights |= _norm(norm, width)
    return weights


def _blocks(tower: str, width: int, layers: int) -> dict[str, Tensor]:
    weights = {}
    for i in range(layers):
        block = f"{tower}.resblocks.{i}"
        for name, shape in {
            "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width),
            "mlp.c_fc.": (4 * width, width),
            "mlp.c_proj.": (width, 4 * width),
        }.items():
            weights[f"{block}.{name}weight"] = torch.randn(shape) * shape[1] ** -0.5 / 2
            weights[f"{block}.{name}bias"] = torch.randn(shape[0]) * 0.01
        weights |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
    return weights


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
