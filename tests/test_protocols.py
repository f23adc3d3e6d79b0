"""Base-to-new from methods and seeds to the table."""

from __future__ import annotations

import logging

import pytest

from promptclip import plugins, table
from promptclip.errors import UserError
from promptclip.protocols import base2new


@pytest.fixture
def start(mini, tmp_path, caplog):
    """Runs the protocol on the miniature benchmark; gives its status and its lines."""
    caplog.set_level(logging.INFO, logger="promptclip.protocols")

    def start(*methods, seeds=(1,), **kwargs):
        caplog.clear()
        kwargs = {"overrides": ["OPTIM.MAX_EPOCH", 2], "quiet": True, **kwargs}
        status = base2new(
            methods, str(mini), root=str(mini.parent), shots=2, seeds=seeds,
            output=str(tmp_path), **kwargs,
        )  # fmt: skip
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
        r"seeds at least 0; got 2 and \[-1\]": lambda: start("coop", seeds=[-1]),
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
