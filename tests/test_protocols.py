"""The protocols from methods and seeds to the table."""

from __future__ import annotations

import logging
import shutil

import pytest

from promptclip import cell, plugins, results, table
from promptclip.errors import UserError
from promptclip.protocols import base2new, dg, fewshot, xd
from promptclip.run import run


@pytest.fixture
def start(mini, tmp_path, caplog):
    """Runs a protocol on the miniature benchmark; gives its status and its lines."""
    caplog.set_level(logging.INFO, logger="promptclip.protocols")

    def start(*methods, protocol=base2new, **kwargs):
        caplog.clear()
        usual = {"root": str(mini.parent), "shots": 2, "seeds": (1,), "output": str(tmp_path)}
        usual |= {"overrides": ["OPTIM.MAX_EPOCH", 2], "quiet": True}
        status = protocol(methods, str(mini), **usual | kwargs)
        lines = [r.getMessage() for r in caplog.records if r.name == "promptclip.protocols"]
        return status, lines

    return start


def test_all_methods_and_seeds_make_one_table(start, tmp_path, capsys):
    status, lines = start("zsclip", "coop", "DAPT", seeds=(1, 2))
    assert status == 0
    assert len(lines) == 13
    assert lines[0].startswith("[1/12] ZeroshotCLIP, seed 1, base classes: ")
    assert lines[11].startswith("[12/12] DAPT, seed 2, new classes: ")
    assert capsys.readouterr().out == ""
    found = table.build(tmp_path)
    assert found.complete
    assert {(row.method, row.seeds) for row in found.rows} == {
        (method, (1, 2)) for method in ("ZeroshotCLIP", "CoOp", "DAPT")
    }
    folder = tmp_path / "base2new/train_base/mini/shots_2/DAPT/tiny/seed2"
    assert (folder / "prompt_learner" / "model.pth.tar-2").is_file()
    assert (
        tmp_path / "base2new/test_new/mini/shots_2/ZeroshotCLIP/tiny/seed1/result.json"
    ).exists()
    zero = next(row for row in found.rows if row.method == "ZeroshotCLIP")
    assert (zero.trainable_parameters, zero.base.deviation) == (0, 0)


def test_finished_runs_are_not_repeated_and_others_are_added(start, monkeypatch):
    start("coop")
    status, lines = start("coop")
    assert status == 0
    assert len(lines) == 1  # the table
    status, lines = start("coop", seeds=(1, 2))
    assert [line[:25] for line in lines[:-1]] == [
        "[3/4] CoOp, seed 2, base ",
        "[4/4] CoOp, seed 2, new c",
    ]


def test_train_and_test_apart_like_coops_pair_of_scripts(start, tmp_path):
    with pytest.raises(UserError, match=r"no finished training in .*; train on base first"):
        start("coop", parts=("test",))
    assert not (tmp_path / "base2new").exists()
    status, lines = start("coop", parts=("train",))
    assert (status, len(lines)) == (0, 2)
    assert "missing" in lines[1]
    status, lines = start("coop", parts=("test",))
    assert (status, len(lines)) == (0, 2)
    assert table.build(tmp_path).complete


def test_a_failing_run_keeps_no_other_from_running(start, monkeypatch, tmp_path):
    losses = plugins.methods()["CoOp"].losses

    def fails_with_seed_1(self, output, label):
        if self.cfg.SEED == 1:
            raise FloatingPointError("Loss is infinite or NaN!")
        return losses(self, output, label)

    monkeypatch.setattr(plugins.methods()["CoOp"], "losses", fails_with_seed_1)
    status, lines = start("coop", "zsclip", seeds=(1, 2))
    assert status == 1
    folder = tmp_path / "base2new/train_base/mini/shots_2/CoOp/tiny/seed1"
    assert lines[-2:] == [
        "failed: CoOp, seed 1, base classes: Loss is infinite or NaN!",
        f"failed: CoOp, seed 1, new classes: no finished training in {folder}; train on base first",
    ]
    rows = {row.method: row for row in table.build(tmp_path).rows}
    assert set(rows["CoOp"].base.values) == {2}
    assert "failed" in rows["CoOp"].base.problems[1]
    assert set(rows["ZeroshotCLIP"].base.values) == {1, 2}


