"""Every method on a GPU: the CPU's numbers, the textbook path's, and no needless waiting."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mini_benchmark import batch_of, build, cfg_of
from torch import Tensor

from promptclip import arithmetic, plugins, tensor_file
from promptclip.errors import UserError
from promptclip.run import run

METHODS = sorted(plugins.methods())
LEARNERS = [name for name in METHODS if plugins.methods()[name].Model.learns]

# For numbers that shapes depend on: of classes in a batch, of images whose class is a candidate
WAITS = {"NPT": 1, "DPT": 3}


def trainer_of(method: str, mini: Path, output: Path, *settings: object, gpu: bool = True) -> Any:
    """In fp32 and without dropout unless told otherwise."""
    node, options = f"TRAINER.{method.upper()}", plugins.methods()[method].Options()
    drawn = (f"{node}.DROPOUT", 0.0) if hasattr(options, "dropout") else ()
    settings = (f"{node}.PREC", "fp32", *drawn, "USE_CUDA", gpu, *settings)
    arithmetic.arrange(cfg_of(method, mini, output, *settings))
    trainer = build(method, mini, output, *settings)
    assert trainer.device.type == ("cuda" if gpu else "cpu")
    return trainer


def copy_learned(source: Any, target: Any) -> None:
    """The same learned tensors in both, whatever the devices have drawn."""
    for name, model in source._models.items():
        target._models[name].load_state_dict(model.state_dict())


def ready(trainer: Any, steps: int) -> None:
    trainer.before_train()
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = steps + 1, 0


def steps(trainer: Any, batch: Any, count: int = 5) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of some steps, and what was learned in them."""
    ready(trainer, count)
    for optimizer in trainer._optims.values():
        optimizer.param_groups[0]["lr"] = 0.01
    torch.manual_seed(3)
    losses = [trainer.forward_backward(batch)["loss"] for _ in range(count)]
    learned = {
        f"{name}.{key}": value.detach().cpu().clone()
        for name, model in trainer._models.items()
        for key, value in model.named_parameters()
    }
    return losses, learned


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    found, expected = found.detach().cpu(), expected.detach().cpu()
    scale = expected.abs().max().clamp(min=1e-3)
    assert (found - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize("method", METHODS)
def test_the_cpus_logits(method, mini, tmp_path):
    on_cpu = trainer_of(method, mini, tmp_path / "cpu", gpu=False)
    on_gpu = trainer_of(method, mini, tmp_path / "gpu")
    copy_learned(on_cpu, on_gpu)
    batch = batch_of(on_cpu)
    for trainer in (on_cpu, on_gpu):
        trainer.set_model_mode("eval")
    with torch.no_grad():
        expected = on_cpu.model(batch["img"]).logits
        close(on_gpu.model(batch["img"].cuda()).logits, expected, 1e-4)


@pytest.mark.parametrize("method", LEARNERS)
def test_five_steps_are_the_cpus(method, mini, tmp_path):
    on_cpu = trainer_of(method, mini, tmp_path / "cpu", gpu=False)
    on_gpu = trainer_of(method, mini, tmp_path / "gpu")
    copy_learned(on_cpu, on_gpu)
    batch = batch_of(on_cpu)
    expected, learned = steps(on_cpu, batch)
    losses, found = steps(on_gpu, batch)
    assert losses == pytest.approx(expected, rel=2e-3)
    for name, tensor in learned.items():
        close(found[name], tensor, 1e-2)


@pytest.mark.parametrize("method", LEARNERS)
def test_five_steps_are_the_textbook_paths(method, mini, tmp_path):
    fast = trainer_of(method, mini, tmp_path / "fast")
    textbook = trainer_of(method, mini, tmp_path / "textbook", "MODEL.EXACT_TEXTBOOK", True)
    copy_learned(fast, textbook)
    batch = batch_of(fast)
    expected, learned = steps(textbook, batch)
    losses, found = steps(fast, batch)
    assert losses == pytest.approx(expected, rel=1e-3)
    for name, tensor in learned.items():
        close(found[name], tensor, 1e-2)


@pytest.mark.parametrize("precision", ["amp", "bf16", "fp16"])
@pytest.mark.parametrize("method", LEARNERS)
def test_half_precision(method, precision, mini, tmp_path):
    """The first loss is that of fp32 within the type's rounding, and training goes on from it."""
    full = trainer_of(method, mini, tmp_path / "full")
    half = trainer_of(method, mini, tmp_path / "half", f"TRAINER.{method.upper()}.PREC", precision)
    copy_learned(full, half)
    batch = batch_of(full)
    (expected, *_), _ = steps(full, batch, 1)
    losses, _ = steps(half, batch, 10)
    assert losses[0] == pytest.approx(expected, rel=0.05, abs=0.05)
    assert losses[-1] < losses[0] + 0.05
    assert half.model.clip.dtype in (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("method", METHODS)
def test_deterministic_runs_are_equal(method, mini, tmp_path):
    settings = ("COMPUTE.DETERMINISTIC", True, "OPTIM.MAX_EPOCH", 1)
    first, second = (run(cfg_of(method, mini, tmp_path / name, *settings)) for name in ("a", "b"))
    assert first["metrics"] == second["metrics"]
    assert first["hardware"]["gpu"]
    a, b = (tmp_path / name / "prompts.safetensors" for name in ("a", "b"))
    assert a.exists() == (method in LEARNERS or plugins.methods()[method].Model.fitted)
    if a.exists():
        (ones, _), (others, _) = map(tensor_file.read, (a, b))
        assert ones.keys() == others.keys()
        assert all(torch.equal(ones[key], others[key]) for key in ones)


@pytest.mark.parametrize("method", LEARNERS)
def test_a_step_waits_for_the_gpu_once(method, mini, tmp_path):
    """For the loss and its like, at the end of the backward pass; little else makes it wait."""
    trainer = trainer_of(method, mini, tmp_path)
    batch = batch_of(trainer)
    batch = {
        key: value.pin_memory() if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    steps(trainer, batch, 2)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.forward_backward(batch)
    torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    assert len(waits) == 1 + WAITS.get(method, 0), waits


def test_memory_that_runs_out_is_told(mini, tmp_path):
    """Really out: the process is allowed less of the GPU than a step of this batch needs."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    cfg = cfg_of("VPT", mini, tmp_path, "OPTIM.MAX_EPOCH", 1)
    torch.cuda.set_per_process_memory_fraction(2**20 / total)
    with pytest.raises(UserError, match="out of memory .*DATALOADER.TRAIN_X.BATCH_SIZE 8"):
        run(cfg)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert run(cfg)["metrics"]


@pytest.mark.parametrize("method", LEARNERS)
def test_a_stopped_run_goes_on_to_equal_numbers(method, mini, tmp_path, monkeypatch):
    settings = ("COMPUTE.DETERMINISTIC", True, "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1)
    whole = run(cfg_of(method, mini, tmp_path / "whole", *settings))
    cfg = cfg_of(method, mini, tmp_path / "cut", *settings)
    trainer = plugins.methods()[method]
    after_epoch = trainer.after_epoch

    def stop(self: Any) -> None:
        after_epoch(self)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "after_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(cfg)
    assert run(cfg)["metrics"] == whole["metrics"]


@pytest.mark.parametrize("method", LEARNERS)
def test_a_recorded_text_tower_changes_no_bit(method, mini, tmp_path):
    exact = ("COMPUTE.DETERMINISTIC", True)
    plain = trainer_of(method, mini, tmp_path / "plain", "COMPUTE.CUDA_GRAPHS", False, *exact)
    recorded = trainer_of(method, mini, tmp_path / "recorded", *exact)
    copy_learned(plain, recorded)
    batch = batch_of(plain)
    expected, learned = steps(plain, batch)
    losses, found = steps(recorded, batch)
    assert losses == expected
    assert all(torch.equal(found[name], tensor) for name, tensor in learned.items())


@pytest.mark.parametrize("method", LEARNERS)
def test_a_seed_means_the_same_start(method, mini, tmp_path):
    on_cpu = trainer_of(method, mini, tmp_path / "cpu", gpu=False)
    on_gpu = trainer_of(method, mini, tmp_path / "gpu")
    for name, model in on_cpu._models.items():
        for key, value in model.named_parameters():
            same = dict(on_gpu._models[name].named_parameters())[key]
            torch.testing.assert_close(same.cpu(), value, rtol=1e-4, atol=1e-5)
