"""The report and its figures: right numbers, everything escaped, shown by a real browser."""

from __future__ import annotations

import logging
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import asked_for, console, measured, needs_chromium
from result_tree import at

from promptclip import report, results
from promptclip.cli import main
from promptclip.report import classes, figures, inside, shots, summary, training
from promptclip.report.figures import Drawing
from promptclip.report.html import text
from promptclip.report.source import Run
from promptclip.table.outcome import Outcome
from promptclip.tree import Place

EVIL = '<img src=x onerror="alert(1)">&\u202e$x$'
SECTIONS = {
    "summary": "Summary",
    "shots": "Accuracy against shots",
    "plane": "Base against new classes",
    "classes": "Gains and losses by class",
    "confusions": "Confused classes",
    "training": "Training",
    "methods": "What methods are about",
    "features": "Features and words",
    "origin": "Environment, configurations, splits",
}
LOG = (
    "epoch [{epoch}/2] batch [{batch}/2] time 0.08 (0.07) data 0.004 (0.004) loss 9.0 ({loss}) "
    "acc 25.0 (20.0) loss_ce 3.8 ({ce}) loss_inter 0.04 ({inter}) lr 1.0000e-05 eta 0:00:14\n"
)


def per_class(*accuracies: float, names: tuple[str, ...] = ("cat", "dog", EVIL)) -> list[Any]:
    return [
        {"classname": name, "num_test": 4, "accuracy": accuracy}
        for name, accuracy in zip(names, accuracies, strict=True)
    ]


def facts() -> dict[str, Any]:
    """What tells where a result comes from."""
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "versions": {"python": "3.12", "torch": "2.9"},
        "hardware": {"system": "Linux", "cpu": EVIL, "gpu": None},
        "split_origin": "built-in",
        "split_file_hash": "fedcba9876543210",
    }


def log_of(folder: Path, losses: tuple[float, ...]) -> None:
    lines = (
        LOG.format(epoch=epoch, batch=batch, loss=loss + 2 - batch, ce=loss - 1, inter=0.001)
        for epoch, loss in enumerate(losses, 1)
        for batch in (1, 2)
    )
    Path(folder, "log.txt").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks, few-shot and base to new, two seeds; one run has failed, one is half done."""
    root = tmp_path_factory.mktemp("results") / "output"
    for dataset in ("emoji", "emoji_people"):
        for seed in (1, 2):
            for count in (1, 2, 4):
                place = Place("fewshot", dataset, count, "ZeroshotCLIP", "tiny", seed)
                at(root, place, 50, per_class=per_class(50, 75, 25), **facts())
                place = Place("fewshot", dataset, count, "CoOp", "tiny", seed)
                of_classes = per_class(75, 50 + 25 * (seed == 2), 25)
                folder = at(root, place, 50 + 5 * count + seed, per_class=of_classes, **facts())
                log_of(folder, (4.0, 3.0 - seed / 10))
            for half, accuracy in (("base", 60 + seed), ("new", 40 + seed)):
                place = Place("base2new", dataset, 16, "DAPT", "tiny", seed, half)
                at(root, place, accuracy, **facts())
                at(root, Place("base2new", dataset, 16, "ZeroshotCLIP", "tiny", seed, half), 50)
    folder = root / Place("base2new", "emoji", 16, "DAPT", "tiny", 2, "new").path
    Path(folder, "result.json").unlink()
    results.failed(folder, ValueError(EVIL))
    Path(root, Place("fewshot", "emoji", 4, "CoOp", "tiny", 2).path, "result.json").unlink()
    return root


@pytest.fixture(scope="module")
def page(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(tree), "--out", str(file)]) == 0
    return file


class Reader(HTMLParser):
    """Elements by name with their attributes, the text, and whether all is closed in order."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_every_section_stands_in_its_order_and_is_linked(page):
    read = Reader(page)
    assert not read.open
    assert [one["id"] for one in read.all("section")] == list(SECTIONS)
    assert [one["href"] for one in read.all("a")] == ["#content", *(f"#{key}" for key in SECTIONS)]
    assert [one["id"] for one in read.all("main")] == ["content"]
    words = "".join(read.text)
    assert all(words.count(title) >= 2 for title in SECTIONS.values())
    # What a tree of results does not keep, models have to look at again.
    assert page.read_text(encoding="utf-8").count('class="empty"') == 3
    assert words.count("promptclip report --look METHOD,...") == 3


