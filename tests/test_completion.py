"""`promptclip completion`: what a real bash offers, and that the other scripts are written."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from promptclip.cli import build_parser, main

pytest.importorskip("shtab")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def offered(capsys, tmp_path):
    """What bash offers for a line, whose last word is not finished."""
    if not (bash := shutil.which("bash")):
        pytest.skip("there is no bash")
    written = script("bash", capsys)

    def offer(line: str, cwd: Path = tmp_path) -> set[str]:
        words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
        ask = f"""
        COMP_WORDS=({" ".join(map(shlex.quote, words))})
        COMP_CWORD={len(words) - 1}
        function=$(complete -p promptclip | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function"
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            [bash, "--norc", "-c", f"{written}\n{ask}"], cwd=cwd, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return {word.rstrip() for word in done.stdout.splitlines()} - {""}

    return offer


def test_commands_flags_names_and_paths(offered, tmp_path):
    assert {"train", "predict", "export", "completion"} <= offered("promptclip ")
    assert offered("promptclip pre") == {"predict"}
    assert {"--top", "--format", "--classes"} <= offered("promptclip predict --")
    assert offered("promptclip predict --format ") == {"csv", "json"}
    assert {"coop", "zsclip"} <= offered("promptclip base2new ")
    assert offered("promptclip base2new co") == {"coop", "cocoop"}
    assert {"emoji", "imagenet"} <= offered("promptclip base2new coop ")
    (tmp_path / "output").mkdir()
    (tmp_path / "other.txt").write_text("")
    assert offered("promptclip predict o") == {"output"}
    assert offered("promptclip predict output o") == {"output", "other.txt"}
    assert {"check", "get"} <= offered("promptclip data ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell, capsys):
    written = script(shell, capsys)
    for word in ("promptclip", "base2new", "deterministic", "emoji_people", "tip_adapter"):
        assert word in written
    if program := shutil.which(shell):
        done = subprocess.run([program, "-n"], input=written, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_every_metavar_of_the_parser_is_known():
    from promptclip.commands import completion

    known = completion._FOLDERS | completion._FILES | completion._METHODS | completion._DATA_SETS
    found = {action.metavar for action in completion._actions(build_parser())}
    assert known <= found


def test_without_the_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "the package shtab, which writes such scripts, is not" in capsys.readouterr().err
