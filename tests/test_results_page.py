"""docs/results.md from a tree of results, and the script that makes the tree."""

from __future__ import annotations

import re

import pytest

from promptclip import plugins, results_page
from promptclip.protocols import base2new, fewshot
from promptclip.results_page import main, tuned


@pytest.fixture(scope="module")
def output(mini, tmp_path_factory):
    """Results of two methods on the miniature benchmark; CoOp has no second seed in base-to-new."""
    output = tmp_path_factory.mktemp("output")
    settings = {"root": str(mini.parent), "output": str(output), "quiet": True}
    settings["overrides"] = ["OPTIM.MAX_EPOCH", 1]
    base2new(["zsclip"], str(mini), shots=2, seeds=(1, 2), **settings)
    base2new(["coop"], str(mini), shots=2, seeds=(1,), **settings)
    fewshot(["zsclip", "coop"], str(mini), shots=(1, 2), seeds=(1,), **settings)
    return output


def test_the_page_tells_numbers_gaps_conditions_and_tuning(output, capsys):
    assert main(["page", str(output)]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# Results on the built-in benchmarks\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Base to new", "## Few-shot", "## Where and when", "## What was tuned"
    ]  # fmt: skip
    assert "**mini, 2 shots, base to new**" in page
    assert re.search(r"\| CoOp \| [\d.]+<br>missing seed 2 \|", page)
    assert "| method | 1 shot | 2 shots | seeds | params | seconds |" in page
    assert "- 10 finished runs, 20" in page
    assert re.search(r"- versions: python 3[^;]*, torch [^;]*\n", page)  # one set of them
    assert re.search(r"- machine: .*cores \d+", page)
    assert re.search(r"- CoOp \(`tiny`\): optimiser, rate,", page)
    assert max(map(len, page.splitlines()[:8])) <= 100


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("# Paper\n#\n# Tuned: nothing.\n# Expected time: 1 s\nOPTIM: {}\n", "nothing."),
        ("# Tuned: rate,\n# on validation: emoji.\n# Expected time on x: 1 s\n",
         "rate, on validation: emoji."),
        ("# Tuned: rate,\n#   and length\n#\n# more\n", "rate, and length"),
        ("# Tuned: rate\n\n# Tuned: not this, it is no header\n", "rate"),
        ("# Tuned:\n# Expected time: 1 s\n", "not stated"),
        ("# Fine-Tuned: no\nOPTIM: {}\n# Tuned: too late\n", "not stated"),
        ("", "not stated"),
    ],
)  # fmt: skip
def test_what_was_tuned_stands_in_the_header(header, text, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(header)
    assert tuned(file) == text
    assert tuned(tmp_path / "none.yaml") == "not stated"


def test_every_method_is_run_zero_shot_first(capsys):
    assert main(["methods"]) == 0
    stems = capsys.readouterr().out.split()
    assert stems[0] == "zsclip"
    ours = {stem for stem, name in plugins.load_plugins().items() if name in plugins.methods()}
    assert set(stems) == ours
    assert len(stems) == len(plugins.methods())


def test_without_results_there_is_no_page(tmp_path, capsys):
    assert main(["page", str(tmp_path)]) == 2
    assert "no folder" in capsys.readouterr().err
    assert results_page.HEAD
