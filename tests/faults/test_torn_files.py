"""Files of our own that are not what was written: noticed and named, or made again, or harmless.

Whatever befalls a file, what follows has the numbers of the run to which nothing happened, or it is
refused with a message that names the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grid_case
import pytest
import torch
from faults.damage import damages, says
from mini_benchmark import cfg_of

from promptclip import plugins, results, run_file, splits, tensor_file
from promptclip.errors import UserError
from promptclip.feature_cache import FeatureCache
from promptclip.few_shot import PARTS
from promptclip.files import DamagedError
from promptclip.grid import journal, plan, slurm, status, worker
from promptclip.grid.plan import Spec
from promptclip.grid.queue import Queue
from promptclip.lock import locked
from promptclip.run import run

METHOD = "DAPT"  # which has a file more than others, class_means.safetensors
KEYS = ("OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, "TEST.FINAL_MODEL", "best_val")


def train(yaml: Path, folder: Path, seed: int = 1) -> dict[str, Any]:
    return run(cfg_of(METHOD, yaml, folder, *KEYS, seed=seed))


def learned(folder: Path) -> list[tuple[str, bytes]]:
    """The learned tensors at the end of a run, bit by bit."""
    state = torch.load(folder / "prompt_learner" / "model.pth.tar-3", weights_only=True)
    return [
        (name, value.numpy().tobytes())
        for name, value in state["state_dict"].items()
        if isinstance(value, torch.Tensor)
    ]


@dataclass
class Case:
    """A run to which nothing happened, one that was stopped, and one of another seed.

    Attributes:
        yaml: of the data set.
        folder: with the runs `whole`, `stopped`, `other` and `other_stopped`.
        result: of the whole one.
    """

    yaml: Path
    folder: Path
    result: dict[str, Any]

    def copy(self, which: str, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder / which, to)
        return to


@pytest.fixture(scope="module")
def case(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("torn")
    result = train(mini, folder / "whole")
    train(mini, folder / "other", seed=2)
    trainer = plugins.methods()[METHOD]
    for name, seed in {"stopped": 1, "other_stopped": 2}.items():
        with pytest.MonkeyPatch.context() as patch:
            step = trainer.forward_backward

            def stops(self: Any, batch: Any, step: Any = step) -> Any:
                if self.epoch == 2:
                    raise KeyboardInterrupt
                return step(self, batch)

            patch.setattr(trainer, "forward_backward", stops)
            with pytest.raises(KeyboardInterrupt):
                train(mini, folder / name, seed)
    return Case(mini, folder, result)


def each(
    folder: Path, others: Path, files: str = "*", flips: int = 2
) -> Iterator[tuple[str, str, bytes]]:
    """Every file of a folder, each damage to it, and its content then."""
    for file in sorted(folder.rglob(files)):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not name.startswith(("log.txt", "tensorboard")):
            other = others / name
            content = other.read_bytes() if other.is_file() else b"{}"
            for how, damaged in damages(file.read_bytes(), content, flips=flips).items():
                yield name, how, damaged


def attempt(what: Callable[[], Any], name: str) -> Any:
    """What is done gives, or None where it was refused with the name of the file.

    Of another's plan or run.json the folder is named.
    """
    try:
        return what()
    except UserError as error:
        says(error, Path(name).name, "holds a grid with other", "was written by another run")
        return None


MADE_AGAIN = {"class_means.safetensors", "result.json", "failed.json", ".lock"}


@pytest.mark.parametrize("which", ["stopped", "whole"])
def test_a_run_goes_on_or_says_which_file(which, case, tmp_path, count):
    other = {"stopped": "other_stopped", "whole": "other"}[which]
    expected, tensors = case.result["metrics"], learned(case.folder / "whole")
    for name, how, damaged in each(case.folder / which, case.folder / other):
        folder = case.copy(which, tmp_path / "run")
        (folder / name).write_bytes(damaged)
        result = attempt(lambda folder=folder: train(case.yaml, folder), name)
        if result is not None:
            assert result["metrics"] == expected, f"{name}, {how}"
            assert name.endswith("tar-3") or learned(folder) == tensors, f"{name}, {how}"
            assert results.read(folder) == json.loads(json.dumps(result))
        assert result is not None or name not in MADE_AGAIN, f"{name}, {how}"
        count("faults injected")


def test_a_resume_file_has_one_behind_it(case, tmp_path, count):
    """Damaged, it is passed over; of another run, it is refused."""
    names = ("resume.pth.tar", "resume-previous.pth.tar")
    for name in names:
        for how, damaged in damages((case.folder / "stopped" / name).read_bytes(), b"x").items():
            folder = case.copy("stopped", tmp_path / "run")
            (folder / name).write_bytes(damaged)
            assert train(case.yaml, folder)["metrics"] == case.result["metrics"], how
            count("faults injected")
    folder = case.copy("stopped", tmp_path / "run")
    shutil.copy(case.folder / "other_stopped" / names[0], folder)
    with pytest.raises(UserError, match=r"run with another configuration \(hash .*delete the"):
        train(case.yaml, folder)
    for name in names:
        (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"cannot resume: .*resume.pth.tar and .*damaged; delete"):
        train(case.yaml, folder)
    count("faults injected", 2)


def test_a_text_that_names_the_checkpoint(case, tmp_path, count):
    """`checkpoint` is read where there is no file for exact resume."""
    for content in (b"", b"\n", b"model.pth.tar-9\n", b"\xff\0", b"../../x", b"a" * 5000):
        folder = case.copy("stopped", tmp_path / "run")
        for file in folder.glob("resume*"):
            file.unlink()
        (folder / "prompt_learner" / "checkpoint").write_bytes(content)
        with pytest.raises(UserError, match="was not read: it is damaged.*delete the folder"):
            train(case.yaml, folder)
        count("faults injected")


@pytest.mark.parametrize(
    ("from_", "epoch"),
    [("", 3), ("", None), ("prompts.safetensors", None)],
    ids=["last", "best", "prompts"],
)
def test_a_test_of_a_damaged_training(from_, epoch, case, tmp_path, count):
    def test(folder: Path, output: Path) -> Any:
        shutil.rmtree(output, ignore_errors=True)
        cfg = cfg_of(METHOD, case.yaml, output, *KEYS)
        return run(cfg, eval_only=True, model_dir=str(folder / from_), load_epoch=epoch)

    whole = test(case.folder / "whole", tmp_path / "test")["metrics"]
    assert epoch or whole == case.result["metrics"]
    for name, how, damaged in each(case.folder / "whole", case.folder / "other", flips=4):
        folder = case.copy("whole", tmp_path / "run")
        (folder / name).write_bytes(damaged)
        where = f"{name}, {how}"
        result = attempt(lambda folder=folder: test(folder, tmp_path / "test"), name)
        if name == "prompts.safetensors" == from_ and how == "another's":
            assert result["metrics"]  # the user has named the file, and it is whole
        else:
            assert result is None or result["metrics"] == whole, where
        count("faults injected")


def test_what_stands_in_a_folder_of_another_run(case, tmp_path, count):
    folder = case.copy("whole", tmp_path / "run")
    name = "prompt_learner/model.pth.tar-3"
    shutil.copy(case.folder / "other" / name, folder / name)
    cfg = cfg_of(METHOD, case.yaml, tmp_path / "test", *KEYS)
    with pytest.raises(UserError, match="tar-3 is of another run than its folder.*put back its"):
        run(cfg, eval_only=True, model_dir=str(folder), load_epoch=3)
    count("faults injected")


def test_the_tensors_of_a_class_are_never_others(tmp_path, count):
    """Bits of a file with a checksum, one after another."""
    file = tmp_path / "means.safetensors"
    tensors = {"class_means": torch.randn(2, 3), "more": torch.arange(3)}
    tensor_file.write(tensors, {"of": "a run"}, file)
    content = file.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            found, about = tensor_file.read(file)
        except DamagedError as error:
            says(error, str(file))
        else:  # a space behind the header
            assert about == {"of": "a run"}
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        count("faults injected")


# ------------------------------------------------------------------ the data's own files


@pytest.fixture
def data(case: Case, tmp_path: Path) -> Path:
    """A copy of the benchmark, with the sample of seed 1 and 4 shots; its yaml."""
    root = tmp_path / "data"
    shutil.copytree(case.yaml.parent, root)
    yaml = root / case.yaml.name
    yaml.write_text(yaml.read_text().replace(str(case.yaml.parent), str(root)))
    return yaml


def go_on(case: Case, yaml: Path, folder: Path) -> Any:
    """The stopped run with its data elsewhere."""
    case.copy("stopped", folder)
    backbone = ("MODEL.BACKBONE.NAME", str(case.yaml.parent / "clip.safetensors"))
    return run(cfg_of(METHOD, yaml, folder, *KEYS, *backbone))


def test_a_few_shot_sample(case, data, tmp_path, count):
    file = data.parent / "mini" / "split_fewshot" / "shot_4-seed_1.json"
    others = file.with_name("shot_4-seed_2.json").read_bytes()
    for how, damaged in damages(file.read_bytes(), others, flips=12).items():
        file.write_bytes(damaged)
        result = attempt(lambda: go_on(case, data, tmp_path / "run"), file.name)
        assert result is None or result["metrics"] == case.result["metrics"], how
        count("faults injected")


def test_a_sample_that_was_changed_with_its_hash_while_a_run_was_stopped(
    case, data, tmp_path, count
):
    file = data.parent / "mini" / "split_fewshot" / "shot_4-seed_1.json"
    content = json.loads(file.read_text())
    content["train"].reverse()
    content["split_hash"] = splits.content_hash({part: content[part] for part in ("train", "val")})
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="run with another few-shot sample .*put that back"):
        go_on(case, data, tmp_path / "run")
    count("faults injected")


@pytest.mark.parametrize("sealed", [True, False])
def test_a_split(sealed, case, data, tmp_path, count):
    """One of ours has a hash; a published one is compared with that of the stopped run."""
    file = data.parent / "mini" / "split_zhou_Mini.json"
    if sealed:
        split = splits.read(file)
        splits.write({part: split[part] for part in PARTS}, file, {"origin": "a test"})
    others = file.read_bytes().replace(b"test_0", b"test_9")
    for how, damaged in damages(file.read_bytes(), others, flips=12).items():
        file.write_bytes(damaged)
        try:
            result = go_on(case, data, tmp_path / "run")
        except UserError as error:
            told = ("split_zhou_Mini.json", "another split", "shot_4-seed_1.json", "data/mini")
            says(error, *told)
        else:
            assert result["metrics"] == case.result["metrics"], how
        count("faults injected")


def test_a_file_of_the_feature_cache(tmp_path, count):
    cache = FeatureCache(tmp_path)
    identity, features = {"pictures": "abc"}, torch.randn(3, 4)
    cache.keep(identity, features)
    (file,) = tmp_path.glob("*.safetensors")
    content = file.read_bytes()
    cache.keep({"pictures": "other"}, torch.randn(3, 4))
    (other,) = set(tmp_path.glob("*.safetensors")) - {file}
    for how, damaged in damages(content, other.read_bytes(), flips=60).items():
        file.write_bytes(damaged)
        found = cache.read(identity)
        assert found is None or torch.equal(found, features), how
        count("faults injected")


# ------------------------------------------------------------------ a grid's files


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Path]:
    """What was asked for, and an output folder with a grid of it: one run is done, one failed."""
    root = tmp_path_factory.mktemp("torn_grid")
    yamls = grid_case.make(root / "data")
    spec = Spec(("zsclip",), (yamls[0],), shots=(2,), seeds=(1, 2), root=str(root / "data"))
    for number, seeds in enumerate([(1, 2), (2, 1)]):
        folder = plan.folder_of(root / f"output{number}", "torn")
        plan.store(Spec(**{**vars(spec), "seeds": seeds}), folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "_end_with_parent", lambda: None)
            patch.setattr(
                "promptclip.cell.Run.__call__",
                _fails_with_seed(seeds[1]),
            )
            assert worker.work(folder, "w") == worker.NOTHING_LEFT
        slurm.write_record({"jobs": [f"{number + 1}_0"]}, folder / slurm.JOBS_FILE)
        with locked(folder):
            pass
    return spec, root


def _fails_with_seed(seed: int) -> Any:
    from promptclip.cell import Run

    call = Run.__call__

    def some(self: Run, planned: str = "") -> Any:
        if self.seed == seed:
            raise UserError("of no use")
        return call(self, planned)

    return some


def test_a_grid_goes_on_or_says_which_file(grid, tmp_path, monkeypatch, count):
    spec, root = grid
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    whole = root / "output0"
    for name, how, damaged in each(whole, root / "output1", flips=3):
        output = tmp_path / "output"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(whole, output)
        (output / name).write_bytes(damaged)

        def go_on(output: Path = output) -> Any:
            folder = plan.folder_of(output, "torn")
            with locked(folder):
                plan.store(spec, folder)
                queue = Queue(folder)
                list(status.failures(status.Reader(folder).read()))
                queue.forgive()
                queue.withdraw_damaged()
                assert worker.work(folder, "again") == worker.NOTHING_LEFT
            now = status.Reader(folder).read()
            if now.failed:  # a run's own folder cannot be used, and its failure says so
                raise UserError("; ".join(status.failures(now)))
            return grid_case.measured(output)

        where = f"{name}, {how}"
        found = attempt(go_on, name)
        assert found is None or len(found) == 2, where
        assert found is None or len({json.dumps(one) for one, _ in found.values()}) == 1, where
        count("faults injected")


def test_the_list_of_slurms_jobs(grid, tmp_path, count):
    """That jobs were sent is never forgotten."""
    _, root = grid
    file = plan.folder_of(root / "output0", "torn") / slurm.JOBS_FILE
    for damaged in damages(file.read_bytes(), b'{"other": 1}', flips=10).values():
        (tmp_path / slurm.JOBS_FILE).write_bytes(damaged)
        with pytest.raises(UserError, match="slurm.json|cannot ask Slurm"):
            slurm.jobs(tmp_path)
        count("faults injected")


def test_a_journal_tells_what_is_whole(tmp_path, count):
    with journal.Journal(tmp_path, "w") as write:
        for number in range(4):
            write(journal.START, number, "hash")
            write(journal.DONE, number, "hash", seconds=1.0, accuracy=2.0)
    file = journal.path(tmp_path, "w")
    whole = journal.events(file)
    content = file.read_bytes()
    assert len(whole) == 8
    for how, damaged in damages(content, b'{"event": 3}\n[]\n', flips=60).items():
        file.write_bytes(damaged)
        found = journal.events(file)
        changed = [event for event in found if event not in whole]
        assert len(changed) <= (how.startswith("flip")), how
        journal.unfinished(found)
        count("faults injected")


def test_a_failure_stays_a_failure(tmp_path, count):
    results.failed(tmp_path, ZeroDivisionError("by zero"))
    file = tmp_path / results.FAILURE_FILE
    for how, damaged in damages(file.read_bytes(), b'{"a": []}', flips=20).items():
        file.write_bytes(damaged)
        record = results.read_failure(tmp_path)
        assert record is not None, how
        assert all(isinstance(record[key], str) for key in ("error", "message", "date")), how
        count("faults injected")


def test_a_run_file_is_whole_or_named(case, tmp_path, count):
    content = (case.folder / "whole" / run_file.RUN_FILE).read_bytes()
    whole = run_file.read(case.folder / "whole")
    for how, damaged in damages(content, b"{}", flips=60).items():
        (tmp_path / run_file.RUN_FILE).write_bytes(damaged)
        try:
            found = run_file.read(tmp_path)
        except DamagedError as error:
            says(error, "run.json is damaged")
        else:
            assert found is not None, how
            assert {key: found[key] for key in whole if key in found} == whole, how
        count("faults injected")
