"""Learning rates and optimisers."""

import copy
import math
import warnings

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.optimizer import AVAI_OPTIMS
from dassl.optim.radam import RAdam
from torch import nn


def optim_cfg(**values):
    cfg = get_cfg_default().OPTIM
    for name, value in {"NAME": "sgd", "LR": 0.002, "MAX_EPOCH": 6, **values}.items():
        cfg[name] = value
    return cfg


def curve(epochs=6, **values):
    """Learning rate in each epoch."""
    cfg = optim_cfg(**values)
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


COSINE = {"LR_SCHEDULER": "cosine"}
CONSTANT = {"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # The three curves observed under Dassl 0.6.3.
        (COSINE | CONSTANT, [1e-5, 0.002, 0.001866025403784439, 0.0015, 0.001, 0.0005]),
        (
            COSINE | CONSTANT | {"WARMUP_RECOUNT": False},
            [1e-5, 0.002, 0.00160769515, 0.00107179677, 0.00053589838, 0.00014359354],
        ),
        (
            COSINE | {"WARMUP_EPOCH": 3, "WARMUP_TYPE": "linear", "WARMUP_MIN_LR": 1e-4},
            [1e-4, 0.002 / 3, 0.004 / 3, 0.002, 0.001866025403784439, 0.0015],
        ),
        (COSINE, [0.001 * (1 + math.cos(math.pi * epoch / 6)) for epoch in range(6)]),
        ({"STEPSIZE": (9, 2)}, [0.002, 0.002, 0.0002, 0.0002, 0.00002, 0.00002]),
        ({"STEPSIZE": (-1,)}, [0.002] * 6),
        (
            {"LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 3)} | CONSTANT,
            [1e-5, 0.002, 0.0002, 0.0002, 0.00002, 0.00002],
        ),
    ],
)
def test_curves(values, expected):
    assert curve(**values) == pytest.approx(expected, rel=1e-7)


def test_published_configuration_ends_above_zero():
    last = curve(epochs=200, MAX_EPOCH=200, **COSINE, **CONSTANT)[-1]
    assert last == pytest.approx(4.93e-7, rel=1e-2)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"LR_SCHEDULER": "exponential"}, ValueError),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "cubic"}, ValueError),
        ({"STEPSIZE": ("one",)}, TypeError),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, TypeError),
        ({"NAME": "lion"}, ValueError),
    ],
)
def test_bad_values(values, error):
    with pytest.raises(error, match="OPTIM"):
        curve(**values)


@pytest.mark.parametrize("values", [COSINE | CONSTANT, {"STEPSIZE": (2,)} | CONSTANT])
@pytest.mark.parametrize("stop", range(7))
def test_scheduler_state_is_plain_and_continues(values, stop, tmp_path):
    cfg = optim_cfg(**values)
    whole = curve(8, **values)

    def build():
        optimizer = build_optimizer(nn.Linear(2, 2), cfg)
        return optimizer, build_lr_scheduler(optimizer, cfg)

    optimizer, scheduler = build()
    for _ in range(stop):
        optimizer.step()
        scheduler.step()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state")
    saved = torch.load(tmp_path / "state", weights_only=True)
    optimizer, scheduler = build()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    rates = []
    for _ in range(stop, 8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == whole[stop:]


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "dampening": 0, "nesterov": False}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.99}),
        ("radam", RAdam, {"betas": (0.9, 0.999)}),
    ],
)
def test_optimizers(name, kind, settings):
    optimizer = build_optimizer(nn.Linear(2, 2), optim_cfg(NAME=name))
    assert isinstance(optimizer, kind)
    assert type(optimizer).__name__ == kind.__name__
    (group,) = optimizer.param_groups
    for key, value in {"lr": 0.002, "weight_decay": 5e-4, **settings}.items():
        assert group[key] == value


