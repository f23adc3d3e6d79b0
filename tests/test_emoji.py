"""The built-in benchmarks, and the small CLIP that has seen none of their concepts."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision.transforms import v2

from promptclip import emoji
from promptclip.clip.load import TINY_EMOJI, load_clip
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError
from promptclip.few_shot import PARTS

pytestmark = pytest.mark.usefixtures("emoji_packages")

Split = dict[str, list[list[Any]]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for name in emoji.BENCHMARKS:
        emoji.prepare(root / name, name)
    return root


def read_split(drawn: Path, name: str) -> Split:
    split: Split = json.loads((drawn / name / f"split_zhou_{name}.json").read_text())
    return {part: split[part] for part in PARTS}


def trained_on() -> set[str]:
    with safe_open(TINY_EMOJI, "pt") as file:
        return set(json.loads(file.metadata()["promptclip.trained_on"]))


def test_no_benchmark_concept_was_trained_on(drawn: Path) -> None:
    pretraining = {c.key for c in emoji.concepts() if c.pretraining}
    assert trained_on() == pretraining
    variants = {v for c in emoji.concepts() if c.pretraining for v in c.variants}
    assert {emoji.neutral(code) for code in variants} <= pretraining
    for name in emoji.BENCHMARKS:
        codes = {
            Path(path).stem.upper() for p in read_split(drawn, name).values() for path, *_ in p
        }
        assert codes, name
        assert not codes & variants
        assert not {emoji.neutral(code) for code in codes} & pretraining


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1F3C4-1F3FB-200D-2640-FE0F", "1F3C4"),  # woman surfing, light
        ("1F468-1F3FF-200D-1F680", "1F9D1-200D-1F680"),  # man astronaut, dark
        ("1F6B6-200D-2642-FE0F-200D-27A1-FE0F", "1F6B6"),  # man walking, facing right
        ("1F385-1F3FD", "1F9D1-200D-1F384"),  # Santa Claus, medium
        ("1F46D", "1F9D1-200D-1F91D-200D-1F9D1"),  # women holding hands
        ("2642-FE0F", "2642"),  # the male sign itself
        ("1F436", "1F436"),
    ],
)
def test_tone_gender_and_direction_are_taken_away(code: str, expected: str) -> None:
    assert emoji.neutral(code) == expected


@pytest.mark.parametrize("name", emoji.BENCHMARKS)
def test_enough_classes_and_pictures(drawn: Path, name: str) -> None:
    split = read_split(drawn, name)
    counts = {part: Counter(label for _, label, _ in rows) for part, rows in split.items()}
    classes = len(counts["test"])
    assert classes >= (28 if name == "EmojiPeople" else 35)
    for count in counts.values():
        assert set(count) == set(range(classes))
    assert min(counts["test"].values()) >= 4
    if name == "EmojiPeople":
        assert min(counts["train"].values()) >= 8
    paths = [path for rows in split.values() for path, *_ in rows]
    assert len(paths) == len(set(paths))
    names = {label: classname for rows in split.values() for _, label, classname in rows}
    assert len(set(names.values())) == classes


@pytest.mark.parametrize("name", emoji.BENCHMARKS)
def test_pictures_lie_where_the_split_says(drawn: Path, name: str) -> None:
    rows = [row for part in read_split(drawn, name).values() for row in part]
    assert {p.name for p in (drawn / name).iterdir()} == {"images", f"split_zhou_{name}.json"}
    found = {p.relative_to(drawn / name / "images").as_posix() for p in drawn.glob(f"{name}/*/*/*")}
    assert found == {path for path, *_ in rows}
    for path, _, classname in rows[::20]:
        assert Path(path).parent.name == classname.replace(" ", "_")
        with Image.open(drawn / name / "images" / path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (72, 72))
            assert len(image.getcolors(72 * 72)) > 1  # not blank


def test_styles_are_domains_of_the_same_concepts(drawn: Path) -> None:
    splits = [read_split(drawn, name) for name in ("Emoji", "EmojiOpenMoji", "EmojiLine")]
    assert splits[0] == splits[1] == splits[2]


def test_same_files_every_time(drawn: Path, tmp_path: Path) -> None:
    emoji.prepare(tmp_path / "emoji", "EmojiLine")
    again = {p.relative_to(tmp_path / "emoji"): p.read_bytes() for p in tmp_path.rglob("*.*")}
    first = drawn / "EmojiLine"
    assert again == {p.relative_to(first): p.read_bytes() for p in first.rglob("*.*")}


def test_drawn_once(drawn: Path) -> None:
    picture = next((drawn / "Emoji").rglob("*.png"))
    before = picture.stat().st_mtime_ns
    emoji.prepare(drawn / "Emoji", "Emoji")
    assert picture.stat().st_mtime_ns == before


def test_another_process_may_be_faster(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        (target / "images").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    emoji.prepare(tmp_path / "emoji", "EmojiPeople")
    assert [p.name for p in tmp_path.iterdir()] == ["emoji"]


def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(range(5))

    def interrupted(code: str, style: str) -> Image.Image:
        if next(drawn) == 4:
            raise KeyboardInterrupt
        return Image.new("RGB", (72, 72))

    monkeypatch.setattr(emoji, "picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        emoji.prepare(tmp_path / "emoji", "Emoji")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=re.escape("pip install 'promptclip[emoji]'")):
        emoji.draw_svg("<svg/>", 8)


def test_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert emoji.default_root() == tmp_path / "promptclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert emoji.default_root() == Path.home() / ".cache" / "promptclip"


def test_shipped_model_is_small_and_says_what_it_is() -> None:
    assert os.path.getsize(TINY_EMOJI) <= 20_000_000
    with safe_open(TINY_EMOJI, "pt") as file:
        config = json.loads(file.metadata()["promptclip.config"])
        assert all(file.get_tensor(key).dtype == torch.float16 for key in list(file.keys())[:5])
    assert (config["image_size"], config["patch_size"]) == (48, 6)
    assert load_clip("tiny-emoji").config.visual_width == config["visual_width"]


@pytest.mark.parametrize(
    ("name", "goal"), [("Emoji", 32), ("EmojiOpenMoji", 32), ("EmojiLine", 22)]
)
@torch.no_grad()
def test_zero_shot_accuracy(drawn: Path, name: str, goal: float) -> None:
    clip = load_clip("tiny-emoji")
    rows = read_split(drawn, name)["test"]
    names = dict(sorted((label, classname) for _, label, classname in rows))
    transform = v2.Compose(
        [
            v2.Resize(48, interpolation=v2.InterpolationMode.BICUBIC),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(clip.config.mean, clip.config.std),
        ]
    )
    pictures = [transform(Image.open(drawn / name / "images" / path)) for path, *_ in rows]
    image_features = clip.encode_image(torch.stack(pictures))
    texts = [f"a picture of a {classname}." for classname in names.values()]
    text_features = torch.nn.functional.normalize(clip.encode_text(tokenize(texts)), dim=-1)
    predicted = (image_features @ text_features.T).argmax(1)
    label = torch.tensor([label for _, label, _ in rows])
    assert 100 * (predicted == label).float().mean() >= goal
