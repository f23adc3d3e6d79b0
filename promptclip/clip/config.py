"""The shape of a CLIP model, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip/clip.py, _transform
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes that a state dict alone does not tell, or tells only indirectly.

    `patch_size` 0 means that the image tower is not a vision transformer (OpenAI's RN50, RN101):
    it can be run, but not prompted. Sizes are in pixels, tokens and features.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    visual_width: int
    visual_layers: int
    visual_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = "quick_gelu"  # or "gelu"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