def test_what_is_missing_stands_in_red_and_in_words(page):
    content, read = page.read_text(encoding="utf-8"), Reader(page)
    words = "".join(read.text)
    assert "Missing or failed: 2 cells" in words
    assert "DAPT, base to new, emoji, 16 shots, new: failed seed 2" in words
    assert "CoOp, few-shot, all classes, emoji, 4 shots: no result.json of seed 2" in words
    assert "failed: ValueError" in words
    # CoOp's cell and the average's; DAPT's new, its H, and those of the average.
    assert content.count('<td class="part">') == 6
    assert "td.part small { color: var(--red)" in content


def test_a_whole_tree_says_so(tmp_path):
    at(tmp_path, Place("fewshot", "emoji", 1, "CoOp", "tiny", 1), 50)
    words = "".join(map(str, summary.section(report.read(tmp_path)).parts))
    assert "Every cell of every table has a result" in words
    assert "problems" not in words


def test_names_are_escaped_and_nothing_is_asked_for(page):
    read = Reader(page)
    assert text(EVIL) in page.read_text(encoding="utf-8")
    assert not {"script", "iframe", "object", "form"} & {name for name, _ in read.found}
    for name, attributes in read.found:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href", "srcset", "action"):
            assert str(attributes.get(key) or "#").startswith(("#", "data:")), name
    policy = next(one for one in read.all("meta") if "http-equiv" in one)
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")


def test_it_can_be_read_without_eyes_and_without_a_mouse(page):
    read = Reader(page)
    assert all(len(str(one["alt"])) > 40 for one in read.all("img"))
    assert len(read.all("img")) == len(read.all("figure")) == len(read.all("figcaption")) >= 8
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(one.get("scope") in ("row", "col") for one in read.all("th"))
    frames = [one for one in read.all("div") if one.get("class") == "wide"]
    assert len(frames) == len(read.all("table"))
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in frames)
    ids = [one["id"] for _, one in read.found if "id" in one]
    assert len(ids) == len(set(ids))
    assert all(one["aria-labelledby"] in ids for one in read.all("section"))


def test_the_order_of_methods_against_shots_is_told(tree):
    drawings = list(shots.section(report.read(tree)).drawings)
    assert [one.title for one in drawings] == [
        "emoji", "emoji_people", "average over emoji, emoji_people",
    ]  # fmt: skip
    assert "CoOp 71.0 at 4; ZeroshotCLIP 50.0 without training pictures" in drawings[0].alt
    assert "CoOp 71.5 at 4;" in drawings[1].alt
    (axes,) = drawings[1].figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["CoOp"].get_ydata()) == [56.5, 61.5, 71.5]
    assert lines["ZeroshotCLIP"].get_marker() == "*"
    assert list(lines["ZeroshotCLIP"].get_xdata()) == [0]
    (band,) = axes.collections
    deviation = 0.5**0.5  # of 71 and 72
    tops = {round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]}
    assert {round(71.5 + deviation, 6), round(71.5 - deviation, 6)} <= tops


def test_methods_are_told_apart_without_colours():
    looks = figures.styles([f"method {n}" for n in range(17)]).values()
    without = {(one.marker, one.markerfacecolor == "white") for one in looks}
    assert len(without) == 17


def run_of(seed: int, rows: list[Any]) -> Run:
    place = Place("fewshot", "emoji", 1, "CoOp", "tiny", seed)
    return Run(place, Path(), Outcome(accuracy=50.0, result={"per_class": rows}))


def test_gains_are_means_over_the_seeds_that_both_have():
    plain = [run_of(1, per_class(50, 75, 25)), run_of(2, per_class(50, 50, 25))]
    runs = [run_of(1, per_class(75, 75, 0)), run_of(2, per_class(75, 100, 25)),
            run_of(3, per_class(0, 0, 0))]  # fmt: skip
    changes = classes.changes_of(runs, plain)
    assert [(one.classname, one.before, one.after, one.gain) for one in changes] == [
        ("cat", 50, 75, 25), ("dog", 62.5, 87.5, 25), (EVIL, 25, 12.5, -12.5),
    ]  # fmt: skip


def test_other_classes_or_pictures_are_not_compared():
    others = per_class(1, 2, 3, names=("cat", "dog", "cow"))
    fewer = [{**row, "num_test": 3} for row in per_class(50, 75, 25)]
    for rows in (others, fewer, []):
        assert classes.changes_of([run_of(1, rows)], [run_of(1, per_class(50, 75, 25))]) == []


def test_classes_without_test_pictures_are_left_out():
    rows = [*per_class(50, 75, 25), {"classname": "none", "num_test": 0, "accuracy": None}]
    assert len(classes.changes_of([run_of(1, rows)], [run_of(1, rows)])) == 3


