"""Parts of the engine that the other tests do not pass through."""

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, SimpleNet, SimpleTrainer, TrainerX, TrainerXU
from dassl.modeling import (
    BACKBONE_REGISTRY,
    NETWORK_REGISTRY,
    Backbone,
    build_backbone,
    build_head,
    build_network,
)
from tiny_engine import Linear, TinyColours
from torch import nn


@BACKBONE_REGISTRY.register(force=True)
def flat(pretrained=True):
    class Flat(Backbone):
        _out_features = 192

        def forward(self, image):
            return image.flatten(1)

    return Flat()


@DATASET_REGISTRY.register(force=True)
class TinyUnlabelled(TinyColours):
    """The same with the validation pictures as unlabelled ones."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self._train_u, self._val = self._val, None


@TRAINER_REGISTRY.register(force=True)
class Pairs(TrainerXU):
    """Notes the labels and domains of both batches."""

    build_model = Linear.build_model

    def forward_backward(self, batch_x, batch_u):
        image, label, image_u = self.parse_batch_train(batch_x, batch_u)
        self.pairs = [*getattr(self, "pairs", []), (len(label), len(image_u))]
        loss = self.model(torch.cat([image, image_u])).square().mean()
        self.model_backward_and_update(loss)
        return {"loss": loss}


@pytest.mark.parametrize(("count", "steps"), [("train_x", 4), ("train_u", 2), ("smaller_one", 2)])
def test_labelled_and_unlabelled_batches(make_trainer, count, steps):
    trainer = make_trainer(
        TRAINER__NAME="Pairs",
        DATASET__NAME="TinyUnlabelled",
        OPTIM__MAX_EPOCH=1,
        TRAIN__COUNT_ITER=count,
        DATALOADER__TRAIN_U__SAME_AS_X=False,
        DATALOADER__TRAIN_U__BATCH_SIZE=4,
        TEST__NO_TEST=True,
    )
    trainer.train()
    assert trainer.pairs == [(6, 4)] * steps
    assert trainer.batch_idx == steps - 1


def test_unlabelled_training_needs_unlabelled_data(make_trainer):
    trainer = make_trainer(TRAINER__NAME="Pairs", OPTIM__MAX_EPOCH=1)
    with pytest.raises(ValueError, match="unlabelled"):
        trainer.train()
    trainer = make_trainer(
        TRAINER__NAME="Pairs", DATASET__NAME="TinyUnlabelled", TRAIN__COUNT_ITER="both"
    )
    with pytest.raises(ValueError, match="COUNT_ITER"):
        trainer.train()


@TRAINER_REGISTRY.register(force=True)
class Plain(TrainerX):
    """The default model with its classifier."""

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        loss = nn.functional.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}


def test_default_model(make_trainer):
    trainer = make_trainer(
        TRAINER__NAME="Plain",
        MODEL__BACKBONE__NAME="flat",
        MODEL__HEAD__NAME="mlp",
        MODEL__HEAD__HIDDEN_LAYERS=(16, 8),
        MODEL__HEAD__ACTIVATION="leaky_relu",
        MODEL__HEAD__DROPOUT=0.1,
        OPTIM__MAX_EPOCH=1,
    )
    assert trainer.model.fdim == 8
    assert trainer.model.classifier.out_features == 3
    logits, features = trainer.model(torch.zeros(2, 3, 8, 8), return_feature=True)
    assert (logits.shape, features.shape) == ((2, 3), (2, 8))
    trainer.train()


def test_network_without_classifier(make_cfg):
    cfg = make_cfg(MODEL__BACKBONE__NAME="flat")
    assert SimpleNet(cfg, cfg.MODEL, 0)(torch.zeros(2, 3, 8, 8)).shape == (2, 192)


def test_torchvision_backbones():
    backbone = build_backbone("resnet18", pretrained=False)
    assert backbone.out_features == 512
    assert backbone.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    with pytest.raises(ValueError, match="resnet18"):
        build_backbone("resnet19")


def test_heads_and_networks():
    with pytest.raises(ValueError, match="gelu"):
        build_head("mlp", in_features=2, hidden_layers=[2], activation="gelu")
    with pytest.raises(ValueError, match="hidden"):
        build_head("mlp", in_features=2)
    NETWORK_REGISTRY.register(nn.Identity, force=True)
    assert isinstance(build_network("Identity", verbose=False), nn.Identity)


def test_order_of_construction(make_cfg):
    calls = []

    class Order(SimpleTrainer):
        def check_cfg(self, cfg):
            calls.append("check_cfg")

        def build_data_loader(self):
            calls.append("build_data_loader")
            super().build_data_loader()

        def build_model(self):
            calls.append("build_model")
            assert self.num_classes == 3

    trainer = Order(make_cfg())
    assert calls == ["check_cfg", "build_data_loader", "build_model"]
    assert trainer.best_result == -float("inf")
    with pytest.raises(NotImplementedError):
        trainer.run_epoch()


def test_modes_reach_registered_models_only(make_trainer):
    trainer = make_trainer()
    other = nn.Linear(1, 1)
    trainer.set_model_mode("eval")
    assert (trainer.model.training, other.training) == (False, True)
    trainer.set_model_mode("train", "linear")
    assert trainer.model.training
    with pytest.raises(KeyError):
        trainer.set_model_mode("sleep")


def test_validation_split_falls_back_to_test(make_trainer, capsys):
    trainer = make_trainer(TEST__SPLIT="val")
    trainer.test()
    trainer.val_loader = None
    trainer.test()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Evaluate")]
    assert lines == ["Evaluate on the *val* set", "Evaluate on the *test* set"]
