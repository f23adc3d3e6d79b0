"""A run's classifier as two plain files, for programs that have the same CLIP but not promptclip.

`classifier.safetensors` holds `weight` [C, D], `bias` [C] and `logit_scale` (a number);
`classifier.json` says of which classes, for which CLIP, of which pixels, and what to do with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import promptclip
from promptclip import classifier, tensor_file
from promptclip.classifier import LinearClassifier
from promptclip.clip.config import CLIPConfig
from promptclip.clip.download import OPENAI
from promptclip.clip.load import OPEN_CLIP
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.files import write_json
from promptclip.predictor import Predictor

WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"
SCHEMA = 1
# Where OpenAI's weights are on Hugging Face's hub; its CLIP has no ResNets.
_HUGGING_FACE = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}


def export(model: Predictor, folder: Path) -> LinearClassifier:
    """Write what a run has learned as a linear classifier.

    Args:
        model: of `promptclip.load`.
        folder: gets two files, and is made if it is not there.

    Returns:
        What was written.

    Raises:
        UserError: if what the run has learned is no such classifier.
        OSError: if the folder cannot be written.
    """
    try:
        found = model.model.linear_classifier()
        classifier.check(model.model, found)
    except UserError as error:
        raise UserError(
            f"what {model.method} has learned cannot be exported as a classifier on CLIP's image "
            f"features: {error}; use the run with `promptclip predict` or promptclip.load, its "
            "tensors are in prompts.safetensors"
        ) from None
    about = describe(model, found)
    tensors: dict[str, Tensor] = {
        "weight": found.weight,
        "bias": found.bias,
        "logit_scale": torch.tensor(found.scale),
    }
    tensor_file.write(tensors, about, folder / WEIGHTS)
    write_json(about, folder / ABOUT)
    return found


def describe(model: Predictor, found: LinearClassifier) -> dict[str, Any]:
    """What another program must know, as JSON content."""
    cfg, clip = model.cfg, model.model.clip
    name = cfg.MODEL.BACKBONE.NAME
    normalised = "normalize" in cfg.INPUT.TRANSFORMS
    divide = ["features = features / features.norm(dim=-1, keepdim=True)"]
    return {
        "schema": SCHEMA,
        "method": model.method,
        "promptclip": promptclip.__version__,
        "config_hash": config_hash(cfg),
        "classnames": model.classnames,
        "backbone": {
            "name": name,
            "sha256": clip.weights_hash,
            "embed_dim": clip.config.embed_dim,
            "open_clip": _open_clip(name),
            "open_clip_config": _open_clip_config(clip.config),
            "hugging_face": _HUGGING_FACE.get(name),
        },
        "image": {
            "size": list(cfg.INPUT.SIZE),
            "mode": "RGB",
            "resize_smaller_side": max(cfg.INPUT.SIZE),
            "interpolation": cfg.INPUT.INTERPOLATION,
            "center_crop": list(cfg.INPUT.SIZE),
            "mean": list(cfg.INPUT.PIXEL_MEAN) if normalised else None,
            "std": list(cfg.INPUT.PIXEL_STD) if normalised else None,
            "steps": [repr(step) for step in model.transform.transforms],
        },
        "normalise": found.normalise,
        "use": [
            "features = clip.encode_image(image)  # of this CLIP, behind its projection, [B, D]",
            *(divide if found.normalise else []),
            "logits = logit_scale * features @ weight.T + bias  # [B, C]",
        ],
    }


def _open_clip(name: str) -> dict[str, str] | None:
    """Model and weights by open_clip's names; None if the weights have none there."""
    if name in OPENAI:
        model = name.removesuffix("@336px").replace("/", "-")
        model += "-336" if name.endswith("@336px") else ""
        return {"model": f"{model}-quickgelu", "pretrained": "openai"}
    if name.startswith(OPEN_CLIP):
        model, _, weights = name.removeprefix(OPEN_CLIP).partition("/")
        return {"model": model, "pretrained": weights}
    return None


def _open_clip_config(config: CLIPConfig) -> dict[str, Any] | None:
    """Sizes as open_clip's `CLIP` takes them; None for a ResNet, whose stages they do not tell."""
    if not config.patch_size:
        return None
    return {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": {
            "image_size": config.image_size,
            "layers": config.visual_layers,
            "width": config.visual_width,
            "head_width": config.visual_width // config.visual_heads,
            "patch_size": config.patch_size,
        },
        "text_cfg": {
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
    }
