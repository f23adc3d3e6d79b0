"""What --format latex writes is compiled, in the document that docs/tables.md shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from result_tree import at, config_of

from promptclip import results, table
from promptclip.table import with_published
from promptclip.tree import TARGETS, Place

PAGE = Path(__file__).parent.parent / "docs" / "tables.md"
SEEDS = (1, 2)


def _lacking() -> str:
    programs = [name for name in ("pdflatex", "kpsewhich", "pdftotext") if not shutil.which(name)]
    if programs:
        return f"{', '.join(programs)} not found (Debian: texlive-latex-recommended, poppler-utils)"
    files = ["booktabs.sty", "graphicx.sty"]
    found = subprocess.run(["kpsewhich", *files], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else f"TeX lacks one of {', '.join(files)}"


pytestmark = pytest.mark.skipif(bool(_lacking()), reason=_lacking() or "all is there")


def put(root: Path, place: Place, accuracy: float, **changes) -> Path:
    config = config_of(place.method, place.classes, place.seed, "ViT-B/16")
    return at(root, place, accuracy, config=config, **changes)


def printed(tables: table.Table, folder: Path) -> str:
    """The text of the document, on one line; fails where TeX does, or where a line is too wide."""
    document = re.search(r"```latex\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert document
    (folder / "paper.tex").write_text(document[1], encoding="utf-8")
    (folder / "table.tex").write_text(table.render(tables, "latex"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log
    assert "Overfull \\hbox" not in log
    command = ["pdftotext", "-layout", "paper.pdf", "-"]
    text = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    return " ".join(unicodedata.normalize("NFC", text.decode("utf-8")).split())


def test_special_characters_in_names(tmp_path):
    names = ("own_a_b", "own_50%&co", "own_#1$", "own_{x}~^", "own_<y>|z", "own_c\\d", "own_--e")
    for name in names:
        for seed in SEEDS:
            put(tmp_path, Place("fewshot", name, 4, "CoOp", "vit_b16", seed), 60 + seed)
    text = printed(table.build(tmp_path), tmp_path)
    # In TeX's first fonts an underscore is a line, which has no text, and these are accents.
    as_text = str.maketrans({"_": " ", "~": "\u02dc", "^": "\u02c6"})
    titles = [f"{name}, few-shot".translate(as_text) for name in names]
    assert [title for title in titles if title not in text] == []


def test_letters_of_all_scripts_in_names(tmp_path):
    for name in ("own_Vögel", "own_Mo\u0308wen", "own_Łódź", "own_猫", "own_птицы"):
        for seed in SEEDS:
            put(tmp_path, Place("fewshot", name, 4, "CoOp", "vit_b16", seed), 60 + seed)
    text = printed(table.build(tmp_path), tmp_path)
    for title in ("own Vögel, few-shot", "own Möwen, few-shot", "own [U+732B], few-shot"):
        assert title in text
    assert "[U+043F]" in text


def test_a_failure_with_anything_in_its_message(tmp_path):
    put(tmp_path, Place("fewshot", "dtd", 4, "CoOp", "vit_b16", 1), 60)
    folder = tmp_path / Place("fewshot", "dtd", 4, "CoOp", "vit_b16", 2).path
    folder.mkdir()
    message = "KEY_A=50% of {x}\n\n\\end{table} ∞ $#"
    failure = {"error": "ValueError", "message": message}
    (folder / results.FAILURE_FILE).write_text(json.dumps(failure), encoding="utf-8")
    found = table.build(tmp_path)
    assert any("50% of {x}" in note for note in found.notes)
    assert "failed seed 2" in printed(found, tmp_path)


def test_wide_tables_and_published_numbers_fit_the_page(tmp_path):
    for method in ("CoOp", "MaPLe"):
        for seed in SEEDS:
            for half in ("base", "new"):
                put(tmp_path, Place("base2new", "dtd", 16, method, "vit_b16", seed, half), 70)
            for target in TARGETS["xd"]["imagenet"]:
                place = Place("xd", "imagenet", 16, method, "vit_b16_xd", seed, target)
                put(tmp_path, place, 60 + seed)
    text = printed(with_published(table.build(tmp_path)), tmp_path)
    assert re.search(r"method CoOp MaPLe .{0,20}imagenet", text)  # methods as columns
    assert "published 66.30, \u22124.80" in text
    assert "published 80.36, \u221210.36" in text


def test_more_tables_than_latex_holds_back(tmp_path):
    shots = range(1, 61)
    for number in shots:
        put(tmp_path, Place("xd", "emoji", number, "CoOp", "tiny", 1, "emoji_people"), 50)
    text = printed(table.build(tmp_path), tmp_path)
    assert [n for n in shots if f"Table {n}: from emoji, {n} shot" not in text] == []
