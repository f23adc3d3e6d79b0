"""docs/use.md: its blocks run as they stand, and its table says what the methods say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import promptclip

ROOT = Path(promptclip.__file__).parent.parent
PAGE = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_packages")
def test_the_blocks_run(tmp_path):
    for name in ("configs", "promptclip"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tools := tmp_path / "bin").mkdir()
    (tools / "promptclip").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m promptclip "$@"\n')
    (tools / "promptclip").chmod(0o755)
    (tmp_path / "home").mkdir()
    env = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    env.pop("XDG_CACHE_HOME", None)
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    said = []
    for language, block in blocks:
        command = [sys.executable, "-c"] if language == "python" else ["bash", "-ec"]
        done = subprocess.run(
            [*command, block], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, (block, done.stderr)
        said.append(done.stdout)
    assert re.fullmatch(r"(0\.\d{3} [a-z ]+\n){3}", said[1])
    assert said[1].split(" ", 1)[1].startswith("food fruit\n")
    assert said[2].startswith("image,rank,class,probability\n")
    assert '"class": "' in said[2]
    assert said[3].count(",1,bird,") > 0
    assert said[5].strip() in (tmp_path / "classifier" / "classifier.json").read_text()
    assert shutil.which("promptclip", path=str(tools))


def test_every_method_is_in_the_table():
    from promptclip import plugins

    table = PAGE.partition("### What can be exported")[2]
    rows = re.findall(r"^\| ([A-Z][\w, ]+) \|", table, re.MULTILINE)
    named = {name for row in rows for name in row.split(", ")}
    ours = {
        name
        for name, method in plugins.methods().items()
        if method.__module__.startswith("promptclip.trainers.")
    }
    assert named == ours