def test_training_is_read_from_logs_whatever_else_they_hold(tmp_path):
    log_of(tmp_path, (4.0, 3.0))
    with Path(tmp_path, "log.txt").open("ab") as file:
        file.write(b"\xff\xfe epoch [\n" + b"x" * 1_000_000 + b"\n")
        file.write(b"epoch [3/3] batch [1/1] loss 1 (nan) loss_ce 1 (1.2.3) loss_x 1 (-0.5)\n")
        file.write(b"epoch [3/3] batch [1/1] loss_y 1 (9e99)\n")
        file.write(b"epoch [99999999999999/1] batch [1/1] loss 1 (1)\n")
    Path(tmp_path, "log.txt-broken").symlink_to(tmp_path / "nowhere")
    assert training.read(tmp_path) == {
        "loss": {1: 4.0, 2: 3.0},  # of the last batch, not of the first
        "loss_ce": {1: 3.0, 2: 2.0},
        "loss_inter": {1: 0.001, 2: 0.001},
        "loss_x": {3: -0.5},
    }


def test_runs_that_are_not_finished_have_curves(tree):
    drawings = {one.name: one for one in training.section(report.read(tree)).drawings}
    # Seed 2, which has 2.8 at the end, has no result; seed 1 has 2.9.
    told = drawings["training-fewshot-emoji-shots_4-CoOp"].alt
    assert "sum from 4 to 2.85; ce from 3 to 1.85; inter from 0.001 to 0.001" in told


def test_neural_collapse_by_epoch(tmp_path):
    for seed in (1, 2):
        folder = at(tmp_path, Place("fewshot", "emoji", 1, "NPT", "tiny", seed), 50, **facts())
        told = "nc1_variability {} effective_rank_text 30 nc3_self_duality nan nc9 1"
        lines = (f"epoch [{e}/4] collapse {told.format(8 / 2**e / seed)}" for e in (0, 2, 4))
        Path(folder, "log.txt").write_text("\n".join(lines), encoding="utf-8")
    found = inside.section(report.read(tmp_path))
    (drawing,) = found.drawings
    assert drawing.name == "collapse-fewshot-emoji-shots_1-NPT"
    assert drawing.alt == (
        "Neural collapse of NPT by epoch, emoji, 1 shot, few-shot, all classes: "
        "nc1 variability from 6 to 0.375."
    )


def test_the_same_tree_gives_the_same_page(tree, page, tmp_path):
    again = tmp_path / "again.html"
    main(["report", str(tree), "--out", str(again)])
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("format", "head"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")]
)
def test_figures_for_papers(tree, tmp_path, format, head, caplog):
    caplog.set_level(logging.INFO)
    assert main(["plot", str(tree), "--out", str(tmp_path), "--format", format]) == 0
    files = sorted(tmp_path.iterdir())
    names = {file.name for file in files}
    assert {f"shots-1-emoji.{format}", f"shots-average.{format}", f"plane-1-emoji.{format}",
            f"training-fewshot-emoji-shots_4-CoOp.{format}"} <= names  # fmt: skip
    assert all(file.read_bytes().startswith(head) for file in files)
    assert f"figures in {tmp_path}: {len(files)}" in caplog.text


def test_one_finished_run_is_enough(tmp_path):
    at(tmp_path / "output", Place("fewshot", "emoji", 1, "CoOp", "tiny", 1), 50)
    file = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "output"), "--out", str(file)]) == 0
    words = "".join(Reader(file).text)
    assert "No method has base-to-new results on both halves" in words
    assert "No run in this folder has a log of training" in words


def test_half_finished_runs_are_named(tmp_path):
    folder = tmp_path / "output" / Place("fewshot", "emoji", 1, "CoOp", "tiny", 1).path
    folder.mkdir(parents=True)
    Path(folder, "result.json").write_bytes(b'{"schema": 1, "acc')
    file = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "output"), "--out", str(file)]) == 0
    assert "damaged result.json of seed 1" in "".join(Reader(file).text)
    assert main(["plot", str(tmp_path / "output"), "--out", str(tmp_path / "figures")]) == 2
    assert not Path(tmp_path, "figures").exists()


@pytest.mark.parametrize("command", ["report", "plot"])
def test_an_empty_a_foreign_and_no_folder(command, tmp_path, capsys):
    foreign = tmp_path / "foreign" / "seed1"
    foreign.mkdir(parents=True)
    Path(foreign, "result.json").write_text("{}", encoding="utf-8")
    Path(tmp_path, "empty").mkdir()
    out = tmp_path / "out.html"
    for folder, told in (("empty", "holds no runs"), ("foreign", "holds no runs"),
                         ("nowhere", "no folder")):  # fmt: skip
        assert main([command, str(tmp_path / folder), "--out", str(out)]) == 2
        assert told in capsys.readouterr().err
    assert not out.exists()


