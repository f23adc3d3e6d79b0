"""open_clip's models: their sizes and weights by name, and how one in memory is built."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from promptclip.clip import hub
from promptclip.clip.download import OPENAI, openai_weights
from promptclip.errors import UserError
from promptclip.files import expanded

SUPPORTED = (
    "supported are CLIP's vision transformer or ResNet together with its causal text transformer "
    "and tokenizer (open_clip's ViT-*, without SigLIP, CLIPA and worldwide, and RN*)"
)
_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
_FREE = {  # what a configuration may choose; everything else must be as in CLIP
    "model": {
        "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale",
    },
    "vision": {
        "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout",
    },
    "text": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}  # fmt: skip


def find(name: str) -> tuple[Path, dict[str, Any]]:
    """The file of weights and the sizes of `MODEL/TAG` or `MODEL/PATH`.

    Args:
        name: a model of open_clip's, a slash, and one of the model's tags or the path of a
            checkpoint. A tag's weights are fetched from the Hugging Face hub if they are not in its
            cache, see `promptclip.clip.hub`.

    Returns:
        The path, and the fields of `CLIPConfig`. Activation and pixel statistics are those that
        the tag was trained with; for a checkpoint, the model's.

    Raises:
        UserError: if there is no such model or file, or the model is not a supported CLIP.
    """
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    model, _, weights = name.partition("/")
    known = open_clip.list_models()
    if model not in known:
        close = get_close_matches(model, known, n=3)
        raise UserError(
            f"open_clip has no model {model!r}"
            + (f"; did you mean {', '.join(close)}?" if close else "")
            + " (expected open_clip:MODEL/TAG or open_clip:MODEL/PATH)"
        )
    config = open_clip.get_model_config(model)
    vision, text = config["vision_cfg"], config["text_cfg"]
    unusual = [
        *(config.keys() - _FREE["model"]),
        *_unusual(vision, CLIPVisionCfg(), _FREE["vision"]),
        *_unusual(text, CLIPTextCfg(), _FREE["text"]),
    ]
    if unusual:
        raise UserError(
            f"open_clip's {model} is not supported ({', '.join(sorted(set(unusual)))}); {SUPPORTED}"
        )
    vision, text = CLIPVisionCfg(**vision), CLIPTextCfg(**text)

    trained = open_clip.get_pretrained_cfg(model, weights)
    settings = {
        "embed_dim": config["embed_dim"],
        "image_size": vision.image_size,
        "visual_width": vision.width,
        "text_width": text.width,
        "text_layers": text.layers,
        "text_heads": text.heads,
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "activation": "quick_gelu" if (trained or config).get("quick_gelu") else "gelu",
    }
    if isinstance(vision.layers, int):
        settings |= {
            "patch_size": vision.patch_size,
            "visual_layers": vision.layers,
            "visual_heads": vision.width // vision.head_width,
        }
    else:
        settings["visual_heads"] = vision.width * 32 // vision.head_width
    if trained:
        settings |= {"mean": tuple(trained["mean"]), "std": tuple(trained["std"])}
    return _weights(model, weights, trained), settings


def describe(model: nn.Module) -> dict[str, Any]:
    """What the tensors of a model in memory do not tell.

    Args:
        model: of OpenAI's `clip` package or of open_clip.

    Returns:
        Fields of `CLIPConfig`: heads, activation, and the pixel statistics if the model has them.

    Raises:
        UserError: if it is built otherwise than CLIP.
    """
    visual: Any = getattr(model, "visual", None)
    text: Any = getattr(model, "text", model)  # apart in open_clip's CustomTextCLIP
    try:
        attention = visual.attnpool if hasattr(visual, "attnpool") else _first_block(visual).attn
        settings = {
            "visual_heads": attention.num_heads,
            "text_heads": _first_block(text).attn.num_heads,
            "activation": _ACTIVATIONS[type(_first_block(text).mlp.gelu).__name__],
        }
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"the towers of the model are not CLIP's; {SUPPORTED}") from None
    gelus = [module for name, module in model.named_modules() if name.endswith(".mlp.gelu")]
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    as_in_clip = {
        "image tower's pooling": getattr(visual, "pool_type", "tok") == "tok",
        "image tower's last norm": not getattr(visual, "final_ln_after_pool", False),
        "text tower's pooling": _attribute(model, text, "pool_type") in {None, "argmax"},
        "text tower's mask": getattr(text, "attn_mask", "in the blocks") is not None,
        "activation": len({repr(gelu) for gelu in gelus}) == 1
        and getattr(gelus[0], "approximate", "none") == "none",
        "norm's epsilon": {norm.eps for norm in norms} == {nn.LayerNorm(1).eps},
    }
    if unusual := [part for part, usual in as_in_clip.items() if not usual]:
        raise UserError(f"the model's {', '.join(unusual)} is not CLIP's; {SUPPORTED}")
    for field, attribute in (("mean", "image_mean"), ("std", "image_std")):
        if (value := getattr(visual, attribute, None)) is not None:
            settings[field] = tuple(value)
    return settings


def _first_block(tower: Any) -> Any:
    return tower.transformer.resblocks[0]


def _attribute(model: nn.Module, text: nn.Module, name: str) -> Any:
    """Of the text tower; open_clip's CLIP has it flattened into itself as `text_NAME`."""
    return getattr(model, f"text_{name}", getattr(text, name, None))


def _unusual(given: Mapping[str, Any], usual: Any, free: set[str]) -> list[str]:
    return [
        key
        for key, value in given.items()
        if key not in free and value != getattr(usual, key, None)
    ]


def _weights(model: str, weights: str, trained: Mapping[str, Any]) -> Path:
    import open_clip

    if trained:
        for name, end in OPENAI.items():
            if trained["url"].endswith(end):
                return openai_weights(name)
        if not trained["hf_hub"]:
            raise UserError(
                f"the weights {weights} of {model} have no checksum where they are "
                f"({trained['url']}), so they are not fetched for you; fetch them and give "
                f"open_clip:{model}/PATH"
            )
        try:
            return hub.weights(trained["hf_hub"])
        except UserError:
            raise
        except Exception as error:  # whatever the hub's client, the network and the disk raise
            raise UserError(
                f"open_clip could not get the weights {weights} of {model} "
                f"({trained['hf_hub']}): {error}".replace("\n", " ")
            ) from error
    path = expanded(weights)
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UserError(
            f"open_clip's {model} has the tags {tags}; {weights!r} is none of them, nor a file"
        )
    return path
