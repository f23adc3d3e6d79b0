"""Published numbers: shown only beside what is the same, and never without a source."""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics

import pytest
from result_tree import at, config_of

from promptclip import table
from promptclip.cli import main
from promptclip.config import configs_dir
from promptclip.errors import UserError
from promptclip.table import Published, harmonic
from promptclip.table.published import COLUMNS, ELEVEN, FOLDER, read, with_published
from promptclip.tree import TARGETS, Place

FILES = sorted(FOLDER.glob("*.csv"))


def put(root, place: Place, accuracy: float, backbone: str = "ViT-B/16") -> None:
    config = config_of(place.method, place.classes, place.seed, backbone)
    at(root, place, accuracy, config=config)


def base2new(root, dataset: str, method: str, cfg: str, **more) -> None:
    shots = more.pop("shots", 16)
    for seed, (half, accuracy) in itertools.product((1, 2), (("base", 80), ("new", 60))):
        put(
            root,
            Place("base2new", dataset, shots, method, cfg, seed, half),
            accuracy + seed,
            **more,
        )


def test_beside_the_same_setting(tmp_path):
    base2new(tmp_path, "caltech101", "CoOp", "vit_b16_ctxv1")
    (row,) = with_published(table.build(tmp_path)).rows
    source = "LoGoPrompt (ICCV 2023), Table 1"
    assert row.published == {
        "base": (Published(98.0, source),),
        "new": (Published(89.81, source),),
        "H of means": (Published(93.73, source),),
    }
    ours = harmonic(81.5, 61.5)
    expected = [
        "published 98.00, -16.50",
        "published 89.81, -28.31",
        f"published 93.73, {ours - 93.73:+.2f}",
    ]
    for form in ("text", "md", "latex", "html"):
        written = " ".join(
            table.render(with_published(table.build(tmp_path)), form, width=140).split()
        )
        minus = ", $-$" if form == "latex" else ", -"
        assert all(words.replace(", -", minus) in written for words in expected)
        assert f"published, CoOp: {source}" in written


@pytest.mark.parametrize(
    ("method", "cfg", "more"),
    [
        ("CoOp", "vit_b16_ctxv1", {"backbone": "RN50"}),
        ("CoOp", "vit_b16_ctxv1", {"shots": 8}),
        ("CoOp", "vit_b16", {}),
        ("NPT", "vit_b16", {}),
    ],
)
def test_not_beside_another_setting(tmp_path, method, cfg, more):
    base2new(tmp_path, "caltech101", method, cfg, **more)
    found = with_published(table.build(tmp_path))
    assert found.rows[0].published == {}
    assert found.notes[-1].startswith("No published number that is known")


def test_zero_shot_depends_on_no_shots(tmp_path):
    base2new(tmp_path, "dtd", "ZeroshotCLIP", "vit_b16", shots=2)
    (row,) = with_published(table.build(tmp_path)).rows
    assert row.published["base"][0].value == 53.24


def test_the_average_is_over_the_eleven_of_the_papers_or_has_none(tmp_path):
    for dataset in sorted(ELEVEN)[1:]:
        base2new(tmp_path, dataset, "MaPLe", "vit_b16")
    assert with_published(table.build(tmp_path)).averages[0].published == {}
    base2new(tmp_path, sorted(ELEVEN)[0], "MaPLe", "vit_b16")
    found = with_published(table.build(tmp_path)).averages[0].published
    assert [paper.value for paper in found["H of means"]] == [78.55]
    assert "muzairkhattak/multimodal-prompt-learning 69bce21" in found["base"][0].source


def test_few_shot_and_tests_elsewhere(tmp_path):
    for shots in (1, 16):
        place = Place("fewshot", "eurosat", shots, "TipAdapter", "rn50", 1)
        put(tmp_path, place, 50, backbone="RN50")
    put(tmp_path, Place("fewshot", "imagenet", 16, "CoCoOp", "vit_b16", 1), 70)
    put(tmp_path, Place("dg", "imagenet", 16, "CoCoOp", "vit_b16", 1, "imagenet_a"), 50)
    few, coco, dg = with_published(table.build(tmp_path)).rows
    assert {c: papers[0].value for c, papers in few.published.items()} == {
        "shots_1": 59.53, "shots_16": 84.54
    }  # fmt: skip
    assert coco.published == {}
    assert {c: papers[0].value for c, papers in dg.published.items()} == {
        "imagenet": 71.02, "imagenet_a": 50.63
    }  # fmt: skip


def test_the_average_over_the_targets_of_the_papers_or_none(tmp_path):
    *most, last = TARGETS["xd"]["imagenet"]
    for target in most:
        put(tmp_path, Place("xd", "imagenet", 16, "MaPLe", "vit_b16_xd", 1, target), 70)
    (row,) = with_published(table.build(tmp_path)).rows
    assert {"caltech101", "average"} & set(row.published) == {"caltech101"}
    put(tmp_path, Place("xd", "imagenet", 16, "MaPLe", "vit_b16_xd", 1, last), 70)
    found = with_published(table.build(tmp_path))
    assert [paper.value for paper in found.rows[0].published["average"]] == [66.30]
    for form in ("text", "md", "latex", "html"):
        written = " ".join(table.render(found, form, width=1000).split())
        assert "published 66.30, +3.70" in written
    (line,) = csv.DictReader(io.StringIO(table.render(found, "csv")))
    assert float(line["average_difference"]) == pytest.approx(3.7)


