"""The doors: what they take, print and return."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import promptclip
from promptclip import results
from promptclip.cli import main
from promptclip.commands import table as table_command
from promptclip.config import configs_dir

ROOT = Path(promptclip.__file__).parent.parent
TINY = str(configs_dir() / "trainers" / "CoOp" / "tiny.yaml")


@pytest.fixture
def train(mini):
    """Calls `promptclip train` on the miniature benchmark."""

    def train(output, *flags, opts=()):
        return main(
            [
                *("train", "--root", str(mini.parent), "--dataset-config-file", str(mini)),
                *("--config-file", TINY, "--trainer", "CoOp", "--output-dir", str(output), *flags),
                *("DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2", *opts),
            ]
        )

    return train


def test_coops_command_line_trains_and_tests_a_checkpoint(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--seed", "0", opts=["DATASET.SUBSAMPLE_CLASSES", "base"]) == 0
    assert "=> result" in capsys.readouterr().out
    result = results.read(tmp_path / "run")
    assert (result["seed"], result["shots"], result["subsample"]) == (0, 2, "base")
    flags = [
        "--seed",
        "0",
        "--eval-only",
        "--model-dir",
        str(tmp_path / "run"),
        "--load-epoch",
        "2",
    ]
    assert train(tmp_path / "new", *flags, opts=["DATASET.SUBSAMPLE_CLASSES", "new"]) == 0
    assert "train" not in results.read(tmp_path / "new")["seconds"]
    assert train(tmp_path / "try", "--no-train") == 0
    assert not (tmp_path / "try").exists()


def test_flags_stand_for_keys(train, mini, monkeypatch):
    seen = []
    monkeypatch.setattr("promptclip.run.run", lambda cfg, **kwargs: seen.append(cfg))
    backbone = str(mini.parent / "clip.safetensors")
    flags = ["--source-domains", "a", "b", "--transforms", "random_flip", "normalize"]
    assert train("out", *flags, "--backbone", backbone, "--resume", "r") == 0
    (cfg,) = seen
    assert cfg.INPUT.TRANSFORMS == ("random_flip", "normalize")
    assert cfg.DATASET.SOURCE_DOMAINS == ("a", "b")
    assert (cfg.RESUME, cfg.MODEL.BACKBONE.NAME, cfg.SEED) == ("r", backbone, -1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--trainer", "kop"], "unknown method 'kop'"),
        (["train"], "no method is chosen"),
        (["train", "--trainer", "coop", "OPTIM.LT", "3"], "did you mean OPTIM.LR?"),
        (["train", "--trainer", "coop"], "no data set is chosen"),
        (["base2new", "dapt", "emojy"], "did you mean 'emoji'?"),
        (["xd", "dapt", "caltech101"], "no usual targets"),
        (["dg", "dapt", "imagenet", "--targets", "imagenet_sketsh"], "'imagenet_sketch'?"),
        (["fewshot", "dapt", "emoji", "--shots", "0"], "shots must be at least 1"),
        (["table", "nowhere"], "nowhere"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_base2new_takes_methods_data_set_and_seeds(monkeypatch):
    calls = []
    monkeypatch.setattr("promptclip.protocols.base2new", lambda *a, **k: calls.append((a, k)) or 1)
    monkeypatch.setattr("os.environ", {})
    argv = ["base2new", "--set", "OPTIM.LR", "1", "--set", "SEED", "2", "--quiet", "--part", "test"]
    assert main([*argv, "zsclip,coop", "emoji"]) == 1
    assert main(["base2new", "--shots", "8", "dapt", "emoji_people", "0", "7", "--brief"]) == 1
    ((methods, dataset), first), ((_, _), second) = calls
    assert (methods, dataset, first["seeds"], first["shots"]) == (
        ["zsclip", "coop"],
        "emoji",
        [1, 2, 3],
        16,
    )
    assert (first["overrides"], first["parts"], first["quiet"]) == (
        ["OPTIM.LR", "1", "SEED", "2"],
        ("test",),
        True,
    )
    assert (first["brief"], second["quiet"], second["brief"]) == (False, False, True)
    assert (second["seeds"], second["shots"], second["parts"]) == ([0, 7], 8, ("train", "test"))


def test_the_other_protocols_take_the_same_and_lists_of_their_own(monkeypatch):
    calls = []
    for name in ("fewshot", "xd", "dg"):
        monkeypatch.setattr(
            f"promptclip.protocols.{name}", lambda *a, **k: calls.append((a, k)) or 0
        )
    assert main(["fewshot", "--shots", "1 2,4", "coop", "emoji", "1", "--set", "A", "B"]) == 0
    assert main(["fewshot", "coop", "emoji", "--dry-run"]) == 0
    assert main(["xd", "--targets", "dtd,ucf101", "--root", "data", "coop", "imagenet"]) == 0
    assert main(["dg", "--shots", "4", "coop,dapt", "emoji", "2"]) == 0
    assert [args for args, _ in calls] == [
        (["coop"], "emoji"),
        (["coop"], "emoji"),
        (["coop"], "imagenet"),
        (["coop", "dapt"], "emoji"),
    ]
    few, dry, cross, domains = (kwargs for _, kwargs in calls)
    assert (few["shots"], few["seeds"], few["overrides"]) == ([1, 2, 4], [1], ["A", "B"])
    assert (dry["shots"], dry["seeds"], dry["dry_run"]) == ([1, 2, 4, 8, 16], [1, 2, 3], True)
    assert (cross["targets"], cross["shots"], cross["root"]) == (["dtd", "ucf101"], 16, "data")
    assert (domains["targets"], domains["shots"], domains["dry_run"]) == ([], 4, False)
    assert "parts" not in domains


def test_interruption_and_missing_modules_have_a_message(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    def without(name):
        def command(args):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return command

    monkeypatch.setattr(table_command, "_table", interrupted)
    assert main(["table", "x"]) == 130
    monkeypatch.setattr(table_command, "_table", without("dassl"))
    assert main(["table", "x"]) == 2
    assert "pip install ./runtime" in capsys.readouterr().err
    monkeypatch.setattr(table_command, "_table", without("elsewhere"))
    with pytest.raises(ModuleNotFoundError):
        main(["table", "x"])


PROBE = """
import sys
from promptclip.cli import main
status = main(["table", sys.argv[1], "--format", "csv"])
sys.exit(status or "torch" in sys.modules or "dassl" in sys.modules)
"""


def test_the_table_needs_neither_torch_nor_an_engine(train, tmp_path):
    run = tmp_path / "base2new/train_base/mini/shots_2/CoOp/tiny/seed1"
    train(run, "--seed", "1", opts=["DATASET.SUBSAMPLE_CLASSES", "base"])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "CoOp" in done.stdout


def test_help_of_every_command(capsys):
    for argv in (["--help"], ["train", "--help"], ["base2new", "--help"], ["table", "--help"]):
        with pytest.raises(SystemExit) as exit:
            main(argv)
        assert exit.value.code == 0
    assert "KEY VALUE" in capsys.readouterr().out


def test_train_py_is_the_command_train():
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--dataset-config-file" in done.stdout
