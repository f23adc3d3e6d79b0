"""A random CLIP of OpenAI's structure, small enough to run in milliseconds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from promptclip.clip.config import CLIPConfig

TINY = CLIPConfig(
    embed_dim=64,  # four hidden units of the meta-net of CoCoOp: one of them lives
    image_size=32,
    patch_size=8,
    visual_width=48,
    visual_layers=3,
    visual_heads=4,
    text_width=32,
    text_layers=3,
    text_heads=4,
)


def random_state_dict(config: CLIPConfig = TINY, seed: int = 0) -> dict[str, Tensor]:
    """Weights under OpenAI's key names, scaled so that features of different inputs differ."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    def tower(prefix: str, width: int, layers: int) -> dict[str, Tensor]:
        weights = {}
        for i in range(layers):
            name = f"{prefix}.resblocks.{i}"
            for norm in ("ln_1", "ln_2"):
                weights[f"{name}.{norm}.weight"] = 1 + normal(width, std=0.1)
                weights[f"{name}.{norm}.bias"] = normal(width, std=0.1)
            std = width**-0.5
            weights[f"{name}.attn.in_proj_weight"] = normal(3 * width, width, std=std)
            weights[f"{name}.attn.in_proj_bias"] = normal(3 * width, std=0.1)
            weights[f"{name}.attn.out_proj.weight"] = normal(width, width, std=std)
            weights[f"{name}.attn.out_proj.bias"] = normal(width, std=0.1)
            weights[f"{name}.mlp.c_fc.weight"] = normal(4 * width, width, std=std)
            weights[f"{name}.mlp.c_fc.bias"] = normal(4 * width, std=0.1)
            weights[f"{name}.mlp.c_proj.weight"] = normal(width, 4 * width, std=std / 2)
            weights[f"{name}.mlp.c_proj.bias"] = normal(width, std=0.1)
        return weights

    patches = (config.image_size // config.patch_size) ** 2
    v, t, d = config.visual_width, config.text_width, config.embed_dim
    return {
        "visual.conv1.weight": normal(v, 3, config.patch_size, config.patch_size, std=0.1),
        "visual.class_embedding": normal(v, std=v**-0.5),
        "visual.positional_embedding": normal(patches + 1, v, std=v**-0.5),
        "visual.ln_pre.weight": torch.ones(v),
        "visual.ln_pre.bias": normal(v, std=0.1),
        **tower("visual.transformer", v, config.visual_layers),
        "visual.ln_post.weight": torch.ones(v),
        "visual.ln_post.bias": normal(v, std=0.1),
        "visual.proj": normal(v, d, std=v**-0.5),
        "token_embedding.weight": normal(config.vocab_size, t, std=0.5),
        "positional_embedding": normal(config.context_length, t, std=0.1),
        **tower("transformer", t, config.text_layers),
        "ln_final.weight": torch.ones(t),
        "ln_final.bias": normal(t, std=0.1),
        "text_projection": normal(t, d, std=t**-0.5),
        "logit_scale": torch.tensor(math.log(1 / 0.07)),
    }


def save(file: Path, config: CLIPConfig = TINY, seed: int = 0) -> None:
    """Write a random CLIP as MODEL.BACKBONE.NAME takes it."""
    metadata = {"promptclip.config": json.dumps(dataclasses.asdict(config))}
    save_file(random_state_dict(config, seed), file, metadata)
