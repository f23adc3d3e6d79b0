"""Run the published trainers and record what they compute.

    python tests/parity/make_golden.py coop   --repository CoOp --dassl Dassl.pytorch
    python tests/parity/make_golden.py zsclip --repository CoOp --dassl Dassl.pytorch
    python tests/parity/make_golden.py dapt   --repository DAPT --dassl DAPT/Dassl.pytorch

The paths are git checkouts, run as they are. What stands in the way of running them in fp32 on a
CPU with current packages is worked around from outside: the call that reads weights is replaced
by one that hands over a random CLIP (built by their own `clip.build_model`), moves to "cuda" stay
where they are, and packages that Dassl imports without needing them here are stubbed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import pickle
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.overrides import TorchFunctionMode

import promptclip

sys.path.insert(0, str(Path(__file__).parent))
import common

TRAINERS = {"coop": "CoOp", "dapt": "DAPT", "zsclip": "ZeroshotCLIP"}
REPOSITORIES = {
    "coop": "https://github.com/KaiyangZhou/CoOp",
    "dapt": "https://github.com/mlvlab/DAPT",
    "zsclip": "https://github.com/KaiyangZhou/CoOp",
}
# What the published train.py adds to Dassl's defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "coop": {"N_CTX": 16, "CTX_INIT": "", "CSC": False, "CLASS_TOKEN_POSITION": "end"},
    "dapt": {
        "VIS_NUM_TOKENS": 16,
        "VIS_DROPOUT": 0.0,
        "VIS_BETA": 0.1,
        "TXT_NUM_TOKENS": 16,
        "TXT_RBF_T": 2.0,
        "TXT_BETA": 0.1,
        "PROTOTYPE_GEN": False,
    },
    "zsclip": {},
}


class Watch(TorchFunctionMode):
    """Keeps tensors on the CPU and in one precision, and keeps the loss terms as they pass by."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.terms: dict[str, Tensor] = {}
        self.logits: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Rewrite a conversion, note a loss term, else call through."""
        if func is torch.Tensor.float:
            func, args = torch.Tensor.to, (args[0], self.dtype)
        elif func in (torch.Tensor.to, torch.Tensor.type):
            args = tuple(self._stay(value) for value in args)
        result = func(*args, **(kwargs or {}))
        if func is F.cross_entropy:
            self.terms["ce"], self.logits = result, args[0]
        elif func is F.mse_loss:
            self.terms["intra"] = result
        elif func is torch.Tensor.mean and result.requires_grad:
            self.terms["inter"] = result
        return result

    def _stay(self, value: Any) -> Any:
        if isinstance(value, str | torch.device) and str(value).startswith("cuda"):
            return "cpu"
        return self.dtype if value is torch.float32 else value


def stub_missing_packages() -> None:
    """Empty modules for what Dassl imports at the top of files that are not used here."""
    for name in ("gdown", "wilds", "pandas"):
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
            module.__spec__ = ModuleSpec(name, loader=None)
            sys.modules[name] = module


def admit_old_scheduler_argument() -> None:
    """Dassl's warm-up hands over `verbose`, which current torch no longer takes."""

    class Scheduler(lr_scheduler.LRScheduler):
        def __init__(self, optimizer: Any, last_epoch: int = -1, verbose: bool = False) -> None:
            super().__init__(optimizer, last_epoch)

    lr_scheduler._LRScheduler = Scheduler  # type: ignore[misc]


def config(method: str, case: common.Case, root: Path) -> Any:
    """The published settings of the method, through Dassl's own defaults."""
    from dassl.config import get_cfg_default
    from yacs.config import CfgNode

    cfg = get_cfg_default()
    cfg.TRAINER.NAME = TRAINERS[method]
    cfg.TRAINER[method.upper()] = CfgNode(OPTIONS[method])
    cfg.DATASET.ROOT = f"{root}/"
    cfg.DATASET.NAME = case.dataset
    case.configure(cfg, method.upper())
    return cfg


def recorder(published: type, case: common.Case, watch: Watch) -> type:
    """The published trainer with our data, noting the gradient of each loss term."""

    class Recorder(published):  # type: ignore[misc]
        def build_data_loader(self) -> None:
            self.lab2cname = dict(enumerate(case.classnames))
            self.num_classes = len(case.classnames)
            dataset = types.SimpleNamespace(classnames=list(case.classnames))
            self.dm = types.SimpleNamespace(dataset=dataset)
            self.num_batches = case.batches_per_epoch

        def model_backward_and_update(self, loss: Tensor, names: Any = None) -> None:
            if not hasattr(self, "term_gradients"):
                self.term_gradients = {}
                for term, value in watch.terms.items():
                    for key, parameter in self.model.prompt_learner.named_parameters():
                        (gradient,) = torch.autograd.grad(
                            value, [parameter], retain_graph=True, allow_unused=True
                        )
                        if gradient is not None:
                            self.term_gradients[f"grad/{term}/{key}"] = gradient
            super().model_backward_and_update(loss, names)

    return Recorder