@pytest.mark.parametrize("name", AVAI_OPTIMS)
def test_optimizers_step_as_those_of_pytorch(name):
    ours = build_optimizer([nn.Parameter(torch.ones(3))], optim_cfg(NAME=name))
    (group,) = ours.param_groups
    kind = type(ours).__mro__[1]
    settings = {key: group[key] for key in ("lr", "weight_decay")}
    settings |= {key: group[key] for key in ("betas", "amsgrad", "momentum", "alpha")
                 if key in group and kind is not RAdam}  # fmt: skip
    theirs = kind([nn.Parameter(torch.ones(3))], **settings)
    assert type(theirs) is kind is not type(ours)
    for step in range(1, 9):
        for optimizer in (ours, theirs):
            (parameter,) = optimizer.param_groups[0]["params"]
            optimizer.zero_grad()
            ((parameter - step) ** 2 * torch.tensor([0.1, 1, 10])).sum().backward()
            optimizer.step()
        mine, expected = ours.state_dict(), theirs.state_dict()
        assert mine["param_groups"] == expected["param_groups"]
        torch.testing.assert_close(mine["state"], expected["state"], rtol=0, atol=0)
        theirs.load_state_dict(copy.deepcopy(mine))  # else both would change one tensor
    assert torch.equal(ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0])


def test_hooks_of_an_optimizer_run():
    parameter, seen = nn.Parameter(torch.ones(1)), []
    optimizer = build_optimizer([parameter], optim_cfg(NAME="sgd"))
    optimizer.register_step_post_hook(lambda *_: seen.append("step"))
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("state"))
    parameter.sum().backward()
    optimizer.step()
    optimizer.state_dict()
    assert seen == ["step", "state"]


def test_a_module_is_handed_over_whole():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(build_optimizer(model, optim_cfg()).param_groups[0]["params"]) == 2
    assert len(build_optimizer([model.weight], optim_cfg()).param_groups[0]["params"]) == 1


def test_staged_learning_rates():
    model = nn.Sequential()
    model.add_module("old", nn.Linear(2, 2))
    model.add_module("new", nn.Linear(2, 2, bias=False))
    cfg = optim_cfg(STAGED_LR=True, NEW_LAYERS=("new",))
    old, new = build_optimizer(model, cfg).param_groups
    assert (old["lr"], len(old["params"])) == (pytest.approx(0.0002), 2)
    assert (new["lr"], len(new["params"])) == (0.002, 1)
    with pytest.raises(TypeError, match="Module"):
        build_optimizer(list(model.parameters()), cfg)
    with pytest.warns(UserWarning, match="param_groups"):
        build_optimizer(model, cfg, param_groups=model.parameters())


def test_radam_follows_the_paper():
    """Algorithm 2 of arXiv:1908.03265 with decoupled weight decay, in plain numbers."""
    beta1, beta2, lr, decay, eps = 0.9, 0.999, 0.01, 0.1, 1e-8
    weight = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    optimizer = RAdam([weight], lr=lr, weight_decay=decay)
    expected = [1.5, -0.5]
    first, second = [0.0, 0.0], [0.0, 0.0]
    longest = 2 / (1 - beta2) - 1
    for step in range(1, 12):
        weight.grad = weight.detach() * 3 + step
        for i, value in enumerate(list(expected)):
            gradient = 3 * value + step
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient**2
            length = longest - 2 * step * beta2**step / (1 - beta2**step)
            update = first[i] / (1 - beta1**step)
            if length > 5:
                rectify = (length - 4) * (length - 2) * longest
                rectify /= (longest - 4) * (longest - 2) * length
                corrected = math.sqrt(1 - beta2**step) / (math.sqrt(second[i]) + eps)
                update *= math.sqrt(rectify) * corrected
            expected[i] = value * (1 - lr * decay) - lr * update
        optimizer.step()
        assert weight.tolist() == pytest.approx(expected, rel=1e-7)


def test_no_warning_when_optimiser_steps_first():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve(**COSINE, **CONSTANT)
