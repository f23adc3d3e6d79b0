"""LaTeX and HTML: what is best, what may not be called so, and nothing lost or unescaped."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from result_tree import at, config_of

from promptclip import table
from promptclip.cli import main
from promptclip.commands.table import FORMATS
from promptclip.table import Row
from promptclip.table.latex import escaped
from promptclip.table.ranking import marks
from promptclip.tree import Place

ACCURACIES = {"CoOp": 60, "DAPT": 70, "MaPLe": 65, "VPT": 50}


def run(root: Path, method: str, seed: int, accuracy: float, shots: int = 16, **changes) -> Path:
    cfg = changes.pop("cfg", "tiny")
    return at(root, Place("fewshot", "emoji_people", shots, method, cfg, seed), accuracy, **changes)


@pytest.fixture
def tree(tmp_path):
    for (method, accuracy), seed in itertools.product(ACCURACIES.items(), (1, 2, 3)):
        run(tmp_path, method, seed, accuracy + seed)
    return tmp_path


def marked(root: Path) -> dict[str, str]:
    rows = list(table.build(root).rows)
    return {rows[spot.row].method: mark for spot, mark in marks(rows).items()}


def test_best_and_second(tree):
    assert marked(tree) == {"DAPT": "best", "MaPLe": "second"}


def test_equals_as_printed_share_the_first_place(tree):
    for seed in (1, 2, 3):
        run(tree, "MaPLe", seed, 70.001 + seed)
    assert marked(tree) == {"DAPT": "best", "MaPLe": "best"}
    for seed in (1, 2, 3):
        run(tree, "CoOp", seed, 75 + seed)
    assert marked(tree) == {"CoOp": "best", "DAPT": "second", "MaPLe": "second"}


def test_a_column_with_a_gap_has_no_best(tree):
    (run(tree, "VPT", 2, 0) / "result.json").unlink()
    assert marked(tree) == {}


def test_other_pictures_or_unknown_ones_are_not_ranked(tree):
    run(tree, "VPT", 2, 50, split_hash="others")
    assert marked(tree) == {}
    run(tree, "VPT", 2, 50, split_hash=None)
    assert marked(tree) == {}


def test_different_configurations_are_not_ranked(tree):
    run(tree, "VPT", 2, 52, lr=9)
    assert marked(tree) == {}


def test_only_the_largest_set_of_like_rows_is_ranked(tree):
    for seed in (1, 2, 3):
        run(tree, "DAPT", seed, 90, tuned_on="validation")
    assert marked(tree) == {"MaPLe": "best", "CoOp": "second"}
    for method, seed in itertools.product(("CoOp", "VPT"), (1, 2, 3)):
        config = config_of(method, "all", seed, "RN50")
        run(tree, method, seed, ACCURACIES[method], config=config)
    assert marked(tree) == {"CoOp": "best"}  # against VPT, on RN50


def test_latex(tree):
    run(tree, "Zero_shot&co", 1, 40, cfg="a_b%")
    text = table.render(table.build(tree), "latex")
    lines = text.splitlines()
    assert [line for line in lines if "rule" in line] == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert r"\usepackage{booktabs,graphicx}" in lines[0]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    body = [line for line in lines if line.endswith(r" \\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert r"\caption{emoji\_people, few-shot, all classes. Accuracy in percent, mean $\pm$" in text
    row = next(line for line in body if line.startswith("Zero"))
    assert row.startswith(r"Zero\_shot\&co$^{b}$ & 40.00$^{c}$ & 1 of 3")
    assert r"$^{b}$ a\_b\%" in text
    assert r"$^{c}$ missing seeds 2 3" in text
    # A gap: nothing is best.
    assert r"\textbf" not in text


def test_latex_marks(tree):
    text = table.render(table.build(tree), "latex")
    assert r"DAPT & \textbf{72.00 $\pm$ 1.00} & 3" in text
    assert r"MaPLe & \underline{67.00 $\pm$ 1.00} & 3" in text
    assert "Best in bold, second underlined" in text


def test_latex_says_of_a_group_what_is_in_it(tmp_path):
    run(tmp_path, "CoOp", 1, 60)
    for half in ("base", "new"):
        at(tmp_path, Place("base2new", "dtd", 16, "CoOp", "tiny", 1, half), 70)
    text = table.render(table.build(tmp_path), "latex")
    base2new, fewshot = re.findall(r"\\caption\{(.*)\}", text)
    assert "H: the harmonic mean" in base2new
    assert "H: the harmonic mean" not in fewshot


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b & 5%", r"a\_b \& 5\%"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("\\{~^", r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}"),
        ("#$}", r"\#\$\}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("--root a-b --- 5, -2.0", r"-{}-root a-b -{}-{}- 5, $-$2.0"),
        ("a\n\n b", "a b"),
        ("Mo\u0308we", "M\u00f6we"),
    ],
)
def test_latex_escapes(text, written):
    assert escaped(text) == written


class Page(HTMLParser):
    """Tags that are open, those that were seen, and the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append(data)


def test_html(tree):
    run(tree, "CoOp<i>", 1, 40)
    run(tree, "CoOp", 1, 40, shots=1)
    source = table.render(table.build(tree), "html")
    page = Page()
    page.feed(source)
    assert page.open == []
    tags = [tag for tag, _ in page.seen]
    assert tags.count("tr") == 6
    assert "CoOp<i>" in page.text
    assert "missing seeds 1 2 3" in page.text
    gap = {"class": "gap"}
    assert page.seen.count(("td", gap)) == 4  # one shot, for all but CoOp
    # Nothing from elsewhere, and nothing told by colour.
    assert not {"script", "link", "img"} & set(tags)
    assert "http" not in source
    assert not re.search(r"color|#[0-9a-f]{3}\b|rgb", source)


def test_html_marks(tree):
    source = table.render(table.build(tree), "html")
    assert "<td><strong>72.00 ± 1.00</strong></td>" in source
    assert "<td><u>67.00 ± 1.00</u></td>" in source


def test_rows_are_labelled_where_they_differ(tree):
    assert "All hyper-parameters were fixed" in table.build(tree).caption
    for seed in (1, 2, 3):
        run(tree, "DAPT", seed, 70, tuned_on="validation")
    found = table.build(tree)
    assert "All hyper-parameters were fixed" not in found.caption
    for form in ("text", "md", "latex", "html"):
        text = table.render(found, form, width=100)
        assert "tuned on validation" in text
        assert "fixed" in text
    rows: list[Row] = list(found.rows)
    assert [row.settings for row in rows] == ["fixed", "tuned on validation", "fixed", "fixed"]


def test_a_row_without_a_result_has_no_label(tree):
    (run(tree, "UPT", 1, 60) / "result.json").unlink()
    assert [row.settings for row in table.build(tree).rows] == ["fixed"] * 3 + ["", "fixed"]


def test_the_command_has_all_formats(tree, capsys):
    assert FORMATS == table.FORMATS
    for form in FORMATS:
        assert main(["table", str(tree), "--format", form]) == 0
        assert "DAPT" in capsys.readouterr().out
    assert main(["table"]) == 2
    assert "give a folder of results, or --from-logs DIR" in capsys.readouterr().err