def write_few_shot_set(case: common.Case, folder: Path) -> None:
    """The pictures, and the file that lists them where the published code looks for it."""
    from dassl.data.datasets import Datum

    (folder / "split_fewshot").mkdir(parents=True)
    data = []
    for index, (pixels, label) in enumerate(case.pictures()):
        path = folder / f"{index}.png"
        PIL.Image.fromarray(pixels).save(path)
        data.append(Datum(impath=str(path), label=label, classname=case.classnames[label]))
    with (folder / "split_fewshot" / f"shot_{case.shots}-seed_1.pkl").open("wb") as file:
        pickle.dump({"train": data}, file)


def unit(features: Tensor) -> Tensor:
    """Unit vectors, [N, D]."""
    return features / features.norm(dim=-1, keepdim=True)


def run_learner(
    method: str, module: Any, case: common.Case, watch: Watch, start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Steps of CoOp or DAPT from `start` (else from their own), everything recorded by name."""
    published = getattr(module, TRAINERS[method])
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        cfg = config(method, case, Path(folder))
        build = recorder(published, case, watch)
        if method == "dapt":
            write_few_shot_set(case, Path(folder) / module.DS_PATH[case.dataset])
            cfg.TRAINER.DAPT.PROTOTYPE_GEN = True
            build(cfg)
            cfg.TRAINER.DAPT.PROTOTYPE_GEN = False
        torch.manual_seed(common.SEED)
        trainer = build(cfg)
    learner = trainer.model.prompt_learner
    learned = dict(learner.named_parameters())
    for key, value in learned.items():
        value.data.copy_(start.get(f"init/{key}", value.data))
    result["tokens"] = learner.tokenized_prompts.int()
    result |= {f"init/{key}": value.detach().clone() for key, value in learned.items()}
    images = case.images(0).to(watch.dtype)
    with torch.no_grad():
        if method == "dapt":
            result["prototypes"] = trainer.prototype.clone()
            _, result["image_features"], result["text_features"] = trainer.model(images)
        else:
            result["image_features"] = unit(trainer.model.image_encoder(images))
            prompts = trainer.model.text_encoder(learner(), trainer.model.tokenized_prompts)
            result["text_features"] = unit(prompts)

    history: dict[str, list[Tensor]] = {}
    trainer.set_model_mode("train")
    for step in range(case.steps):
        trainer.batch_idx = step % case.batches_per_epoch
        lr = trainer.get_current_lr()
        batch = {"img": case.images(step).to(watch.dtype), "label": case.label(step)}
        summary = trainer.forward_backward(batch)
        if watch.logits is None:
            raise RuntimeError("the published trainer did not call cross_entropy")
        for key, value in (
            *watch.terms.items(),
            ("loss", torch.tensor(summary["loss"], dtype=watch.dtype)),
            ("lr", torch.tensor(lr, dtype=torch.float64)),
            ("logits", watch.logits),
        ):
            history.setdefault(f"steps/{key}", []).append(value.detach().clone())
        if step == 0:
            result |= {f"grad/{key}": value.grad.clone() for key, value in learned.items()}
            if method == "dapt" and case.clip != "vit_b16":
                result |= trainer.term_gradients
    result |= {f"final/{key}": value.detach().clone() for key, value in learned.items()}
    return result | {key: torch.stack(values) for key, values in history.items()}


def run_zero_shot(
    method: str, module: Any, case: common.Case, watch: Watch, start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Features and logits of the zero-shot trainer."""
    published = module.ZeroshotCLIP
    trainer = recorder(published, case, watch)(config(method, case, Path()))
    images = case.images(0).to(watch.dtype)
    with torch.no_grad():
        return {
            "text_features": trainer.text_features,
            "image_features": unit(trainer.clip_model.encode_image(images)),
            "logits": trainer.model_inference(images),
        }


def run_losses(module: Any, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """DAPT's own step with a stand-in for the model: the terms, and gradients of the features."""
    image, text, prototypes, label = (
        value.to(dtype) if value.is_floating_point() else value
        for value in common.loss_inputs(name)
    )
    raw = {"image": image.requires_grad_(), "text": text.requires_grad_()}
    logits = torch.zeros(len(label), len(prototypes), dtype=dtype)
    result: dict[str, Tensor] = {}
    with Watch(dtype) as watch:

        def differentiate(loss: Tensor) -> None:
            for term, key in (("intra", "image"), ("inter", "text")):
                result[f"losses/{term}"] = watch.terms[term].detach()
                (result[f"grad/{key}"],) = torch.autograd.grad(watch.terms[term], [raw[key]])

        options = types.SimpleNamespace(
            VIS_BETA=1.0, TXT_BETA=1.0, TXT_RBF_T=common.LOSSES[name][2]
        )
        cfg = types.SimpleNamespace(USE_CUDA=False, TRAINER=types.SimpleNamespace(DAPT=options))
        trainer = types.SimpleNamespace(
            cfg=cfg,
            prototype=prototypes,
            batch_idx=0,
            num_batches=2,
            parse_batch_train=lambda batch: batch,
            model=lambda image: (logits, unit(image), unit(raw["text"])),
            model_backward_and_update=differentiate,
        )
        module.DAPT.forward_backward(trainer, (raw["image"], label))
    return result


def record(
    method: str, module: Any, case: common.Case, dtype: torch.dtype, start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Run one case in one precision."""
    from clip.model import build_model

    def load(cfg: Any) -> Any:
        weights = {key: value.clone() for key, value in common.random_clip(case.clip).items()}
        return build_model(weights).to(dtype)

    module.load_clip_to_cpu = load
    runner = run_zero_shot if method == "zsclip" else run_learner
    with Watch(dtype) as watch:
        result = runner(method, module, case, watch, start)
    return {key: value.contiguous() for key, value in result.items()}


def rounding(result: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """How far the published code in fp32 is from itself in float64, by tensor."""
    return {
        key: float(f"{common.relative_difference(value, exact[key]):.1e}")
        for key, value in result.items()
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
    parser.add_argument("method", choices=sorted(TRAINERS))
    parser.add_argument("--repository", type=Path, required=True, help="checkout of CoOp or DAPT")
    parser.add_argument("--dassl", type=Path, required=True, help="checkout of Dassl.pytorch")
    parser.add_argument("--only", help="one case, printed and not written")
    args = parser.parse_args()

    torch.set_num_threads(1)
    stub_missing_packages()
    admit_old_scheduler_argument()
    sys.path[:0] = [str(args.repository.resolve()), str(args.dassl.resolve())]
    module = importlib.import_module(f"trainers.{args.method}")

    tensors: dict[str, Tensor] = {}
    cases: dict[str, Any] = {}
    for name, case in common.CASES[args.method].items():
        if args.only and name != args.only:
            continue
        result = record(args.method, module, case, torch.float32, {})
        exact = record(args.method, module, case, torch.float64, result)
        tensors |= {f"{name}/{key}": value for key, value in result.items()}
        cases[name] = {
            **asdict(case),
            "rounding": rounding(result, exact),
        }
        sys.stderr.write(f"{name}: {cases[name]['rounding']}\n")
        if args.method == "zsclip":
            cases[name]["template"] = module.CUSTOM_TEMPLATES[case.dataset]
    if args.only:
        return
    for name in common.LOSSES if args.method == "dapt" else ():
        result = run_losses(module, name, torch.float32)
        exact = run_losses(module, name, torch.float64)
        tensors |= {f"{name}/{key}": value for key, value in result.items()}
        cases[name] = {"rounding": rounding(result, exact)}

    sidecar = {
        "what": f"numbers computed by the published trainer {TRAINERS[args.method]} in fp32",
        "repository": REPOSITORIES[args.method],
        "commit": commit(args.repository),
        "dassl_commit": commit(args.dassl),
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "promptclip": promptclip.__version__},
        "seed": common.SEED,
        "optimiser": "sgd, momentum 0.9, weight decay 5e-4; one epoch of 1e-5, then cosine over "
        f"{common.EPOCHS} epochs, stepped by Dassl's scheduler after each epoch",
        "rounding": "per case and tensor: relative difference to the same code in float64",
        "clips": {
            clip: {
                **asdict(common.CLIPS[clip]),
                "sha256": common.fingerprint(common.random_clip(clip)),
            }
            for clip in sorted({case.clip for case in common.CASES[args.method].values()})
        },
        "cases": cases,
    }
    common.GOLDEN.mkdir(exist_ok=True)
    save_file(tensors, common.GOLDEN / f"{args.method}.safetensors")
    text = json.dumps(sidecar, indent=1) + "\n"
    (common.GOLDEN / f"{args.method}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
