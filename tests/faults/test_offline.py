"""Every command with the network forbidden, by the environment and by Python itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grid_case
import pytest
from network_ban import forbid_network

from promptclip.config import configs_dir

DRIVER = """
import json, sys
from promptclip.cli import main

for command in json.load(open(sys.argv[1])):
    try:
        status = main(command)
    except SystemExit as end:
        status = end.code
    print(json.dumps([command, status]), file=sys.stderr)
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs commands; gives their statuses, what they said, and what was tried of the network."""

    def run(
        *commands: list[str], code: str = DRIVER, **variables: str
    ) -> tuple[list[int], str, str]:
        record = tmp_path / "tried"
        (tmp_path / "commands.json").write_text(json.dumps(commands))
        environment = grid_case.environment(PROMPTCLIP_OFFLINE="1", **variables)
        forbid_network(environment, tmp_path / "ban", record)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "commands.json")],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        statuses = [json.loads(line)[1] for line in done.stderr.splitlines() if line[:2] == "[["]
        assert len(statuses) == len(commands), said
        return statuses, said, record.read_text() if record.exists() else ""

    return run


def test_the_ban_is_one(run: Any) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(RuntimeError):\n"
    code += "    socket.create_connection(('127.0.0.1', 9))"
    _, _, tried = run(code=code)
    assert tried.startswith("socket.getaddrinfo")


def test_every_command_does_without(run: Any, tmp_path: Path) -> None:
    one, two = grid_case.make(tmp_path / "data")
    root, output = str(tmp_path / "data"), str(tmp_path / "output")
    tiny = str(configs_dir() / "trainers/CoOp/tiny.yaml")
    where = ["--root", root, "--output", output, "--cfg", "tiny"]
    short = ["--set", "OPTIM.MAX_EPOCH", "1"]
    grid = ["grid", "zsclip", "--datasets", one, "--shots", "2", "--seeds", "1", "--name", "g"]
    commands = [
        ["train", "--trainer", "CoOp", "--root", root, "--dataset-config-file", one,
         "--config-file", tiny, "--output-dir", str(tmp_path / "run"), "DATASET.NUM_SHOTS", "2",
         "OPTIM.MAX_EPOCH", "1"],
        ["base2new", "coop", one, "1", "--shots", "2", *where, *short],
        ["fewshot", "zsclip", one, "1", "--shots", "2", *where],
        ["xd", "zsclip", one, "1", "--targets", two, "--shots", "2", *where],
        ["dg", "zsclip", one, "1", "--targets", two, "--shots", "2", *where],
        ["imbalance", "zsclip", one, "1", "--ratios", "0.5", "--shots", "2", *where],
        [*grid, *where, "--workers", "1"],
        ["grid", "status", "--output", output],
        ["grid", "work", "--output", output, "--workers", "1"],
        ["table", output],
        ["table", output, "--published", "--format", "html"],
        ["compare", "zsclip", "coop", output],
        ["grade", "--new", str(tmp_path / "task")],
        ["grade", output, "--sample", "1", "--work", str(tmp_path / "grading"), "--root", root,
         "--data", one, "--data", two, *short],
        ["data", "check", "--root", root, "dtd"],
        ["data", "split", one, "--root", root],
        ["data", "export-split", one, str(tmp_path / "split.json"), "--root", root],
        ["data", "import-split", str(tmp_path / "split.json"), "--dataset", one, "--root", root],
        ["data", "get", "sun397"],
        ["data", "get", "eurosat", "--root", root, "--yes"],
        ["predict", str(tmp_path / "run"), root, "--out", str(tmp_path / "found.csv")],
        ["export", str(tmp_path / "run"), "--out", str(tmp_path / "classifier")],
        ["doctor", "--root", root],
        ["cache"],
        ["cache", "--clear"],
        ["train", "--trainer", "CoOp", "--root", root, "--dataset-config-file", one,
         "--config-file", tiny, "--output-dir", str(tmp_path / "a"), "--backbone", "RN50x64"],
        ["train", "--trainer", "CoOp", "--root", root, "--dataset-config-file", one,
         "--config-file", tiny, "--output-dir", str(tmp_path / "b"),
         "--backbone", "open_clip:ViT-H-14/metaclip_altogether"],
    ]  # fmt: skip
    cache = {"CLIP_CACHE": str(tmp_path / "no weights"), "HF_HUB_CACHE": str(tmp_path / "no hub")}
    statuses, said, tried = run(*commands, **cache)
    assert not tried, tried
    assert "forbidden here" not in said
    refused = [c for c, status in zip(commands, statuses, strict=True) if status not in (0, 1)]
    # The splits: the data set has CoOp's. The others would have to be fetched.
    names = ["data split", "data import-split", "data get", "train --trainer", "train --trainer"]
    assert [" ".join(command[:2]) for command in refused] == names, said
    for what in ("RN50x64.pt", "timm/vit_huge_patch14_clip_224.metaclip_altogether", "eurosat"):
        assert what in said
    assert said.count("because PROMPTCLIP_OFFLINE is set") == 3