def test_where_it_cannot_be_written(tree, tmp_path, capsys):
    Path(tmp_path, "folder.html").mkdir()
    Path(tmp_path, "file").write_text("", encoding="utf-8")
    for out, told in (("folder.html", "is a folder"), ("page.txt", "is a .html file"),
                      ("file/page.html", "cannot be written")):  # fmt: skip
        assert main(["report", str(tree), "--out", str(tmp_path / out)]) == 2
        assert told in capsys.readouterr().err
    assert main(["plot", str(tree), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["plot", str(tree), "--dpi", "0"]) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder.html"]


def test_matplotlib_is_asked_for_by_name(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(tree), "--out", str(tmp_path / "page.html")]) == 2
    assert "no module matplotlib; pip install 'promptclip[plots]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_it_and_asks_nobody(page, tmp_path):
    other = tmp_path / "other.html"
    other.write_text('<img src="http://example.org/x.png"><script>console.log("seen")</script>')
    assert asked_for(other) == {"http://example.org/x.png"}
    assert console(other) == ["seen"]
    assert asked_for(page) == set()
    assert console(page) == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_every_section_is_seen_on_a_phone_and_on_a_desk(page, width):
    found = measured(page, width)
    assert found["width"] == width
    assert list(found["sections"]) == list(SECTIONS)
    assert all(0 < w <= width and h > 60 for w, h in found["sections"].values())
    assert all(there and 200 < w <= width for there, _, w in found["pictures"])
    assert found["overflow"] <= 0


def test_zero_shot_of_the_same_configuration_stands_beside_a_method():
    plain = [
        Run(Place("fewshot", "emoji", 1, "ZeroshotCLIP", cfg, seed), Path(), Outcome())
        for cfg in ("ensemble", "tiny")
        for seed in (1, 2)
    ]
    coop = Run(Place("fewshot", "emoji", 1, "CoOp", "tiny", 1), Path(), Outcome())
    assert classes.beside(coop, plain) == plain[2:]
    other = Run(Place("fewshot", "emoji", 1, "CoOp", "large", 1), Path(), Outcome())
    assert classes.beside(other, plain) == plain[:2]
    assert classes.beside(coop, []) == []


def test_files_of_figures_have_names_of_their_own():
    names = ["training-a/b", "training-a b", "training-a\n../b", "plane-é"]
    drawings = [Drawing(name, "", "", None) for name in names]
    found = figures.named(drawings)
    assert list(found) == ["training-a_b", "training-a_b_", "training-a_.._b", "plane-é"]
    assert [one.name for one in found.values()] == names


def test_many_gaps_are_folded(tmp_path):
    for seed in range(1, 31):
        at(tmp_path, Place("fewshot", "emoji", seed, "CoOp", "tiny", 1), 50)
        folder = tmp_path / Place("fewshot", "emoji", seed, "DAPT", "tiny", 1).path
        folder.mkdir(parents=True)
    parts = "".join(map(str, summary.section(report.read(tmp_path)).parts))
    assert "Missing or failed: 30 cells" in parts
    assert "<summary>10 more</summary>" in parts


def test_names_of_folders_are_escaped_in_tables_too(tmp_path):
    evil = "<b onclick=x>\u202eCoOp"
    at(tmp_path, Place("fewshot", "emoji", 1, evil, "tiny", 1), 50)
    page = report.page("Evil", report.sections(report.read(tmp_path)))
    assert "<b onclick" not in page
    assert "\u202e" not in page
    assert r"&lt;b onclick=x&gt;\u202eCoOp" in page


def test_names_in_figures_are_neither_lost_nor_too_long():
    with figures.look():
        figure, axes = figures.axes()
        for name in ("_hidden", "$x$", "a" * 100):
            axes.plot([1], [1], label=figures.shown(name))
        height = figure.get_size_inches()[1]
        figures.legend(figure, axes)
    (legend,) = figure.legends
    found = [one.get_text() for one in legend.get_texts()]
    assert found == [" _hidden", "$x$", f"{'a' * 59}…"]
    assert not any(one.get_parse_math() for one in legend.get_texts())
    # One below the other, as one of them takes the whole width.
    assert figure.get_size_inches()[1] == pytest.approx(height + 3 * figures.LINE)
