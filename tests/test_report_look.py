"""Models that look at their pictures again: the run's own answers, and what has moved is named."""

from __future__ import annotations

import html
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mini_benchmark
import pytest
import torch
import torch.nn.functional as F
from chromium import measured, needs_chromium
from mini_benchmark import cfg_of

from promptclip import report, run_file
from promptclip.cavpt import CAVPT
from promptclip.cli import main
from promptclip.clip.load import load_clip
from promptclip.report import confusions, features, inside
from promptclip.report.looking import Look, look_at
from promptclip.report.methods import Attention, Words, nearest_words
from promptclip.report.source import Run, Source
from promptclip.run import run
from promptclip.table.outcome import Outcome
from promptclip.tree import Place

OVERRIDES: dict[str, list[Any]] = {"DPT": ["TRAINER.DPT.BOTTOM_LIMIT", 2, "TRAINER.DPT.CPN", 3]}
METHODS = ("ZeroshotCLIP", "CoOp", "DPT", "UPT", "TipAdapter")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The yaml of a benchmark, and a tree of few-shot runs on it; CoOp has base to new, too."""
    yaml = mini_benchmark.make(tmp_path_factory.mktemp("data"))
    root = tmp_path_factory.mktemp("results") / "output"
    for method in METHODS:
        place = Place("fewshot", "mini", 4, method, "tiny", 1)
        run(cfg_of(method, yaml, root / place.path, *OVERRIDES.get(method, [])))
    base, new = (Place("base2new", "mini", 4, "CoOp", "tiny", 1, half) for half in ("base", "new"))
    run(cfg_of("CoOp", yaml, root / base.path, "DATASET.SUBSAMPLE_CLASSES", "base"))
    cfg = cfg_of("CoOp", yaml, root / new.path, "DATASET.SUBSAMPLE_CLASSES", "new")
    run(cfg, eval_only=True, model_dir=str(root / base.path), load_epoch=3)
    return yaml, root


@pytest.fixture(scope="module")
def looked(made: tuple[Path, Path]) -> Source:
    return report.look(report.read(made[1]), [])


@pytest.fixture
def moved(made: tuple[Path, Path], tmp_path: Path) -> Iterator[Path]:
    """Some pictures of the benchmark are elsewhere for a while."""
    images = made[0].parent / "mini" / "images"
    shutil.copytree(images, tmp_path / "images")
    yield images
    shutil.rmtree(images)
    shutil.copytree(tmp_path / "images", images)


def of(looked: Source, method: str, target: str = "") -> Look:
    (found,) = (
        look
        for (setting, label), look in looked.looks.items()
        if label == method and setting.target == target
    )
    return found


def test_every_method_answers_as_in_its_run(looked):
    assert looked.blind == ()
    assert len(looked.looks) == len(METHODS) + 2
    for look in looked.looks.values():
        assert look.accuracy == pytest.approx(look.run.outcome.accuracy)
        assert list(look.remarks()) == []
        of_run = [row["accuracy"] for row in look.run.result["per_class"]]
        hits = (look.answer == look.label).double()
        own = [100 * float(hits[look.label == one].mean()) for one in range(len(look.classnames))]
        assert own == pytest.approx(of_run)


def test_nothing_is_written_and_what_is_not_prompted_does_not_move(made, looked):
    before = {file: file.stat().st_mtime_ns for file in sorted(made[1].rglob("*"))}
    coop = of(looked, "CoOp")
    look_at(coop.run)
    assert {file: file.stat().st_mtime_ns for file in sorted(made[1].rglob("*"))} == before
    assert torch.allclose(coop.before, coop.after, atol=1e-5)
    upt = of(looked, "UPT")
    assert not torch.allclose(upt.before, upt.after, atol=1e-3)
    titles = [one.title for one in features.section(looked).drawings]
    assert sorted(title.partition(",")[0] for title in titles) == ["DPT", "UPT"]


def test_pictures_that_have_moved_are_named_and_left_out(looked, moved):
    Path(moved, "0", "test_1.png").unlink()
    Path(moved, "3", "test_0.png").rename(moved / "elsewhere.png")
    look = look_at(of(looked, "CoOp").run)
    assert len(look.paths) == 18
    assert look.moved == ["0/test_1.png", "3/test_0.png"]
    (remark,) = look.remarks()
    assert remark.startswith("2 pictures are not there any more and left out: ")


def test_a_whole_data_set_that_has_moved(made, moved, tmp_path, capsys):
    """Named in the page, which has everything else; found again with --root."""
    yaml, root = made
    data = yaml.parent / "mini"
    data.rename(yaml.parent / "away")
    page = tmp_path / "page.html"
    try:
        assert main(["report", str(root), "--look", "coop", "--out", str(page)]) == 0
        content = page.read_text(encoding="utf-8")
        assert "These could not look at their pictures again" in content
        assert str(data) in content
        Path(tmp_path, "new root").mkdir()
        Path(yaml.parent, "away").rename(tmp_path / "new root" / "mini")
        found = report.look(report.read(root), ["CoOp"], str(tmp_path / "new root"))
        assert found.blind == ()
        assert len(found.looks) == 3
    finally:
        for place in (yaml.parent / "away", tmp_path / "new root" / "mini"):
            if place.exists():
                place.rename(data)


def test_a_model_that_is_gone_or_damaged_is_named(made, tmp_path):
    root = tmp_path / "output"
    shutil.copytree(made[1], root)
    folder = root / Place("fewshot", "mini", 4, "CoOp", "tiny", 1).path
    Path(folder, "prompts.safetensors").write_bytes(b"no tensors")
    source = report.look(report.read(root), ["CoOp"])
    assert len(source.looks) == 2
    assert "is damaged" in source.blind[0]
    Path(folder, "run.json").unlink()
    assert "has no run.json" in report.look(report.read(root), ["CoOp"]).blind[0]


def test_methods_that_are_not_there(made, capsys):
    assert main(["report", str(made[1]), "--look", "vpt", "--out", "x.html"]) == 2
    assert "no finished run of VPT to look at; there are CoOp, DPT," in capsys.readouterr().err
    assert main(["report", str(made[1]), "--root", "x", "--out", "x.html"]) == 2
    assert "--root is for --look" in capsys.readouterr().err
    assert not Path("x.html").exists()


def seen(label: list[int], answer: list[int], paths: list[str] | None = None) -> Look:
    place = Place("fewshot", "mini", 4, "CoOp", "tiny", 1)
    blank = torch.zeros(len(label), 2)
    return Look(
        Run(place, Path(), Outcome(accuracy=0.0)), ["cat", "dog", "<i>cow"],
        paths or ["nowhere.png"] * len(label), torch.tensor(label), torch.tensor(answer),
        blank, blank, torch.eye(3), None,
    )  # fmt: skip


def test_pairs_are_counted():
    look = seen([0, 0, 0, 1, 1, 2], [1, 1, 0, 0, 2, 2])
    assert confusions.pairs(look) == [(0, 1, [0, 1]), (1, 0, [3]), (1, 2, [4])]
    (first, *_) = confusions._rows(look)
    assert first[:3] == ("cat", "dog", "2 of 3")
    assert "nowhere.png cannot be read" in str(first[3])


def test_dispersion_by_hand():
    points = torch.tensor([[0.0, 1.0], [0.0, 3.0], [5.0, 5.0], [7.0, 5.0]])
    assert inside.within(points, torch.tensor([4, 4, 9, 9])) == pytest.approx(1.0)


def test_the_plane_of_most_variation():
    axes = ((2, -2, 0, 0), (0, 0, 1, -1), (0, 0, 0, 0), (0.5, 0.5, -0.5, -0.5))
    coordinates, share = features.principal(torch.tensor(axes, dtype=torch.float32).T + 7)
    assert coordinates[:, 0].abs().tolist() == pytest.approx([2, 2, 0, 0], abs=1e-6)
    assert coordinates[:, 1].abs().tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)
    assert share == pytest.approx(10 / 11)  # of the squares, 8, 2 and 1


def test_the_nearest_words_are_those_of_the_vocabulary():
    vocabulary = torch.randn(49408, 8, generator=torch.Generator().manual_seed(0))
    from promptclip.clip.tokenizer import tokenize

    cat = int(tokenize("cat")[0, 1])
    ((first, *others),) = nearest_words(vocabulary[cat][None] + 0.001, vocabulary)
    assert first == ("cat", pytest.approx(0.001 * 8**0.5, rel=0.01))
    assert [far for _, far in others] == sorted(far for _, far in others)


def test_context_vectors_have_words(looked):
    (words,) = (one for one in of(looked, "CoOp").extras if isinstance(one, Words))
    assert len(words.rows) == 16
    assert of(looked, "ZeroshotCLIP").extras == ()


def test_attention_is_what_the_prompts_are_made_with(mini):
    torch.manual_seed(0)
    clip = load_clip(str(mini.parent / "clip.safetensors"))
    module = CAVPT(clip, 3)
    width = clip.config.visual_width
    given = torch.randn(2, 4, clip.config.embed_dim), torch.randn(2, 5, width), None
    weights = module.attention(*given)
    assert weights.shape == (2, 4, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4))
    found, _ = module(*given)
    memory = torch.cat([given[1], module.memory.expand(2, -1, -1)], 1)
    assert torch.allclose(module.value(weights @ memory), found, atol=1e-5)


def test_dpt_shows_where_its_classes_look(looked):
    maps = [one for one in of(looked, "DPT").extras if isinstance(one, Attention)]
    assert len(maps) == 4
    for one in maps:
        assert len(one.classnames) == len(one.maps) == 3
        assert torch.allclose(one.maps.sum((-1, -2)), one.on_patches)
        assert bool((one.on_patches < 1).all())  # the class token and the memory have some


def test_upt_halves(looked):
    look = of(looked, "UPT")
    found = inside.halves(look.run)
    from promptclip import prompt_file

    unified = prompt_file.read(look.run.folder / "prompts.safetensors")[0]["prompt_learner.ctx"]
    count = look.run.result["config"]["TRAINER"]["UPT"]["N_CTX"]
    first, last = unified.flatten(0, -2)[0], unified.flatten(0, -2)[-1]
    assert found.shape[0] == count
    assert float(found[0, -1]) == pytest.approx(
        float(F.cosine_similarity(first, last, 0)), abs=1e-6
    )
    assert inside.halves(of(looked, "CoOp").run) is None


def test_a_configuration_of_another_version_is_named(made, tmp_path):
    root = tmp_path / "output"
    shutil.copytree(made[1], root)
    folder = root / Place("fewshot", "mini", 4, "CoOp", "tiny", 1).path
    written = run_file.read(folder)
    written["config"]["FROM_THE_FUTURE"] = {"KEY": 1}
    run_file.write({"config_hash": written["config_hash"]}, written["config"], folder)
    blind = report.look(report.read(root), ["CoOp"]).blind
    assert len(blind) == 1
    assert "FROM_THE_FUTURE" in blind[0]


def test_the_page_has_all_of_it(looked):
    sections = report.sections(looked)
    page = html.unescape(report.page("Looks", sections))
    for words in ("Dispersion within and between classes", "Likeness of UPT's two parts",
                  "Where DPT's class-aware prompts look", "Features before and after",
                  "Learned contexts as words"):  # fmt: skip
        assert words in page
    assert 'alt="red dog, taken for' in page or 'alt="green_cat, taken for' in page


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_looks(looked, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(report.page("Looks", report.sections(looked)), encoding="utf-8")
    found = measured(file, 390)
    assert all(h > 60 for _, h in found["sections"].values())
    assert all(there for there, _, _ in found["pictures"])
    assert found["overflow"] <= 0


def test_features_that_are_not_finite_have_no_plane_and_names_may_be_equal(looked):
    key, look = next(one for one in looked.looks.items() if one[0][1] == "UPT")
    broken = replace(look, after=look.after * math.nan)
    assert not list(features.section(replace(looked, looks={key: broken})).drawings)
    twins = replace(look, classnames=["cat"] * len(look.classnames))
    (drawing,) = features.section(replace(looked, looks={key: twins})).drawings
    assert "of 5 classes without and with UPT" in drawing.alt
