"""A CLIP that cannot be trained, with one place for prompts in each tower.

The loops over blocks are explicit, so that a method says which prompt tokens enter which layer
and nothing has to be patched. The text tower has two paths with equal results:

* the textbook path pushes all 77 positions of every class through every block, step by step;
* the fast path, `promptclip.clip.shared_prefix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptclip.clip import shared_prefix
from promptclip.clip.attention import attention, by_head
from promptclip.clip.compiling import compiled
from promptclip.clip.config import CLIPConfig
from promptclip.clip.mlp import GAIN, FrozenMLP, added, quick_gelu
from promptclip.errors import UserError
from promptclip.tensor_file import tensors_hash

if TYPE_CHECKING:
    from promptclip.prompts import TextTokens

PRECISIONS = ("fp32", "fp16", "bf16", "amp")
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}
_OF_TEXT = ("text_", "token_embedding", "ln_final", "logit_scale")  # tensors of the text tower


class Prompter(Protocol):
    """What a tower asks before each block: which prompt tokens enter here?

    Called with the layer's number (0 is the first) and the tower's own tokens [B, L, D], it
    returns prompt tokens ([n, D], or [B, n, D] where every image has its own), which replace
    those of the layer before, or None, which keeps them. In the text tower, the rows returned
    are those that the slots of the sequences stand for, and `tokens` is None.
    """

    def __call__(self, layer: int, tokens: Any) -> Tensor | None:
        """Prompt tokens for this layer."""


class PixelsNeededError(AttributeError):
    """Something asks for an image's pixels, of which only the features are at hand."""


class EncodedImages:
    """Stands in for a batch of images of which the features are known.

    Whatever else is asked of it than to be encoded raises `PixelsNeededError`.

    Args:
        features: what `FrozenCLIP.encode_image` gives for them, [B, embed_dim].
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> EncodedImages:
        """Some of the images."""
        return EncodedImages(self.features[rows])

    def __getattr__(self, name: str) -> Any:
        raise PixelsNeededError(f"{name} of images was asked for, but only features are at hand")

    @classmethod
    def __torch_function__(cls, function: Any, *args: Any) -> Any:
        """What torch calls when one of its functions gets this in the place of a tensor."""
        raise PixelsNeededError(f"{function} asks for the pixels of encoded images")


class LayerNorm(nn.Module):
    """Frozen layer normalisation over the last axis, computed in fp32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("weight", weights[f"{prefix}.weight"].float())
        self.register_buffer("bias", weights[f"{prefix}.bias"].float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        # CPUs take weights of another type, and convert within the sum rather than in passes
        if x.device.type != "cpu" or x.dtype != self.dtype:
            x = x.float()
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias).to(self.dtype)


class Block(nn.Module):
    """One frozen pre-norm transformer block, its steps usable on any packing of the tokens."""

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    fc_weight: Tensor
    fc_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        prefix: str,
        heads: int,
        activation: str,
        dtype: torch.dtype,
        textbook: bool,
    ) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.in_place = activation == "quick_gelu" and not textbook
        # The weights around QuickGELU bear its number: four passes over the widest tensors less
        gain = GAIN if self.in_place else 1.0
        self.ln_1 = LayerNorm(weights, f"{prefix}.ln_1", dtype)
        self.ln_2 = LayerNorm(weights, f"{prefix}.ln_2", dtype)

        def keep(name: str, key: str, gain: float = 1.0) -> None:
            tensor = weights[f"{prefix}.{key}"]
            self.register_buffer(name, (tensor if gain == 1 else tensor.float() * gain).to(dtype))

        keep("in_weight", "attn.in_proj_weight")
        keep("in_bias", "attn.in_proj_bias")
        keep("out_weight", "attn.out_proj.weight")
        keep("out_bias", "attn.out_proj.bias")
        keep("fc_weight", "mlp.c_fc.weight", gain)
        keep("fc_bias", "mlp.c_fc.bias", gain)
        keep("proj_weight", "mlp.c_proj.weight", 1 / gain)
        keep("proj_bias", "mlp.c_proj.bias")

    def project(self, x: Tensor, read: Tensor | slice | None = None) -> list[Tensor]:
        """Queries, keys and values of normalised tokens [..., L, D].

        Returns:
            [..., L, 3, heads, D / heads]; with `read`, queries of those positions only,
            [..., R, 1, heads, D / heads], and keys and values, [..., L, 2, heads, D / heads].
        """
        if read is None:
            return [self._project(x, 0, 3)]
        return [self._project(x[..., read, :], 0, 1), self._project(x, 1, 3)]

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        rows = slice(first * x.shape[-1], last * x.shape[-1])
        maps = F.linear(x, self.in_weight[rows], self.in_bias[rows])
        heads: Tensor = maps.unflatten(-1, (last - first, self.heads, -1))
        return heads

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual sum of the attention's output [..., heads, L, D / heads], then the MLP."""
        attended = attended.transpose(-2, -3).flatten(-2)
        x = added(F.linear(attended, self.out_weight, self.out_bias), x)
        maps = self.fc_weight, self.fc_bias, self.proj_weight, self.proj_bias
        if self.in_place:
            result: Tensor = FrozenMLP.apply(x, self.ln_2(x), *maps)
            return result
        hidden = _ACTIVATIONS[self.activation](F.linear(self.ln_2(x), *maps[:2]))
        return x + F.linear(hidden, *maps[2:])

    def forward(
        self, x: Tensor, *, causal: bool = False, read: Tensor | slice | None = None
    ) -> Tensor:
        """[..., L, D] -> [..., L, D], or only the positions `read`."""
        query, key, value = by_head(self.project(self.ln_1(x), read))
        attended = attention(query, key, value, causal=causal)
        return self.finish(x if read is None else x[..., read, :], attended)


