"""Optimisers named in `OPTIM.NAME`."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn, no_grad, optim
from yacs.config import CfgNode

from dassl.optim.radam import RAdam

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _never_compiled(kind: type[optim.Optimizer]) -> type[optim.Optimizer]:
    """The same optimiser, for which PyTorch's compiler is not imported.

    PyTorch wraps these methods to tell its compiler to leave them alone, and imports it for that,
    in a second or more. What is wrapped computes the same; where a version of PyTorch wraps nothing
    or otherwise, it stays as it is there.
    """
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    plain["step"] = no_grad()(inspect.unwrap(kind.step))
    plain["__doc__"], plain["__module__"] = kind.__doc__, kind.__module__
    return type(kind.__name__, (kind,), plain)


# For each name: the class, and its arguments besides learning rate and weight decay.
_OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], Callable[[CfgNode], dict[str, Any]]]]
_OPTIMIZERS = {
    "adam": (_never_compiled(optim.Adam), lambda cfg: {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2)}),
    "amsgrad": (
        _never_compiled(optim.Adam),
        lambda cfg: {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2), "amsgrad": True},
    ),
    "sgd": (
        _never_compiled(optim.SGD),
        lambda cfg: {
            "momentum": cfg.MOMENTUM,
            "dampening": cfg.SGD_DAMPNING,
            "nesterov": cfg.SGD_NESTEROV,
        },
    ),
    "rmsprop": (
        _never_compiled(optim.RMSprop),
        lambda cfg: {"momentum": cfg.MOMENTUM, "alpha": cfg.RMSPROP_ALPHA},
    ),
    "radam": (_never_compiled(RAdam), lambda cfg: {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2)}),
    "adamw": (
        _never_compiled(optim.AdamW),
        lambda cfg: {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2)},
    ),
}

AVAI_OPTIMS = list(_OPTIMIZERS)


def build_optimizer(model: Any, optim_cfg: CfgNode, param_groups: Any = None) -> optim.Optimizer:
    """Build the optimiser that a configuration's `OPTIM` describes.

    Args:
        model: a module, whose frozen parameters are handed over too; or parameters.
        optim_cfg: the node `OPTIM`.
        param_groups: parameters or groups to use instead of the model's.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if `STAGED_LR` is on and the model is no module.
    """
    if optim_cfg.NAME not in _OPTIMIZERS:
        raise ValueError(f"OPTIM.NAME must be one of {AVAI_OPTIMS}, got {optim_cfg.NAME!r}")
    if param_groups is None:
        if optim_cfg.STAGED_LR:
            param_groups = _staged_groups(model, optim_cfg)
        else:
            param_groups = model.parameters() if isinstance(model, nn.Module) else model
    elif optim_cfg.STAGED_LR:
        warnings.warn("OPTIM.STAGED_LR does nothing when param_groups are given", stacklevel=2)
    build, arguments = _OPTIMIZERS[optim_cfg.NAME]
    return build(
        param_groups,
        lr=optim_cfg.LR,
        weight_decay=optim_cfg.WEIGHT_DECAY,
        **arguments(optim_cfg),
    )


def _staged_groups(model: Any, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    """Two groups: children that are pre-trained, at a fraction of the rate, and new ones."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs an nn.Module, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    names = optim_cfg.NEW_LAYERS
    new_layers = [names] if isinstance(names, str) else list(names)
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, child in model.named_children():
        groups[name in new_layers] += child.parameters()
    return [
        {"params": groups[False], "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT},
        {"params": groups[True]},
    ]
