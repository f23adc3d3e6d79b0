"""UPT: who attends to whom, where the tokens enter, and what is computed how often."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mini_benchmark import CLASSES, cfg_of
from random_clip import TINY, random_state_dict
from torch import Tensor

from promptclip import plugins
from promptclip.clip.config import CLIPConfig
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError

UPT = plugins.methods()["UPT"]
# 14 x 14 patches, as in ViT-B/16
LARGE_PICTURES = replace(TINY, image_size=224, patch_size=16)


def model_of(
    *, classnames: Any = CLASSES, config: CLIPConfig = TINY, textbook: bool = False, **options: Any
) -> Any:
    """The model on a random CLIP, not in training."""
    torch.manual_seed(0)
    clip = FrozenCLIP(random_state_dict(config), config, textbook=textbook)
    return UPT.Model(clip, classnames, UPT.Options(**options), "a photo of a {}.").eval()


def pictures(config: CLIPConfig = TINY, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, config.image_size, config.image_size, generator=generator)


def outputs(model: Any) -> list[Tensor]:
    """Every prompt token, of the text and then of the visual layers."""
    text, visual = model.prompt_learner()
    return [*text, *(token for layer in visual for token in layer)]


def inputs_of(module: torch.nn.Module) -> list[Tensor]:
    """Filled with what the module gets from now on."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return seen


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("axis", ["released", "tokens"])
def test_who_sees_whom(axis, depth):
    model = model_of(axis=axis, vis_depth=depth)
    before = outputs(model)
    rows = model.prompt_learner.ctx.data.view(-1, TINY.text_width)
    assert len(rows) == len(before) == 4 * (1 + depth)
    for changed in range(len(rows)):
        rows[changed] += 0.05
        after = outputs(model)
        for row, (one, other) in enumerate(zip(before, after, strict=True)):
            same = torch.equal(one, other)
            assert same == (axis == "released" and row != changed), (changed, row)
        before = after


def test_released_attention_is_a_linear_map():
    learner = model_of().prompt_learner
    u, attention = learner.ctx[0], learner.attention
    value = u @ attention.in_proj_weight[-32:].T + attention.in_proj_bias[-32:]
    attended = value @ attention.out_proj.weight.T + attention.out_proj.bias
    x = learner.norm_1(u + attended)
    y = x + learner.ffn_out(torch.relu(learner.ffn_in(learner.norm_2(x))))
    torch.testing.assert_close(learner()[0], y[:4])
    torch.testing.assert_close(learner()[1][0], learner.to_visual(y[4:]))


@pytest.mark.parametrize("axis", ["released", "tokens"])
def test_queries_and_keys_learn_only_where_tokens_attend_to_each_other(axis):
    model = model_of(axis=axis)
    model(pictures()).logits[:, 0].sum().backward()
    gradient = model.prompt_learner.attention.in_proj_weight.grad
    assert gradient[-32:].abs().sum() > 0
    assert (gradient[:-32].abs().sum() > 0) == (axis == "tokens")


@pytest.mark.parametrize("axis", ["released", "tokens"])
@pytest.mark.parametrize(("depth", "count"), [(1, 1_976_064), (12, 1_976_064 + 11 * 4 * 512)])
def test_count_of_learned_numbers_for_vit_b16(axis, depth, count):
    clip: Any = SimpleNamespace(
        config=SimpleNamespace(text_width=512, visual_width=768), device=torch.device("cpu")
    )
    part = type(model_of().prompt_learner)(clip, UPT.Options(axis=axis, vis_depth=depth))
    assert sum(parameter.numel() for parameter in part.parameters()) == count


def test_visual_tokens_enter_before_the_first_norm():
    model = model_of(config=LARGE_PICTURES)
    before, behind = inputs_of(model.clip.ln_pre), inputs_of(model.clip.visual_blocks[0])
    model(pictures(LARGE_PICTURES))
    _, (visual,) = model.prompt_learner()
    assert before[0].shape[1] == behind[0].shape[1] == 201
    assert torch.equal(before[0][:, 197:], visual.expand(2, -1, -1))
    assert not torch.allclose(behind[0][:, 197:], visual.expand(2, -1, -1))


def test_deep_tokens_replace_those_of_the_layer_before():
    model = model_of(vis_depth=2)
    before = inputs_of(model.clip.ln_pre)
    blocks = [inputs_of(block) for block in model.clip.visual_blocks]
    own = 17  # 16 patches and the class token
    model(pictures())
    _, (first, second) = model.prompt_learner()
    assert {seen[0].shape[1] for seen in blocks} == {own + 4}
    assert torch.equal(before[0][0, own:], first)
    assert torch.equal(blocks[1][0][0, own:], second)
    assert not torch.allclose(blocks[2][0][0, own:], second)


