"""CoCoOp: a batch is nothing but its images, in any slices, and published checkpoints load."""

from __future__ import annotations

import pytest
import torch
from mini_benchmark import CLASSES, batch_of, build
from torch.nn import functional as F


@pytest.fixture
def trainer(mini, tmp_path):
    """With a shift large enough to matter."""
    trainer = build("CoCoOp", mini, tmp_path)
    with torch.no_grad():
        trainer.model.prompt_learner.meta_net.linear2.weight.mul_(5)
    return trainer


def gradients(trainer, image, label):
    trainer.model.zero_grad()
    F.cross_entropy(trainer.model(image).logits, label).backward()
    return {n: p.grad.clone() for n, p in trainer.model.prompt_learner.named_parameters()}


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        assert (one - theirs[name]).abs().max() < 1e-5 * theirs[name].abs().max(), name


def test_every_image_has_text_features_of_its_own(trainer):
    output = trainer.model(batch_of(trainer)["img"])
    assert output.text_features.shape == (8, len(CLASSES), 64)
    assert (output.text_features[0] - output.text_features[1]).abs().max() > 1e-3


def test_a_batch_gives_what_its_images_give_alone(trainer):
    batch = batch_of(trainer)
    image, label = batch["img"], batch["label"]
    whole = trainer.model(image)
    alone = [trainer.model(one[None]) for one in image]
    torch.testing.assert_close(whole.logits, torch.cat([one.logits for one in alone]))
    torch.testing.assert_close(whole.text_features, torch.cat([one.text_features for one in alone]))
    singles = [gradients(trainer, image[i : i + 1], label[i : i + 1]) for i in range(len(image))]
    mean = {n: torch.stack([one[n] for one in singles]).mean(0) for n in singles[0]}
    close(gradients(trainer, image, label), mean)


def test_published_checkpoint(trainer, mini, tmp_path):
    learner = trainer.model.prompt_learner
    names = [f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
    assert [name for name, _ in learner.named_parameters()] == ["ctx", *names]
    state = {name: tensor.half() for name, tensor in learner.named_parameters()}
    state |= {f"token_{part}": torch.zeros(1) for part in ("prefix", "suffix")}
    file = tmp_path / "published" / "prompt_learner" / "model.pth.tar-10"
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 10}, file)
    other = build("CoCoOp", mini, tmp_path / "other", "DATASET.SUBSAMPLE_CLASSES", "new", seed=2)
    other.load_model(str(tmp_path / "published"), epoch=10)
    for name, tensor in other.model.prompt_learner.named_parameters():
        assert torch.equal(tensor, state[name].float()), name


def test_words_set_the_number_of_vectors(mini, tmp_path):
    given = ("TRAINER.COCOOP.N_CTX", 7, "TRAINER.COCOOP.CTX_INIT")
    words = build("CoCoOp", mini, tmp_path / "words", *given, "a photo of a")
    assert len(words.model.prompt_learner.ctx) == 4
    random = build("CoCoOp", mini, tmp_path / "random", *given, "")
    assert len(random.model.prompt_learner.ctx) == 7