def test_unusable_input_stops_everything_before_anything_runs(start, mini, tmp_path):
    for message, call in {
        r"unknown method 'dabt'; did you mean 'DAPT'": lambda: start("dabt"),
        r"no 'tinny' in .*CoOp, did you mean 'tiny'\?": lambda: start("coop", cfg_name="tinny"),
        r"unknown key OPTIM.LT": lambda: start("coop", overrides=["OPTIM.LT", "1"]),
        r"OPTIM.MAX_EPOCH must": lambda: start("coop", overrides=["OPTIM.MAX_EPOCH", "-3"]),
        r"SEED cannot be set here": lambda: start("coop", overrides=["OPTIM.LR", "1", "SEED", "1"]),
        r"seeds between 0 and 4294967295; got 2 and -1": lambda: start("coop", seeds=[-1]),
        r"seeds between 0 and .*; got 2 and 1 4294967296": lambda: start("coop", seeds=[1, 2**32]),
        r"no 'emojy' in .*datasets, did you mean 'emoji'\?": lambda: base2new(["coop"], "emojy"),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(UserError, match=r"mini/.* missing|mini is missing"):
        base2new(["coop", "dapt"], str(mini), root=str(tmp_path), output=str(tmp_path / "output"))
    assert not any(tmp_path.iterdir())


def test_imagenet_without_data_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"ImageNet: .*images/train and images/val.*DATA="):
        base2new(["dapt"], "imagenet", root=str(tmp_path / "data"), output=str(tmp_path / "output"))
    assert not any(tmp_path.iterdir())


def test_few_shot_has_a_column_for_each_number_of_shots(start, tmp_path):
    status, lines = start("coop", "zsclip", protocol=fewshot, shots=(1, 4), seeds=(1, 2))
    assert (status, len(lines)) == (0, 9)
    assert lines[0].startswith("[1/8] CoOp, seed 1, mini, 1 shot: ")
    assert lines[7].startswith("[8/8] ZeroshotCLIP, seed 2, mini, 4 shots: ")
    assert "mini, few-shot, all classes" in lines[8]
    found = table.build(tmp_path / "fewshot")
    assert found.complete
    assert [list(row.cells) for row in found.rows] == [["shots_1", "shots_4"]] * 2
    assert (tmp_path / "fewshot/mini/shots_4/CoOp/tiny/seed2/prompt_learner").is_dir()
    assert len(start("coop", protocol=fewshot, shots=(4, 1), seeds=(2,))[1]) == 1  # the table


@pytest.fixture
def data(mini, tmp_path):
    """A root with the miniature benchmark and another domain of it; `domain.yaml` names that."""
    root = tmp_path / "data"
    for folder in ("mini", "mini_domain"):
        ignore = shutil.ignore_patterns("split_fewshot")
        shutil.copytree(mini.parent / "mini", root / folder, ignore=ignore)
    (root / "domain.yaml").write_text(
        "DATASET: {NAME: MiniDomain, CFG: another}\nMODEL: {BACKBONE: {NAME: another}}\n"
    )
    return root


@pytest.fixture
def elsewhere(start, data):
    """Starts a protocol with `domain.yaml` as the target."""

    def elsewhere(*methods, **kwargs):
        usual = {"protocol": dg, "root": str(data), "targets": [str(data / "domain.yaml")]}
        return start(*methods, **usual | kwargs)

    return elsewhere


def test_a_model_is_trained_once_and_tested_wherever_it_is_asked_for(
    elsewhere, start, data, tmp_path, monkeypatch
):
    trained = []

    def counted(cfg, **how):
        if not how and results.read(cfg.OUTPUT_DIR) is None:
            trained.append(cfg)
        return run(cfg, **how)

    monkeypatch.setattr(cell, "run", counted)
    status, lines = elsewhere("coop")
    assert status == 0
    assert lines[0].startswith("[1/2] CoOp, seed 1, mini, 2 shots: ")
    assert lines[1].startswith("[2/2] CoOp, seed 1, on domain: ")
    assert "from mini, 2 shots, domain generalisation" in lines[2]
    source = results.read(tmp_path / "fewshot/mini/shots_2/CoOp/tiny/seed1")
    test = results.read(tmp_path / "dg/mini/domain/shots_2/CoOp/tiny/seed1")
    assert test["metrics"] == source["metrics"]  # the pictures are the same
    # Configured as it was trained, whatever the target's yaml says; only the data are others.
    assert test["config"]["DATASET"]["NAME"] == "MiniDomain"
    assert test["config"]["MODEL"] == source["config"]["MODEL"]
    assert elsewhere("coop", protocol=xd)[0] == 0
    assert start("coop", protocol=fewshot, shots=[2], root=str(data))[0] == 0
    assert len(trained) == 1
    found = table.build(tmp_path)
    assert found.complete
    assert [row.protocol for row in found.rows] == ["fewshot", "xd", "dg"]