def test_depth_one_is_a_prefix_of_deep():
    """Deeper layers only add to what the released variant computes."""
    shallow, deep = model_of(), model_of(vis_depth=3)
    deep.prompt_learner.load_state_dict(
        shallow.prompt_learner.state_dict()
        | {"ctx": torch.cat([shallow.prompt_learner.ctx, torch.ones(1, 8, 32)], 1)}
    )
    torch.testing.assert_close(deep.text_features(), shallow.text_features())
    blocks = [inputs_of(model.clip.visual_blocks[0]) for model in (shallow, deep)]
    assert not torch.allclose(shallow.image_features(pictures()), deep.image_features(pictures()))
    torch.testing.assert_close(blocks[0][0], blocks[1][0])


@pytest.mark.parametrize(
    ("position", "where"),
    [("end", [1, 2, 3, 4]), ("middle", [1, 2, 5, 6]), ("front", [3, 4, 5, 6])],
)
def test_text_sequence(position, where):
    model = model_of(
        classnames=["red dog", "ox"], textbook=True, class_token_position=position, vis_depth=3
    )
    seen = inputs_of(model.clip.text_blocks[0])
    model.text_features()
    text, _ = model.prompt_learner()
    assert seen[0].shape[:2] == (2, 77)
    words = seen[0][0] - model.clip.text_positions
    torch.testing.assert_close(words[where], text, atol=1e-6, rtol=0)
    rest = [i for i in range(9) if i not in where]
    plain = model.clip.token_embedding[tokenize(["red dog."])[0, :5]]
    torch.testing.assert_close(words[rest], plain, atol=1e-6, rtol=0)


def test_each_tower_has_masks_of_its_own_in_training():
    model = model_of(dropout=0.5).train()
    passes = []
    model.prompt_learner.register_forward_hook(lambda _, args, result: passes.append(result))
    model(pictures())
    (text, _), (other_text, _) = passes
    assert not torch.equal(text, other_text)


@pytest.mark.parametrize("axis", ["released", "tokens"])
def test_prompts_are_computed_once_in_a_test(axis):
    model = model_of(axis=axis, dropout=0.5, vis_depth=2)
    anew = model(pictures()).logits.detach()
    calls = inputs_of(model.prompt_learner.norm_1)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(model(pictures()).logits, anew)
        assert len(calls) == 1
        model.prompt_learner.ctx += 0.1
        model.forget()
        assert not torch.allclose(model(pictures()).logits, anew)
    assert len(calls) == 2


def test_prompts_do_not_depend_on_the_classes():
    trained, other = model_of(), model_of(classnames=["green_cat", "zebra"])
    torch.nn.init.normal_(trained.prompt_learner.ctx)
    state = trained.prompt_learner.state_dict()
    assert not any(size == len(CLASSES) for value in state.values() for size in value.shape)
    other.prompt_learner.load_state_dict(state)
    assert all(map(torch.equal, outputs(trained), outputs(other)))
    same = trained.text_features()[1], other.text_features()[0]  # "green cat" on both sides
    torch.testing.assert_close(*same)
    torch.testing.assert_close(trained.image_features(pictures()), other.image_features(pictures()))


def test_checkpoint_of_the_other_axis(mini, tmp_path):
    def build(axis: str, folder: str, *overrides: Any) -> Any:
        from dassl.engine import build_trainer

        options = ("TRAINER.UPT.AXIS", axis, *overrides)
        return build_trainer(cfg_of("UPT", mini, tmp_path / folder, *options))

    build("tokens", "one", "OPTIM.MAX_EPOCH", 1).train()
    with pytest.raises(UserError, match="does not fit"):
        build("released", "other").load_model(str(tmp_path / "one"), epoch=1)


@pytest.mark.parametrize("options", [{"n_ctx": 1}, {"n_ctx": 7, "hidden": 5}, {"vis_depth": 3}])
def test_other_sizes_learn(options):
    model = model_of(axis="tokens", **options)
    output = model(pictures())
    output.logits[:, 0].sum().backward()
    assert output.logits.shape == (2, len(CLASSES))
    assert all(p.grad.abs().sum() > 0 for p in model.prompt_learner.parameters())
    assert model.prompt_learner.ffn_in.out_features == options.get("hidden", TINY.text_width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "batch"}, 'TRAINER.UPT.AXIS must be "released" or "tokens", got \'batch\''),
        ({"n_ctx": 0}, "TRAINER.UPT.N_CTX must be at least 1, got 0"),
        ({"vis_depth": 0}, "TRAINER.UPT.VIS_DEPTH must be at least 1, got 0"),
        ({"vis_depth": 4}, "TRAINER.UPT.VIS_DEPTH must be at most 3, the layers .* got 4"),
        ({"hidden": -1}, "TRAINER.UPT.HIDDEN must be a width, or 0 .* got -1"),
        ({"dropout": 1.0}, r"TRAINER.UPT.DROPOUT must be in \[0, 1\), got 1.0"),
        ({"class_token_position": "back"}, "CLASS_TOKEN_POSITION must be .* got 'back'"),
        ({"n_ctx": 74}, "has 78 tokens, 74 of them learned"),
    ],
)
def test_refused(options, message):
    with pytest.raises(UserError, match=message):
        model_of(classnames=["ox"], **options)
