"""Every method has its page, its recipes and its scripts; no method is named here."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import promptclip
from promptclip import plugins
from promptclip.config import build_cfg, configs_dir

ROOT = Path(promptclip.__file__).parent.parent
SCRIPTS = ("base2new", "base2new_train", "base2new_test", "fewshot", "xd", "dg", "imbalance")
STEMS = {
    stem: name for stem, name in sorted(plugins.load_plugins().items()) if name in plugins.methods()
}


def test_every_method_has_a_file_of_its_own():
    assert sorted(STEMS.values()) == sorted(plugins.methods())


@pytest.mark.parametrize("stem", STEMS)
def test_page_names_every_option_and_recipe(stem):
    page = (ROOT / "docs" / "methods" / f"{stem}.md").read_text(encoding="utf-8")
    method = STEMS[stem]
    assert page.startswith("# ")
    for section in (
        "Equations",
        "Where prompts enter",
        "Hyper-parameters",
        "Paper and code",
        "Parity",
    ):
        assert f"\n## {section}\n" in page, section
    for option in fields(plugins.methods()[method].Options):
        assert f"`{option.name.upper()}`" in page, option.name
    recipes = sorted(file.stem for file in (configs_dir() / "trainers" / method).glob("*.yaml"))
    for recipe in recipes:
        assert f"`{recipe}`" in page, recipe


@pytest.mark.parametrize("stem", STEMS)
def test_recipes_load_and_say_where_they_are_from(stem, mini):
    method = STEMS[stem]
    files = sorted((configs_dir() / "trainers" / method).glob("*.yaml"))
    assert {"tiny", "vit_b16"} <= {file.stem for file in files}
    for file in files:
        assert build_cfg(method, mini, file).TRAINER.NAME == method
        header = "".join(re.findall(r"(?m)^#.*\n", file.read_text(encoding="utf-8")))
        for needed in ("arXiv", f"bash scripts/{stem}/", "Expected time"):
            assert needed in header, f"{file}: {needed}"


@pytest.mark.parametrize("stem", STEMS)
def test_forwarders(stem):
    folder = ROOT / "scripts" / stem
    assert sorted(file.stem for file in folder.glob("*.sh")) == sorted(SCRIPTS)
