"""DPT: what its parity cases cannot show, and the checks of its pieces alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mini_benchmark import CLASSES
from test_methods import batch_of, build, set_rate, steps
from torch import Tensor

from promptclip.cavpt import CAVPT, likely_classes
from promptclip.clip.model import FrozenCLIP
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.losses import class_aware_loss
from promptclip.trainer import unit

LAYERS = 3  # of the small CLIP's image tower
VLP = ("TRAINER.DPT.BOTTOM_LIMIT", LAYERS + 1)
ALL_LAYERS = ("TRAINER.DPT.BOTTOM_LIMIT", 1)


def dpt(mini: Path, folder: Path, *overrides: object) -> Any:
    """A trainer of DPT, with `key value` of its own section or of others."""
    return build("DPT", mini, folder, *overrides)


def terms_of(trainer: Any, epoch: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """A batch's output and loss terms."""
    batch = batch_of(trainer)
    trainer.epoch = epoch
    output = trainer.model(batch["img"])
    return output, trainer.losses(output, batch["label"])


# ------------------------------------------------------------------ the auxiliary loss


def test_class_aware_loss_counts_the_true_class_only() -> None:
    logits = torch.randn(3, 2, 2, 5)  # images, layers, candidates, classes
    candidates = torch.tensor([[4, 1], [0, 2], [3, 2]])
    label = torch.tensor([1, 3, 3])  # the second image's class is not among its candidates
    rows = torch.cat([logits[0, :, 1], logits[2, :, 0]])
    expected = F.cross_entropy(rows, torch.tensor([1, 1, 3, 3]))
    torch.testing.assert_close(class_aware_loss(logits, candidates, label), expected)


def test_class_aware_loss_of_no_image_is_zero() -> None:
    logits = torch.randn(2, 1, 2, 4, requires_grad=True)
    loss = class_aware_loss(logits, torch.tensor([[0, 1], [2, 3]]), torch.tensor([3, 0]))
    assert loss == 0
    assert not loss.requires_grad


def test_every_image_contributes_where_all_classes_are_candidates() -> None:
    logits = torch.randn(4, 3, 5, 5)
    candidates = torch.stack([torch.randperm(5) for _ in range(4)])
    label = torch.tensor([0, 4, 2, 2])
    rows = logits[torch.arange(4), :, (candidates == label[:, None]).int().argmax(1)]
    expected = torch.stack([F.cross_entropy(rows[:, layer], label) for layer in range(3)]).mean()
    torch.testing.assert_close(class_aware_loss(logits, candidates, label), expected)


# ------------------------------------------------------------------ CAVPT


def test_attention_is_one_head_over_image_and_memory(tiny_state_dict: dict[str, Tensor]) -> None:
    from random_clip import TINY

    clip = FrozenCLIP(tiny_state_dict, TINY)
    one = CAVPT(clip, 4)
    candidates, tokens = torch.randn(2, 3, TINY.embed_dim), torch.randn(2, 7, TINY.visual_width)
    found, made = one(candidates, tokens, None)
    assert one.memory is not None
    asked = candidates @ one.embed.weight.T + one.embed.bias
    read = torch.cat([tokens, one.memory.expand(2, -1, -1)], 1)
    scores = (asked @ one.query.weight.T) @ (read @ one.key.weight.T).mT / 32**0.5
    expected = scores.softmax(-1) @ read @ one.value.weight.T
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(made, F.layer_norm(expected + asked, [TINY.visual_width]))


def test_likely_classes_are_zero_shot_clips(mini: Path, tmp_path: Path) -> None:
    model = dpt(mini, tmp_path).model
    zero_shot = build("ZeroshotCLIP", mini, tmp_path / "zero-shot")
    batch = batch_of(zero_shot)
    logits = zero_shot.model(batch["img"]).logits
    likely = likely_classes(
        model.frozen_image_features(batch["img"]), model.template_features(), model.n_likely
    )
    assert torch.equal(likely, logits.sort(descending=True).indices[:, : model.n_likely])
    assert torch.equal(model(batch["img"]).aux["likely"](), likely)
    # The first of them is the zero-shot answer, so that its hit rate is zero-shot CLIP's accuracy
    assert torch.equal(likely[:, 0], logits.argmax(1))