def test_programs_get_them_too(tmp_path):
    base2new(tmp_path, "caltech101", "CoOp", "vit_b16_ctxv1")
    found = with_published(table.build(tmp_path))
    (line,) = csv.DictReader(io.StringIO(table.render(found, "csv")))
    assert (line["base_published"], float(line["base_difference"])) == ("98.0", -16.5)
    assert line["h_of_means_source"] == "LoGoPrompt (ICCV 2023), Table 1"
    (row,) = json.loads(table.render(found, "json"))["rows"]
    assert row["published"]["h_of_means"][0]["value"] == 93.73


def test_the_same_number_of_two_sources_stands_once(tmp_path):
    for dataset in ELEVEN:
        base2new(tmp_path, dataset, "CoCoOp", "vit_b16")
    (paper,) = with_published(table.build(tmp_path)).averages[0].published["base"]
    assert paper.value == 80.47
    assert paper.source.count(";") == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_files_fit_our_methods_data_sets_and_configurations(file):
    entries = read(file)
    assert entries
    for entry in entries:
        folder = configs_dir() / "trainers" / entry.method
        assert folder.is_dir()
        assert not entry.cfg or (folder / f"{entry.cfg}.yaml").is_file()
        data = configs_dir() / "datasets" / f"{entry.benchmark}.yaml"
        assert data.is_file() or entry.benchmark == "average"
        metrics = {"base2new": ("base", "new", "H of means"), "fewshot": ("accuracy",)}
        elsewhere = ("imagenet", *TARGETS.get(entry.protocol, {}).get("imagenet", ()), "average")
        assert entry.metric in metrics.get(entry.protocol, elsewhere)
    keys = [(e.method, e.cfg, e.benchmark, e.protocol, e.shots, e.metric) for e in entries]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_h_is_that_of_base_and_new(file):
    """Catches an error of copying: printed H are the harmonic means, to what was rounded."""
    entries = [entry for entry in read(file) if entry.protocol == "base2new"]
    halves = {(e.method, e.cfg, e.benchmark, e.metric): e.value for e in entries}
    for (method, cfg, benchmark, metric), value in halves.items():
        if metric == "H of means":
            base, new = (halves[method, cfg, benchmark, half] for half in ("base", "new"))
            assert value == pytest.approx(harmonic(base, new), abs=0.1)


def test_averages_are_those_of_the_data_sets():
    """Catches errors of copying too, and a table that was put together from several runs."""
    entries = [entry for file in FILES for entry in read(file)]
    means = {}
    for e in entries:
        if e.protocol == "base2new" and e.metric != "H of means":
            values = means.setdefault((e.method, e.cfg, e.metric), {})
            values.setdefault(e.benchmark, set()).add(e.value)
        elif e.protocol in TARGETS and e.metric != e.benchmark:
            values = means.setdefault((e.method, e.cfg, e.protocol), {})
            values.setdefault(e.metric, set()).add(e.value)
    compared = set()
    for key, values in means.items():
        averages = values.pop("average", set())
        over = ELEVEN if key[-1] in ("base", "new") else TARGETS[key[-1]]["imagenet"]
        if averages and set(values) == set(over):
            assert all(len(one) == 1 for one in values.values())
            mean = statistics.fmean(value for (value,) in values.values())
            assert list(averages) == [pytest.approx(mean, abs=0.01)]
            compared.add(key[0])
    assert {"KgCoOp", "MaPLe", "PromptSRC", "CoOp", "CoCoOp", "ZeroshotCLIP"} <= compared


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["method,value"], "must have the columns method,cfg,"),
        ([",".join(COLUMNS), "CoOp,,dtd,base2new,16,ViT-B/16,base,80,"], "line 2: source is empty"),
        ([",".join(COLUMNS), "CoOp,,dtd,b2n,16,ViT-B/16,base,80,x"], "no protocol 'b2n'"),
        ([",".join(COLUMNS), "CoOp,,dtd,base2new,16,ViT-B/16,base,801,x"], "a percentage, got 801"),
        ([",".join(COLUMNS), "CoOp,,dtd,base2new,16,ViT-B/16,base,80 %,x"], "must be numbers"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, lines, message):
    file = tmp_path / "x.csv"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message):
        read(file)


def test_the_command(tmp_path, capsys):
    base2new(tmp_path, "dtd", "CoOp", "vit_b16_ctxv1")
    assert main(["table", str(tmp_path), "--published", "--format", "md"]) == 0
    assert "<br>published 79.44, +2.06" in capsys.readouterr().out