def _blocks(
    weights: Mapping[str, Tensor],
    prefix: str,
    layers: int,
    heads: int,
    activation: str,
    dtype: torch.dtype,
    textbook: bool,
) -> Any:  # a ModuleList forgets that its items are blocks
    return nn.ModuleList(
        Block(weights, f"{prefix}.{i}", heads, activation, dtype, textbook) for i in range(layers)
    )


class FrozenCLIP(nn.Module):
    """CLIP's two towers with frozen weights (all are buffers: no optimiser can see them).

    Args:
        state_dict: weights under OpenAI's key names.
        config: the sizes.
        precision: "fp32"; "fp16" or "bf16": weights and activations in that type; "amp": weights
            in half precision, residual stream in fp32. Normalisations run in fp32 in all of them.
        textbook: take the textbook path everywhere (slow; the yardstick of the fast path).
        visual: an image tower that is no vision transformer ([B, 3, H, W] -> [B, embed_dim]).
        half: what "amp" computes in; default bf16, which CPUs and recent GPUs have.
        memory_budget: bytes that the text tower may keep for its backward pass where there are
            many classes; 0 is half of what is free. Results do not depend on it.
        compile_blocks: have `torch.compile` compile the blocks; not on the text tower's fast path,
            which it makes slower.
        graphs: on a GPU, record the text tower as a CUDA graph where it is computed in one part.

    Attributes:
        weights_hash: SHA-256 of the weights as `load_clip` has read them, in whatever precision
            they run; "" if they are from elsewhere.
    """

    patch_weight: Tensor
    class_embedding: Tensor
    visual_positions: Tensor
    visual_projection: Tensor
    token_embedding: Tensor
    text_positions: Tensor
    text_projection: Tensor
    logit_scale: Tensor
    weights_hash: str = ""

    def __init__(
        self,
        state_dict: Mapping[str, Tensor],
        config: CLIPConfig,
        *,
        precision: str = "fp32",
        textbook: bool = False,
        visual: nn.Module | None = None,
        half: torch.dtype = torch.bfloat16,
        memory_budget: float = 0,
        compile_blocks: bool = False,
        graphs: bool = False,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.config, self.precision, self._textbook = config, precision, textbook
        self.memory_budget = memory_budget
        self.compile_blocks = compile_blocks
        self.record_text = graphs
        self.dtype = {
            "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "amp": half
        }[precision]  # fmt: skip
        self.residual_dtype = torch.float32 if precision == "amp" else self.dtype

        def keep(name: str, key: str, dtype: torch.dtype) -> None:
            self.register_buffer(name, state_dict[key].detach().to(dtype))

        self.visual = visual
        if visual is None:
            keep("patch_weight", "visual.conv1.weight", self.dtype)
            keep("class_embedding", "visual.class_embedding", self.residual_dtype)
            keep("visual_positions", "visual.positional_embedding", self.residual_dtype)
            keep("visual_projection", "visual.proj", self.dtype)
            self.ln_pre = LayerNorm(state_dict, "visual.ln_pre", self.residual_dtype)
            self.ln_post = LayerNorm(state_dict, "visual.ln_post", self.dtype)
            self.visual_blocks = _blocks(
                state_dict,
                "visual.transformer.resblocks",
                config.visual_layers,
                config.visual_heads,
                config.activation,
                self.dtype,
                textbook,
            )
        else:
            visual.requires_grad_(False).to(self.dtype)
        keep("token_embedding", "token_embedding.weight", self.residual_dtype)
        keep("text_positions", "positional_embedding", self.residual_dtype)
        keep("text_projection", "text_projection", self.dtype)
        self.ln_final = LayerNorm(state_dict, "ln_final", self.dtype)
        self.text_blocks = _blocks(
            state_dict,
            "transformer.resblocks",
            config.text_layers,
            config.text_heads,
            config.activation,
            self.dtype,
            textbook,
        )
        self.register_buffer("logit_scale", state_dict["logit_scale"].detach().float().exp())
        self.eval()

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stay in evaluation mode, whatever the model around asks for."""
        return super().train(False)

    @property
    def textbook(self) -> bool:
        """Whether this takes the textbook path: for good, since its blocks are other ones."""
        return self._textbook

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.device

    @property
    def _through(self) -> Callable[..., Tensor]:
        """What a block does; hooks are not compiled."""
        through: Any = Block.__call__
        return compiled(Block.forward) if self.compile_blocks else through

    def image_tower_hash(self) -> str:
        """SHA-256 of all that is frozen, but for the text tower."""
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        return tensors_hash({k: v for k, v in tensors.items() if not k.startswith(_OF_TEXT)})

    # ---------------------------------------------------------------- images

    def check_size(self, size: Sequence[int]) -> None:
        """Refuse pictures that are not cut into as many patches as there are positions.

        Args:
            size: height and width in pixels.

        Raises:
            UserError: naming both numbers.
        """
        size, expected = tuple(size), self.config.image_size
        if self.visual is not None:
            fits, parts = size == (expected, expected), ""
        else:
            patches = math.prod(side // self.config.patch_size for side in size)
            wanted = len(self.visual_positions) - 1
            fits, parts = patches == wanted, f" ({patches} patches instead of {wanted})"
        if not fits:
            raise UserError(
                f"this CLIP takes pictures of {expected} x {expected} pixels, got "
                f"{size[0]} x {size[1]}{parts}; set INPUT.SIZE ({expected}, {expected})"
            )

    def encode_image(
        self, image: Tensor | EncodedImages, prompter: Prompter | None = None
    ) -> Tensor:
        """Features [B, embed_dim], not normalised, of normalised pixels [B, 3, H, W].

        Args:
            image: pictures of `config.image_size` pixels; those of which the features are known
                already are not computed again.
            prompter: prompt tokens by layer, set behind the class and patch tokens. They enter
                after `ln_pre`, or before it if the prompter has a true `before_norm`.

        Raises:
            UserError: prompts for an image tower that is no vision transformer.
            PixelsNeededError: prompts for images whose features are known.
        """
        if isinstance(image, EncodedImages):
            if prompter is not None:
                raise PixelsNeededError("prompts change features")
            return image.features
        if self.visual is not None:
            if prompter is not None:
                raise UserError(
                    "this method puts prompts into a vision transformer, but the image tower of "
                    "this CLIP is a ResNet; take a ViT backbone, or a method that leaves the "
                    "image tower alone (ZeroshotCLIP, CoOp)"
                )
            features: Tensor = self.visual(image.to(self.dtype))
            return features
        self.check_size(image.shape[-2:])
        patches = F.conv2d(image.to(self.dtype), self.patch_weight, stride=self.config.patch_size)
        patches = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([first, patches.to(self.residual_dtype)], 1) + self.visual_positions
        own = x.shape[1]
        before_norm = getattr(prompter, "before_norm", False)
        if prompter is not None and before_norm:
            x = self._append(x, prompter(0, x))
        x = self.ln_pre(x)
        last, through = len(self.visual_blocks) - 1, self._through
        for layer, block in enumerate(self.visual_blocks):
            if prompter is not None and not (layer == 0 and before_norm):
                tokens = prompter(layer, x[:, :own])
                if tokens is not None:
                    x = self._append(x[:, :own], tokens)
            only_class_token = layer == last and not self.textbook
            x = through(block, x, read=slice(0, 1) if only_class_token else None)
        return F.linear(self.ln_post(x[:, 0]), self.visual_projection.T)

    def _append(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        if tokens is None:
            return x
        return torch.cat([x, tokens.to(x.dtype).expand(len(x), -1, -1)], 1)

    # ------------------------------------------------------------------ text

    def encode_text(self, prompts: TextTokens | Tensor, prompter: Prompter | None = None) -> Tensor:
        """Features, not normalised, of one prompt per class.

        Args:
            prompts: the classes' token sequences, or token numbers [C, 77].
            prompter: the learned vectors that the sequences' slots stand for: `prompter(0, None)`
                gives [M, D], or [B, M, D] for prompts of each image; further layers may replace
                them.

        Returns:
            [C, embed_dim], or [B, C, embed_dim] for prompts of each image.
        """
        from promptclip.prompts import TextTokens  # it needs this module's classes, too

        if isinstance(prompts, Tensor):
            prompts = TextTokens.from_numbers(self, prompts)
        layers = range(len(self.text_blocks))
        learned = [None if prompter is None else prompter(layer, None) for layer in layers]
        if self.textbook:
            read = self._encode_text_textbook(prompts, learned)
        elif (
            self.record_text
            and self.device.type == "cuda"
            and shared_prefix.in_one_part(prompts, learned)
        ):
            read = prompts.recorded(self)(learned)
        else:
            read = shared_prefix.encode(self, prompts, learned)
        return F.linear(self.ln_final(read), self.text_projection.T)

    def _encode_text_textbook(
        self, prompts: TextTokens, learned: Sequence[Tensor | None]
    ) -> Tensor:
        rows = prompts.full
        x = rows.embed(learned[0]) + self.text_positions.repeat(prompts.n_classes, 1)
        through = self._through
        for layer, block in enumerate(self.text_blocks):
            if layer:
                x = rows.replace(x, learned[layer])
            x = x.unflatten(-2, (prompts.n_classes, -1))
            x = through(block, x, causal=True).flatten(-3, -2)
        return x[..., prompts.full_ends, :]