def test_candidates_are_learned_features_not_normalised(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = CAVPT.forward

    def watching(self: CAVPT, candidates: Tensor, *args: Any) -> Any:
        seen.append(candidates)
        return forward(self, candidates, *args)

    monkeypatch.setattr(CAVPT, "forward", watching)
    model = dpt(mini, tmp_path, *ALL_LAYERS).model
    output = model(batch_of_images(mini, tmp_path))
    assert len(seen) == LAYERS  # each layer attends once
    raw = model.text_features()
    assert (raw.norm(dim=-1) - 1).abs().min() > 0.01
    for candidates in seen:
        torch.testing.assert_close(candidates, raw[output.aux["likely"]()])
        assert candidates.requires_grad


def batch_of_images(mini: Path, folder: Path) -> Tensor:
    """Pictures of a training batch."""
    images: Tensor = batch_of(build("ZeroshotCLIP", mini, folder / "pictures"))["img"]
    return images


# ------------------------------------------------------------------ gradients


def test_text_learns_through_the_classifier_and_through_the_queries(
    mini: Path, tmp_path: Path
) -> None:
    trainer = dpt(mini, tmp_path)
    _, terms = terms_of(trainer)
    (ctx,) = trainer.model.prompt_learner.parameters()
    # The prompted image against the template: nothing but the queries leads to the text
    for term in ("text", "image", "class_aware"):
        (gradient,) = torch.autograd.grad(terms[term], [ctx], retain_graph=True)
        assert gradient.abs().sum() > 0, term
    assert not any(p.requires_grad for p in trainer.model.clip.parameters())


def test_keys_and_values_pass_no_gradient_to_the_layers_below(mini: Path, tmp_path: Path) -> None:
    trainer = dpt(mini, tmp_path)
    _, terms = terms_of(trainer)
    prompts = trainer.model.visual_learner.prompts.ctx
    # With CAVPT in the last layer alone, its classifier sees the prompts in keys and values only
    grad = partial_grad(terms["class_aware"], prompts)
    assert grad is None
    grad = partial_grad(terms["image"], prompts)
    assert grad is not None
    assert (grad.flatten(1).abs().sum(1) > 0).all()


def partial_grad(loss: Tensor, tensor: Tensor) -> Tensor | None:
    """Gradient of a loss, or None where there is no way to the tensor."""
    (gradient,) = torch.autograd.grad(loss, [tensor], retain_graph=True, allow_unused=True)
    return gradient


# ------------------------------------------------------------------ VLP, CoOp and VPT


def test_vlp_is_coop_and_vpt_at_once(mini: Path, tmp_path: Path) -> None:
    vlp = dpt(mini, tmp_path / "vlp", *VLP, "TRAINER.DPT.VIS_N_CTX", 2, "TRAINER.DPT.C", 1)
    assert list(vlp.model.learners) == ["visual_learner", "prompt_learner"]
    coop = build("CoOp", mini, tmp_path / "coop")
    own = ("TRAINER.VPT.N_CTX", 2, "TRAINER.VPT.N_CTX_VISION", 2)
    own += ("TRAINER.VPT.PROMPT_DEPTH_VISION", 1, "TRAINER.VPT.CTX_INIT", "a photo of a")
    vpt = build("VPT", mini, tmp_path / "vpt", *own)
    with torch.no_grad():
        coop.model.prompt_learner.ctx.copy_(vlp.model.prompt_learner.ctx)
        vpt.model.prompt_learner.ctx.copy_(vlp.model.visual_learner.prompts.ctx)
    batch = batch_of(vlp)
    image, label = batch["img"], batch["label"]
    output = vlp.model(image)
    torch.testing.assert_close(output.image_features, vpt.model(image).image_features)
    torch.testing.assert_close(output.text_features, coop.model(image).text_features)
    terms = vlp.losses(output, label)
    torch.testing.assert_close(terms["text"], coop.losses(coop.model(image), label)["ce"])
    torch.testing.assert_close(terms["image"], vpt.losses(vpt.model(image), label)["ce"])


def test_vlp_runs_the_plain_tower_only_while_guided(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode_image = FrozenCLIP.encode_image

    def counted(self: FrozenCLIP, image: Tensor, prompter: Any = None) -> Tensor:
        calls.append(prompter is None)
        return encode_image(self, image, prompter)

    monkeypatch.setattr(FrozenCLIP, "encode_image", counted)
    counts = {}
    for name, limit in (("VLP", LAYERS + 1), ("DPT", LAYERS)):
        trainer = dpt(mini, tmp_path / name, "TRAINER.DPT.BOTTOM_LIMIT", limit, "TRAINER.DPT.C", 1)
        for epoch in (0, 1):
            calls.clear()
            terms_of(trainer, epoch)
            counts[name, epoch] = sum(calls)
        calls.clear()
        trainer.test()
        counts[name, "test"] = sum(calls) / len(trainer.test_loader)
    once = {("DPT", 0): 1, ("DPT", 1): 1, ("DPT", "test"): 1, ("VLP", 0): 1}
    assert counts == {**once, ("VLP", 1): 0, ("VLP", "test"): 0}


# ------------------------------------------------------------------ phases and schedules


def test_two_phases(mini: Path, tmp_path: Path) -> None:
    trainer = dpt(
        mini, tmp_path, "TRAINER.DPT.C", 2, "TRAINER.DPT.ALPHA", 0.5,
        "TRAINER.DPT.JOINT_WEIGHT", 0.2,
    )  # fmt: skip
    model, label = trainer.model, batch_of(trainer)["label"]
    output, guided = terms_of(trainer, epoch=1)
    assert list(guided) == ["text", "image", "joint", "class_aware"]
    _, joint = terms_of(trainer, epoch=2)
    assert list(joint) == ["ce", "class_aware"]
    torch.testing.assert_close(guided["joint"], 0.2 * joint["ce"])
    plain = model.frozen_image_features(batch_of(trainer)["img"])
    logits = model.clip.logit_scale * plain @ unit(model.text_features()).T
    torch.testing.assert_close(guided["text"], F.cross_entropy(logits, label))
    logits = model.clip.logit_scale * output.image_features @ model.template_features().T
    torch.testing.assert_close(guided["image"], F.cross_entropy(logits, label))
    found = class_aware_loss(output.aux["auxiliary"](), output.aux["likely"](), label)
    torch.testing.assert_close(guided["class_aware"], 0.5 * found)


def test_rates_and_warm_ups(mini: Path, tmp_path: Path) -> None:
    trainer = dpt(
        mini, tmp_path, "OPTIM.LR", 0.01, "OPTIM.WARMUP_EPOCH", 2, "OPTIM.MAX_EPOCH", 4,
        "TRAINER.DPT.TEXT_LR", 0.002, "TRAINER.DPT.TEXT_WARMUP_EPOCH", 1,
    )  # fmt: skip
    rates = []
    for _ in range(3):
        rates.append({n: o.param_groups[0]["lr"] for n, o in trainer._optims.items()})
        trainer.model_update()
        trainer.update_lr()
    visual = [1e-5, 1e-5, pytest.approx(0.01)]
    assert [rate["visual_learner"] for rate in rates] == visual
    assert [rate["auxiliary_head"] for rate in rates] == visual
    assert [rate["prompt_learner"] for rate in rates[:2]] == [1e-5, pytest.approx(0.002)]
    assert trainer.get_current_lr() == trainer.get_current_lr("visual_learner")


@pytest.mark.parametrize("yaml", ["vit_b16", "vit_b16_vlp", "vit_b32"])
def test_warm_up_is_configuration(yaml: str) -> None:
    file = configs_dir() / "trainers" / "DPT" / f"{yaml}.yaml"
    for dataset, epochs in (("imagenet", 1), ("dtd", 10)):
        cfg = build_cfg("DPT", configs_dir() / "datasets" / f"{dataset}.yaml", file)
        assert cfg.OPTIM.WARMUP_EPOCH == epochs
        assert (cfg.OPTIM.LR, cfg.TRAINER.DPT.TEXT_LR) == (0.01, 0.002)
        assert cfg.TRAINER.DPT.TEXT_WARMUP_EPOCH == 1


# ------------------------------------------------------------------ the training-only head


def test_head_is_not_needed_for_a_test(mini: Path, tmp_path: Path) -> None:
    trainer = dpt(mini, tmp_path, "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    assert (tmp_path / "auxiliary_head" / "model.pth.tar-1").exists()
    other = dpt(mini, tmp_path / "other")
    head = {name: p.clone() for name, p in other.model.auxiliary_head.named_parameters()}
    (tmp_path / "auxiliary_head" / "model.pth.tar-1").unlink()
    other.load_model(str(tmp_path), epoch=1)
    for name, parameter in other.model.auxiliary_head.named_parameters():
        assert torch.equal(parameter, head[name])
    assert other.test() == trainer.test()


def test_fewer_classes_than_candidates(
    mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = ("DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", 1)
    dpt(mini, tmp_path / "base", *base).train()
    caplog.set_level(logging.INFO)
    other = dpt(mini, tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new")
    assert "only 2 classes, not 3: all are likely" in caplog.text
    other.load_model(str(tmp_path / "base"), epoch=1)
    assert 0 <= other.test() <= 100
    with pytest.raises(UserError, match="TRAINER.DPT.CPN must be at most 2, .* takes all.* got 3"):
        other.before_train()
    dpt(mini, tmp_path / "vlp", *base, *VLP, "TRAINER.DPT.CPN", 100).before_train()


def test_step_without_a_true_class_among_the_likely(mini: Path, tmp_path: Path) -> None:
    trainer = dpt(mini, tmp_path, "TRAINER.DPT.CPN", 1)
    set_rate(trainer, 0.1)
    trainer.before_train()
    trainer.num_batches, trainer.batch_idx = 2, 0
    batch = batch_of(trainer)
    likely = trainer.model(batch["img"]).aux["likely"]()[:, 0]
    batch["label"] = (likely + 1) % len(CLASSES)
    head = [p.clone() for p in trainer.model.auxiliary_head.parameters()]
    for scaler in (None, torch.amp.GradScaler("cpu")):
        trainer.scaler = scaler
        assert trainer.forward_backward(batch)["loss_class_aware"] == 0
        assert all(map(torch.equal, trainer.model.auxiliary_head.parameters(), head))


# ------------------------------------------------------------------ variants and errors


def test_figure_prompts_all_layers(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: dict[str, list[int]] = {}
    append = FrozenCLIP._append
    for variant in ("code", "figure"):
        trainer = dpt(
            mini, tmp_path / variant, "TRAINER.DPT.VARIANT", variant,
            "TRAINER.DPT.BOTTOM_LIMIT", 2, "TRAINER.DPT.VIS_N_CTX", 4,
        )  # fmt: skip
        seen = lengths[variant] = []

        def watching(self: FrozenCLIP, x: Tensor, tokens: Tensor, seen: Any = seen) -> Tensor:
            seen.append(tokens.shape[-2])
            return append(self, x, tokens)

        monkeypatch.setattr(FrozenCLIP, "_append", watching)
        _, terms = terms_of(trainer)
        prompts = trainer.model.visual_learner.prompts.ctx
        gradient = partial_grad(terms["image"], prompts)
        assert gradient is not None
        assert (gradient.flatten(1).abs().sum(1) > 0).all()
        assert len(prompts) == {"code": 1, "figure": LAYERS}[variant]
        for module in trainer.model.visual_learner.cavpt.values():
            assert (module.memory is None) == (variant == "figure")
    assert lengths == {"code": [4, 3, 3], "figure": [4, 7, 7]}
    # Unlike the image's tokens, the prompts are read with their gradient
    assert partial_grad(terms["class_aware"], prompts) is not None


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
@pytest.mark.parametrize("variant", ["figure", "all layers", "VLP"])
def test_variants_in_half_precision(
    variant: str, precision: str, mini: Path, tmp_path: Path
) -> None:
    overrides: tuple[object, ...] = {
        "figure": ("TRAINER.DPT.VARIANT", "figure"),
        "all layers": ALL_LAYERS,
        "VLP": VLP,
    }[variant]
    losses = {}
    for name in ("fp32", precision):
        trainer = dpt(mini, tmp_path / name, *overrides, "TRAINER.DPT.PREC", name)
        set_rate(trainer, 0.01)
        losses[name] = steps(trainer, 3)
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BOTTOM_LIMIT", 5, "at most 4: 3 layers"),
        ("BOTTOM_LIMIT", 0, "at least 1"),
        ("CPN", 0, "at least 1"),
        ("C", -1, "at least 0"),
        ("TEXT_LR", -0.1, "at least 0"),
        ("VARIANT", "paper", '"code" or "figure", got'),
        ("CLASS_TOKEN_POSITION", "start", '"end", "middle" or "front", got'),
    ],
)
def test_values_out_of_range(
    key: str, value: object, message: str, mini: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"TRAINER.DPT.{key} must be {message}"):
        dpt(mini, tmp_path, f"TRAINER.DPT.{key}", value)
