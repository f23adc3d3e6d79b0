"""Old outputs of CoOp-style repositories in the table: read as they are, gaps shown."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from result_tree import at

from promptclip import table
from promptclip.cli import main
from promptclip.errors import UserError
from promptclip.table.logs import accuracy, configuration
from promptclip.tree import Place

HEAD = """***************
** Arguments **
***************
backbone:
model_dir: {model_dir}
seed: {seed}
************
** Config **
************
DATASET:
  NAME: Caltech101
  NUM_SHOTS: 16
  SUBSAMPLE_CLASSES: {classes}
MODEL:
  BACKBONE:
    NAME: ViT-B/16
OPTIM:
  LR: {lr}
  MAX_EPOCH: 2
OUTPUT_DIR: output/of/seed{seed}
SEED: {seed}
TRAINER:
  COOP:
    CTX_INIT: a photo of a
  NAME: CoOp
Collecting env info ...
** System info **
PyTorch version: 1.8.1
"""
TRAINING = """epoch [1/2][5/25]\ttime 0.5 (0.6)\tdata 0.0 (0.1)\tloss 1.9 (1.9)\tlr 2.000000e-03
epoch [2/2] batch [25/25] time 0.142 (0.158) data 0.000 (0.014) loss 0.42 (0.58) acc 90.6 (86.2)
"""
DONE = "Finish training\nDeploy the last-epoch model\n"
RESULT = """Evaluate on the *{split}* set
=> result
* total: {total:,}
* correct: {correct:,}
* accuracy: {shown}%
* error: 8.2%
* macro_f1: 89.1%
"""
FOLDERS = {"base": "train_base", "new": "test_new"}


def result(correct: int, total: int = 2000, split: str = "test") -> str:
    shown = f"{100 * correct / total:.1f}"
    return RESULT.format(split=split, total=total, correct=correct, shown=shown)


def text(
    seed: int, *parts: str, classes: str = "all", model_dir: str = "", lr: float = 0.002
) -> str:
    head = HEAD.format(seed=seed, classes=classes, model_dir=model_dir, lr=lr)
    return head + "".join(parts)


def half(root: Path, name: str, seed: int, *parts: str, method: str = "CoOp", **more) -> Path:
    folder = (
        root / "base2new" / FOLDERS[name] / "caltech101/shots_16" / method / f"ctxv1/seed{seed}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text(text(seed, *parts, classes=name, **more))
    return folder


@pytest.fixture
def old(tmp_path):
    """Seeds 1 to 3 of CoOp; the training of the third crashed."""
    root = tmp_path / "old"
    for seed in (1, 2):
        half(root, "base", seed, TRAINING, DONE, result(1900 + seed), "Elapsed: 0:01:10\n")
        half(root, "new", seed, result(1800 + seed))
    half(root, "base", 3, TRAINING.splitlines(keepends=True)[0])
    return root


def test_a_crashed_seed_is_missing_and_not_averaged_away(old):
    found = table.build(logs_root=old)
    (row,) = found.rows
    assert (row.method, row.cfg, row.origin, row.seeds) == (
        "CoOp",
        "ctxv1",
        "read from logs",
        (1, 2, 3),
    )
    # Of the counts: 95.05 and 95.1 where the logs show 95.0 and 95.1.
    assert row.base.values == {1: 95.05, 2: 95.1}
    assert row.base.problems == {3: "no result in the log of"}
    assert row.new.problems == {3: "missing"}
    assert row.complete_seeds == {1, 2}
    assert row.seconds == 70
    assert (row.backbone, row.settings) == ("ViT-B/16", "")
    assert not found.complete
    assert found.notes[0].startswith(
        "caltech101, 16 shots, CoOp (ctxv1), read from logs, base seed 3 has no result, its log "
        "ends: epoch [1/2][5/25] time 0.5"
    )
    for form in ("text", "md", "latex", "html", "csv"):
        written = " ".join(table.render(found, form, width=160).split())
        assert "no result in the log of seed 3" in written
        assert "read from logs" in written
    assert json.loads(table.render(found, "json"))["rows"][0]["origin"] == "read from logs"


def test_beside_our_own_results_and_not_mixed_with_them(old, tmp_path):
    for seed, name in itertools.product((1, 2, 3), ("base", "new")):
        place = Place("base2new", "caltech101", 16, "CoOp", "ctxv1", seed, name)
        at(tmp_path / "ours", place, 50)
    ours, logs = table.build(tmp_path / "ours", logs_root=old).rows
    assert (ours.base.mean, ours.origin) == (50, "")
    assert logs.base.values == {1: 95.05, 2: 95.1}


def test_a_seed_that_all_methods_lack_shows_between_others(old):
    for seed in (1, 4):
        half(old, "new", seed, result(1700), method="MaPLe")
    for row in table.build(logs_root=old).rows:
        assert row.seeds == (1, 2, 3, 4)
    assert table.build(logs_root=old).rows[1].new.problems == {2: "missing", 3: "missing"}


@pytest.mark.parametrize(
    ("log", "value"),
    [
        (TRAINING + DONE + result(1836), 91.8),
        (result(1836), 91.8),
        # Another validation in each epoch, before the end and instead of it.
        (TRAINING + result(100, split="val") + TRAINING + DONE + result(1836), 91.8),
        (TRAINING + result(100, split="val"), None),
        (TRAINING + result(1836), None),
        (TRAINING + DONE, None),
        (TRAINING + DONE + result(1836, split="val"), None),
        (TRAINING + DONE + result(1836) + TRAINING, None),
        (result(1836).partition("* accuracy")[0], None),
        # Without counts the digits that are shown.
        ("Do evaluation on test set\n=> result\n* accuracy: 91.81%\n", 91.81),
        ("=> result\n* accuracy: 91.81%\n", 91.81),
        ("* total: 0\n* correct: 0\n* accuracy: 0.0%\n", 0),
        ("", None),
    ],
)
def test_the_result_is_that_of_the_test_after_the_training(log, value):
    assert accuracy(log) == value


def test_a_run_that_was_started_again_has_two_logs(old):
    folder = half(old, "base", 3, TRAINING)
    again = folder / "log.txt-2022-10-08-21-10-24"
    again.write_text(text(3, TRAINING, DONE, result(1800), classes="base"))
    assert table.build(logs_root=old).rows[0].base.values[3] == 90
    (folder / "log.txt").write_text(text(3, TRAINING, DONE, result(1000), classes="base"))
    found = table.build(logs_root=old)
    assert found.rows[0].base.problems == {3: "several results of"}
    assert "base seed 3 has logs with 50.00 and 90.00" in found.notes[0]


def test_configurations_are_compared(old):
    half(old, "base", 2, TRAINING, DONE, result(1000), lr=0.1)
    found = table.build(logs_root=old)
    assert found.rows[0].base.lines()[:2] == ["", "not averaged"]
    assert any("OPTIM.LR: 0.002, not 0.1" in note for note in found.notes)
    half(old, "base", 2, DONE, result(1000)).joinpath("log.txt").write_text(result(1000))
    found = table.build(logs_root=old)
    assert found.rows[0].base.values == {1: 95.05, 2: 50}
    assert any(
        note.startswith("Logs that do not show their configuration: 1;") for note in found.notes
    )


def test_a_folder_of_another_run_is_seen(old):
    half(old, "new", 1, result(1)).joinpath("log.txt").write_text(
        text(1, result(1), classes="base")
    )
    half(old, "new", 2, result(1)).joinpath("log.txt").write_text(text(1, result(1), classes="new"))
    problems = table.build(logs_root=old).rows[0].new.problems
    assert problems == {1: "misplaced", 2: "misplaced", 3: "missing"}


def test_coops_own_folders(tmp_path):
    root, tail = tmp_path / "output", "CoOp/vit_b16_16shots/nctx16_cscFalse_ctpend"
    logs = {
        f"imagenet/{tail}/seed1": text(1, TRAINING, DONE, result(1400)),
        "caltech101/CoOp/vit_b16_1shots/seed1": text(1, TRAINING, DONE, result(1600)),
    }
    for target, correct in {"imagenetv2": 1200, "dtd": 800}.items():
        model_dir = f"output/imagenet/{tail}/seed1"
        folder = f"evaluation/{tail}/{target}/seed1"
        logs[folder] = text(1, result(correct), model_dir=model_dir)
    logs[f"evaluation/{tail}/eurosat/seed1"] = text(1, result(1), model_dir="weights/coop")
    logs["ZeroshotCLIP/rn50/dtd"] = text(1, result(800))
    for folder, log in logs.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "log.txt").write_text(log)
    found = table.build(logs_root=root)
    rows = {(row.protocol, row.dataset): row for row in found.rows}
    assert list(rows) == [("fewshot", "caltech101"), ("fewshot", "imagenet"), ("xd", "imagenet"),
                          ("dg", "imagenet")]  # fmt: skip
    dg = rows["dg", "imagenet"]
    assert dg.cfg == "vit_b16 nctx16_cscFalse_ctpend"
    assert {c: cell.mean for c, cell in dg.cells.items()} == {"imagenet": 70, "imagenetv2": 60}
    assert rows["xd", "imagenet"].cells["dtd"].mean == 40
    assert rows["fewshot", "caltech101"].cells["shots_1"].mean == 80
    assert any(
        note.startswith(
            "Folders of logs that are not read, their layout is unknown: 2 (ZeroshotCLIP/rn50/dtd, "
        )
        for note in found.notes
    )


def test_the_configuration_of_a_log():
    assert configuration(text(1))["TRAINER"] == {
        "COOP": {"CTX_INIT": "a photo of a"},
        "NAME": "CoOp",
    }
    assert configuration("nothing") is None
    assert configuration("** Config **\n****\nDATASET:\n  NAME: a: b\nend\n") is None
    assert configuration("** Config **\n****\nDATASET: 3\nend\n") is None


def test_the_command(old, capsys):
    assert main(["table", "--from-logs", str(old)]) == 0
    written = capsys.readouterr().out
    assert "read from logs" in written
    assert "Logs do not tell which pictures were seen" in " ".join(written.split())
    assert main(["table", "--from-logs", str(old / "none")]) == 2
    (old.parent / "empty").mkdir()
    with pytest.raises(UserError, match=r"no log of a run below .*empty; expected"):
        table.build(logs_root=old.parent / "empty")
