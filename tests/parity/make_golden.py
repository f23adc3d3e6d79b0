"""Run a published trainer and record what it computes.

    python tests/parity/make_golden.py coop --repository CoOp --dassl Dassl.pytorch

The paths are git checkouts, run as they are; `methods/<name>.py` says of which repository. What
stands in the way of running them in fp32 on a CPU with current packages is worked around from
outside: the call that reads weights is replaced by one that hands over a random CLIP (built by
their own `clip.build_model`), moves to "cuda" and conversions to half precision stay where they
are, and packages that are imported without being needed here are stubbed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import lr_scheduler
from torch.overrides import TorchFunctionMode

import promptclip

sys.path.insert(0, str(Path(__file__).parent.parent))
from parity import common
from parity.spec import Call, Learned, Spec, specs

STUBS = ("gdown", "wilds", "pandas", "audioop", "turtle")
_CONVERSIONS = (torch.Tensor.float, torch.Tensor.half)
_TYPES = (torch.float32, torch.float16)


class Watch(TorchFunctionMode):
    """Keeps tensors on the CPU and in one precision, and notes calls as they pass by."""

    def __init__(self, dtype: torch.dtype, watched: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self.dtype, self.watched = dtype, watched
        self.calls: list[Call] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Rewrite a conversion or a move, note a watched call, else call through."""
        kwargs = {key: self._stay(value) for key, value in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            return args[0]
        if func in _CONVERSIONS:
            func, args = torch.Tensor.to, (args[0], self.dtype)
        elif func in (torch.Tensor.to, torch.Tensor.type):
            args = tuple(self._stay(value) for value in args)
        result = func(*args, **kwargs)
        if func in self.watched:
            self.calls.append((func, args, result))
        return result

    def _stay(self, value: Any) -> Any:
        if isinstance(value, str | torch.device) and str(value).startswith("cuda"):
            return "cpu"
        return self.dtype if isinstance(value, torch.dtype) and value in _TYPES else value


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What published code creates without naming a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def stub_missing_packages() -> None:
    """Empty modules for what is imported at the top of files and not used here."""
    for name in STUBS:
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
            module.__spec__ = ModuleSpec(name, loader=None)
            sys.modules[name] = module
    if not hasattr(os, "TMP_MAX"):
        os.TMP_MAX = 0  # type: ignore[attr-defined]


def admit_old_scheduler_argument() -> None:
    """Dassl's warm-up hands over `verbose`, which current torch no longer takes."""

    class Scheduler(lr_scheduler.LRScheduler):
        def __init__(self, optimizer: Any, last_epoch: int = -1, verbose: bool = False) -> None:
            super().__init__(optimizer, last_epoch)

    lr_scheduler._LRScheduler = Scheduler  # type: ignore[misc]


def config(spec: Spec, case: common.Case, root: Path) -> Any:
    """The published settings of the method, through Dassl's own defaults."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.TRAINER.NAME = spec.trainer
    cfg.DATASET.ROOT = f"{root}/"
    cfg.DATASET.NAME = case.dataset
    spec.configure(cfg, case)
    return cfg


def recorder(published: type, case: common.Case) -> type:
    """The published trainer with our data."""

    class Recorder(published):  # type: ignore[misc]
        def build_data_loader(self) -> None:
            self.lab2cname = dict(enumerate(case.classnames))
            self.num_classes = len(case.classnames)
            dataset = types.SimpleNamespace(classnames=list(case.classnames))
            self.dm = types.SimpleNamespace(dataset=dataset)
            self.num_batches = case.batches_per_epoch

    return Recorder


def run(
    spec: Spec,
    module: Any,
    case: common.Case,
    name: str,
    watch: Watch,
    start: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Every step of a case, recorded by name, and the spread of the published start."""
    with tempfile.TemporaryDirectory() as folder:
        own_loop = spec.run(module, case, watch, Path(folder))
        if own_loop is not None:
            return own_loop, {}
        cfg = config(spec, case, Path(folder))
        spec.prepare(module, case, Path(folder))
        torch.manual_seed(common.SEED)
        trainer = spec.build(recorder(getattr(module, spec.trainer), case), cfg)
    pairs = spec.learned(case)
    learned = {short: Learned(trainer.model, theirs) for short, (theirs, _) in pairs.items()}
    result: dict[str, Tensor] = {}
    spread = {}
    for short, one in learned.items():
        spread[short] = {"std": one.value.std().item(), "max": one.value.abs().max().item()}
        if spec.keeps_start:
            one.value.copy_(start.get(f"init/{short}", one.value))
            result[f"init/{short}"] = one.value.clone()
        else:
            one.value.copy_(spec.start(name, short, one.value.shape))
    images = case.images(0).to(watch.dtype)
    prompt_learner = getattr(trainer.model, "prompt_learner", None) if pairs else None
    tokens = getattr(prompt_learner, "tokenized_prompts", None)
    if tokens is not None:
        result["tokens"] = tokens.int()
    with torch.no_grad():
        result |= spec.features(trainer, images)
    if not pairs:
        return result, {}

    history: dict[str, list[Tensor]] = {}
    trainer.set_model_mode("train")
    differentiate_terms(trainer, spec, case, watch, learned, result)
    for step in range(case.steps):
        trainer.epoch, trainer.batch_idx = divmod(step, case.batches_per_epoch)
        lr = trainer.get_current_lr()
        batch = {"img": case.images(step).to(watch.dtype), "label": case.label(step)}
        watch.calls.clear()
        summary = trainer.forward_backward(batch)
        if not watch.calls:
            raise RuntimeError("the published trainer did not call its losses")
        scalars = {"lr": torch.tensor(lr, dtype=torch.float64)}
        if "loss" in summary:
            scalars["loss"] = torch.tensor(summary["loss"], dtype=watch.dtype)
        values = {**spec.terms(watch.calls), **scalars, "logits": spec.logits(watch.calls)}
        for key, value in values.items():
            history.setdefault(f"steps/{key}", []).append(value.detach().clone())
        if step == 0:
            result |= {f"grad/{short}": one.gradient.clone() for short, one in learned.items()}
    result |= {f"final/{short}": one.value.clone() for short, one in learned.items()}
    # A term that some steps lack is left out.
    whole = {
        key: torch.stack(values) for key, values in history.items() if len(values) == case.steps
    }
    return result | whole, spread


def differentiate_terms(
    trainer: Any,
    spec: Spec,
    case: common.Case,
    watch: Watch,
    learned: Mapping[str, Learned],
    result: dict[str, Tensor],
) -> None:
    """Make the first step note the gradient of each loss term alone."""
    optimizer = next(iter(trainer._optims.values()))
    zero_grad = optimizer.zero_grad

    def noting(*args: Any, **kwargs: Any) -> None:
        optimizer.zero_grad = zero_grad
        terms = spec.terms(watch.calls)
        if len(terms) > 1 and case.clip != "vit_b16":
            for term, value in terms.items():
                if not value.requires_grad:
                    continue
                for short, one in learned.items():
                    (gradient,) = torch.autograd.grad(
                        value, [one.parameter], retain_graph=True, allow_unused=True
                    )
                    if gradient is not None:
                        result[f"grad/{term}/{short}"] = one.part(gradient)
        zero_grad(*args, **kwargs)

    optimizer.zero_grad = noting


def record(
    spec: Spec, module: Any, name: str, dtype: torch.dtype, start: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Run one case in one precision."""
    case = spec.cases[name]

    def load(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        weights = {key: value.clone() for key, value in common.random_clip(case.clip).items()}
        return spec.load_clip(module, cfg, weights, *args, **kwargs).to(dtype)

    module.load_clip_to_cpu = load
    with Watch(dtype, spec.watched) as watch, default_dtype(dtype):
        result, spread = run(spec, module, case, name, watch, start)
    sketched = common.sketch(result, spec.largest, signed=spec.signed)
    return {key: value.contiguous() for key, value in sketched.items()}, spread


def rounding(result: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """How far the published code in fp32 is from itself in float64, by tensor."""
    return {
        key: float(f"{common.difference_of(key, result, exact):.1e}")
        for key in result
        if not key.startswith(("init/", "tokens"))
    }


def commit(checkout: Path) -> str:
    """The commit of a checkout, which must be unchanged."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(checkout), *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    if git("status", "--porcelain", "--untracked-files=no"):
        raise SystemExit(f"{checkout} is changed; golden numbers need the published code")
    return git("rev-parse", "HEAD")


def main() -> None:
    """Record every case of one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=sorted(specs()))
    parser.add_argument("--repository", type=Path, required=True, help="folder with trainers/")
    parser.add_argument("--dassl", type=Path, required=True, help="folder with dassl/")
    parser.add_argument("--clip", type=Path, help="folder with clip/, where it is another")
    parser.add_argument("--only", help="one case, printed and not written")
    args = parser.parse_args()

    torch.set_num_threads(1)
    stub_missing_packages()
    admit_old_scheduler_argument()
    folders = filter(None, (args.repository, args.dassl, args.clip))
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    spec = specs()[args.method]
    module = importlib.import_module(spec.module)

    tensors: dict[str, Tensor] = {}
    cases: dict[str, Any] = {}
    for name, case in spec.cases.items():
        if args.only and name != args.only:
            continue
        result, spread = record(spec, module, name, torch.float32, {})
        exact, _ = record(spec, module, name, torch.float64, result)
        # The sum of a sketch that is nothing but rounding says nothing.
        empty = [key for key, value in rounding(result, exact).items() if "#" in key and value > 1]
        result = {key: value for key, value in result.items() if key not in empty}
        tensors |= {f"{name}/{key}": value for key, value in result.items()}
        cases[name] = {
            **asdict(case),
            **spec.notes(module, case),
            "start": spread,
            "rounding": rounding(result, exact),
        }
        sys.stderr.write(f"{name}: {cases[name]['rounding']}\n")
    if args.only:
        return
    if hasattr(spec, "more"):
        both = []
        for dtype in (torch.float32, torch.float64):
            with Watch(dtype, spec.watched) as watch:
                both.append(spec.more(module, watch))
        for name, result in both[0].items():
            tensors |= {f"{name}/{key}": value for key, value in result.items()}
            cases[name] = {"rounding": rounding(result, both[1][name])}

    sidecar = {
        "what": f"numbers computed by the published trainer {spec.trainer} in fp32",
        "repository": spec.repository,
        "commit": commit(args.repository),
        "dassl_commit": commit(args.dassl),
        **({"clip_commit": commit(args.clip)} if args.clip else {}),
        "command": f"python tests/parity/make_golden.py {spec.name} --repository REPOSITORY "
        f"--dassl DASSL{' --clip CLIP' if args.clip else ''}, with checkouts of the commits",
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "promptclip": promptclip.__version__},
        "seed": common.SEED,
        "optimiser": spec.optimiser,
        "rounding": "per case and tensor: relative difference to the same code in float64",
        "start": "per case and learned tensor: spread of the published start",
        "clips": {
            clip: {
                **asdict(common.CLIPS[clip]),
                "sha256": common.fingerprint(common.random_clip(clip)),
            }
            for clip in sorted({case.clip for case in spec.cases.values()})
        },
        "cases": cases,
    }
    common.GOLDEN.mkdir(exist_ok=True)
    save_file(tensors, common.GOLDEN / f"{spec.name}.safetensors")
    text = json.dumps(sidecar, indent=1) + "\n"
    (common.GOLDEN / f"{spec.name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
