"""What tensors a CLIP consists of: sizes read from them, and whether all are there.

The names are OpenAI's, which open_clip kept. `h` stands for the hidden width of an MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn

from promptclip.clip.config import CLIPConfig
from promptclip.errors import UserError

StateDict = dict[str, Tensor]

HEAD_WIDTH = 64  # openai/CLIP d05afc4, clip/model.py, build_model


def infer_config(state_dict: Mapping[str, Tensor]) -> CLIPConfig:
    """Reads the sizes off the tensors as OpenAI's `build_model` does.

    Args:
        state_dict: tensors by OpenAI's names.

    Returns:
        The sizes, with OpenAI's activation, 64 features in a head, and OpenAI's pixel statistics:
        these are not to be seen in the tensors.

    Raises:
        UserError: if a tensor that tells a size is missing or has another rank.
    """
    try:
        text_width, embed_dim = state_dict["text_projection"].shape
        context_length, _ = state_dict["positional_embedding"].shape
        vocab_size, _ = state_dict["token_embedding.weight"].shape
        if "visual.attnpool.positional_embedding" in state_dict:
            width, *_ = state_dict["visual.layer1.0.conv1.weight"].shape
            pooled, _ = state_dict["visual.attnpool.positional_embedding"].shape
            visual_heads = width * 32 // HEAD_WIDTH
            image_size, patch_size = isqrt(pooled - 1) * 32, 0
        else:
            width, _, patch_size, _ = state_dict["visual.conv1.weight"].shape
            pooled, _ = state_dict["visual.positional_embedding"].shape
            visual_heads = width // HEAD_WIDTH
            image_size = isqrt(pooled - 1) * patch_size
    except KeyError as error:
        raise UserError(f"a CLIP has a tensor {error}, this has {_some(state_dict)}") from None
    except ValueError:
        raise UserError("these tensors have not the ranks of a CLIP's") from None
    return CLIPConfig(
        embed_dim=embed_dim,
        image_size=image_size,
        patch_size=patch_size,
        visual_width=width,
        visual_layers=sum(_resnet_layers(state_dict)) or _depth(state_dict, "visual.transformer."),
        visual_heads=visual_heads,
        text_width=text_width,
        text_layers=_depth(state_dict, "transformer."),
        text_heads=text_width // HEAD_WIDTH,
        context_length=context_length,
        vocab_size=vocab_size,
    )


def check_tensors(
    state_dict: Mapping[str, Tensor], config: CLIPConfig, visual: nn.Module | None
) -> None:
    """Refuses a set of tensors that is not exactly the one this configuration needs.

    Args:
        state_dict: tensors by OpenAI's names.
        config: the sizes that they should have.
        visual: the image tower where it is not a vision transformer; it names its own tensors.

    Raises:
        UserError: if one is missing, is not known, has another shape or holds what is no number;
            naming the first.
    """
    shapes = _text_shapes(config, _hidden(state_dict, "transformer.", config.text_width))
    if visual is None:
        hidden = _hidden(state_dict, "visual.transformer.", config.visual_width)
        shapes |= _vit_shapes(config, hidden)
    else:
        shapes |= {f"visual.{k}": tuple(v.shape) for k, v in visual.state_dict().items()}
    if missing := shapes.keys() - state_dict.keys():
        raise UserError(f"tensors are missing: {_some(missing)}")
    if unknown := state_dict.keys() - shapes.keys():
        raise UserError(
            f"unknown tensors: {_some(unknown)}; supported are CLIP's vision transformer or ResNet "
            "with its causal text transformer"
        )
    for name, shape in shapes.items():
        if (came := tuple(state_dict[name].shape)) != shape:
            raise UserError(f"the shape of {name} must be {list(shape)}, is {list(came)}")
    if broken := not_finite(state_dict):
        raise UserError(f"{broken} has numbers that are not finite; get the file again")
    if config.activation not in {"quick_gelu", "gelu"}:
        raise UserError(f'the activation must be "quick_gelu" or "gelu", is {config.activation!r}')
    for tower, width, heads in (
        ("text", config.text_width, config.text_heads),
        ("image", config.visual_width, config.visual_heads),
    ):
        if heads < 1 or (width % heads and visual is None):
            raise UserError(
                f"the {tower} tower's width must be a multiple of its heads, is "
                f"{width} with {heads} heads"
            )


def not_finite(tensors: Mapping[str, object]) -> str:
    """The name of the first tensor that holds NaN or an infinite number; "" if none does."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            continue
        # Two numbers, without a copy of the others; NaN is both the least and the greatest.
        if not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
            return name
    return ""


def build_resnet(state_dict: Mapping[str, Tensor], config: CLIPConfig) -> nn.Module | None:
    """The image tower of a CLIP with OpenAI's modified ResNet, still without storage.

    Args:
        state_dict: tensors by OpenAI's names.
        config: the sizes that they have.

    Returns:
        The module, or None if the image tower is not a ResNet.
    """
    layers = _resnet_layers(state_dict)
    if not any(layers):
        return None
    from open_clip.modified_resnet import ModifiedResNet

    with torch.device("meta"):
        resnet: nn.Module = ModifiedResNet(
            layers, config.embed_dim, config.visual_heads, config.image_size, config.visual_width
        )
    return resnet


def _resnet_layers(state_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(_count(state_dict, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))


def _depth(state_dict: Mapping[str, Tensor], tower: str) -> int:
    return _count(state_dict, f"{tower}resblocks.")


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow the prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)})


def _hidden(state_dict: Mapping[str, Tensor], tower: str, width: int) -> int:
    weight = state_dict.get(f"{tower}resblocks.0.mlp.c_fc.weight")
    return 4 * width if weight is None else weight.shape[0]


def _text_shapes(config: CLIPConfig, hidden: int) -> dict[str, tuple[int, ...]]:
    width = config.text_width
    return {
        "token_embedding.weight": (config.vocab_size, width),
        "positional_embedding": (config.context_length, width),
        **_blocks("transformer.", config.text_layers, width, hidden),
        **_norm("ln_final", width),
        "text_projection": (width, config.embed_dim),
        "logit_scale": (),
    }


def _vit_shapes(config: CLIPConfig, hidden: int) -> dict[str, tuple[int, ...]]:
    width, patch = config.visual_width, config.patch_size
    tokens = (config.image_size // patch) ** 2 + 1 if patch else 0
    return {
        "visual.class_embedding": (width,),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": (tokens, width),
        **_norm("visual.ln_pre", width),
        **_blocks("visual.transformer.", config.visual_layers, width, hidden),
        **_norm("visual.ln_post", width),
        "visual.proj": (width, config.embed_dim),
    }


def _blocks(tower: str, layers: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    block = {
        **_norm("ln_1", width),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        **_norm("ln_2", width),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    return {f"{tower}resblocks.{i}.{k}": v for i in range(layers) for k, v in block.items()}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _some(names: Mapping[str, Tensor] | set[str], n: int = 3) -> str:
    first, rest = sorted(names)[:n], len(names) - n
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