def test_a_target_without_data_is_a_failure_in_the_table(elsewhere, data, tmp_path):
    missing = data / "missing.yaml"
    missing.write_text("DATASET: {NAME: Caltech101}")
    targets = [str(missing), str(data / "domain.yaml")]
    status, lines = elsewhere("zsclip", protocol=xd, targets=targets)
    assert status == 1
    assert "caltech-101 is missing" in lines[-1]
    assert "missing seed 1 failed: UserError: Caltech101: " in " ".join(lines[-2].split())
    (row,) = table.build(tmp_path / "xd").rows
    assert list(row.cells) == ["mini", "domain", "missing"]
    assert row.cells["missing"].problems == {1: "failed"}
    assert row.cells["domain"].mean == row.cells["mini"].mean
    assert row.summary["average"].lines() == ["", "incomplete seed 1"]
    missing.write_text("DATASET: {NAME: MiniDomain}")
    assert elsewhere("zsclip", protocol=xd, targets=targets)[0] == 0
    assert table.build(tmp_path / "xd").complete


def test_a_failed_training_shows_in_the_tables_of_its_tests(elsewhere, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(plugins.methods()["CoOp"], "losses", lambda *_: 1 / 0)
        status, lines = elsewhere("coop")
    assert status == 1
    assert lines[-2:] == [
        "failed: CoOp, seed 1, mini, 2 shots: division by zero",
        "failed: CoOp, seed 1, on domain: no finished training in "
        f"{tmp_path}/fewshot/mini/shots_2/CoOp/tiny/seed1; train on mini first",
    ]
    (row,) = table.build(tmp_path / "dg").rows
    assert [cell.problems for cell in row.cells.values()] == [{1: "failed"}] * 2
    assert elsewhere("coop")[0] == 0


def test_a_dry_run_tells_all_and_does_nothing(elsewhere, start, data, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    dry = {"dry_run": True, "root": "nowhere"}
    status, lines = elsewhere("coop", "zsclip", **dry)
    fewshot_folder, dg_folder = f"{tmp_path}/fewshot/mini/shots_2", f"{tmp_path}/dg/mini/domain"
    assert (status, lines) == (0, [
        f"[1/4] CoOp, mini, 2 shots, seed 1: train and test, all classes, not done, "
        f"{fewshot_folder}/CoOp/tiny/seed1",
        f"[2/4] CoOp, domain, 2 shots, seed 1: test only, all classes, not done, "
        f"{dg_folder}/shots_2/CoOp/tiny/seed1",
        f"[3/4] ZeroshotCLIP, mini, 2 shots, seed 1: test only, all classes, not done, "
        f"{fewshot_folder}/ZeroshotCLIP/tiny/seed1",
        f"[4/4] ZeroshotCLIP, domain, 2 shots, seed 1: test only, all classes, not done, "
        f"{dg_folder}/shots_2/ZeroshotCLIP/tiny/seed1",
    ])  # fmt: skip
    assert len(start("coop", protocol=fewshot, shots=(1, 2, 4), **dry)[1]) == 3
    assert "test only, new classes, not done" in start("coop", **dry)[1][1]
    assert sorted(tmp_path.rglob("*")) == before
    start("coop", parts=("train",))
    assert [line.split(", ")[-2] for line in start("coop", **dry)[1]] == ["done", "not done"]
    (line, _) = start("coop", **dry, overrides=["OPTIM.MAX_EPOCH", 3])[1]
    assert "refused: was written by another run (OPTIM.MAX_EPOCH: 3, not 2), " in line


def test_what_belongs_to_its_classes_is_not_tested_on_others(
    elsewhere, start, tmp_path, monkeypatch
):
    monkeypatch.setattr(plugins.methods()["CoOp"].Model, "transfers", False)
    status, lines = start("coop", "zsclip")
    assert status == 0
    assert lines[0].startswith("CoOp: no test on new classes, what it learns cannot be used")
    assert lines[1].startswith("[1/3] CoOp, seed 1, base classes: ")
    coop, zsclip = table.build(tmp_path).rows
    assert [cell.lines()[-1] for cell in (coop.new, coop.h)] == ["n/a", "n/a"]
    assert zsclip.new.mean is not None
    assert table.build(tmp_path).complete
    status, lines = elsewhere("coop", "zsclip", protocol=xd)
    assert status == 1
    assert lines[0].startswith("[1/2] ZeroshotCLIP")
    assert lines[-1].startswith("failed: CoOp: not run, what it learns cannot be used for other")
    with pytest.raises(UserError, match="CoOp: not run, what it learns"):
        elsewhere("coop", protocol=xd)
    assert elsewhere("coop", protocol=dg)[0] == 0  # the classes are the same


def test_unusable_targets(elsewhere, mini):
    for message, targets in {
        "mini has no usual targets .imagenet, emoji have.; give --targets": [],
        "mini is the source and cannot be a target": [str(mini)],
        "no 'dtb' in .*, did you mean 'dtd'": ["dtb"],
    }.items():
        with pytest.raises(UserError, match=message):
            elsewhere("coop", targets=targets)
