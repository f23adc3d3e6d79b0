"""Layers of any keys and values: merged in their order and by their types, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from faults.damage import says
from hypothesis import given, settings
from hypothesis import strategies as st
from yacs.config import CfgNode

from promptclip.config import build_cfg, configs_dir, default_cfg, hashed
from promptclip.errors import UserError
from promptclip.merge import copied, leaves, merge, nested, pairs

DEFAULTS = default_cfg()
LEAVES = {k: v for k, v in leaves(DEFAULTS).items() if k not in ("TRAINER.NAME", "DATASET.NAME")}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Words, which no literal of Python and no list can be taken for
TEXT = st.text("abcxyz_", min_size=1).map("w{}".format)
OF_KIND: dict[type, Any] = {
    bool: st.booleans(),
    int: st.integers(),
    float: FINITE,
    str: TEXT,
    list: st.lists(TEXT),
}
SIMPLE = sorted(key for key, value in LEAVES.items() if type(value) in OF_KIND)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@st.composite
def settings_of(draw: Any) -> dict[str, Any]:
    """Some keys with values of their kinds."""
    chosen = draw(st.lists(st.sampled_from(SIMPLE), max_size=6, unique=True))
    kinds = {key: list if isinstance(LEAVES[key], list) else type(LEAVES[key]) for key in chosen}
    numbers = {key: LEAVES[key] and isinstance(LEAVES[key][0], str) for key in chosen
               if kinds[key] is list}  # fmt: skip
    return {
        key: draw(OF_KIND[kinds[key]] if numbers.get(key, True) else st.just(LEAVES[key]))
        for key in chosen
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(settings_of(), max_size=4))
def test_the_last_layer_has_the_last_word(layers: list[dict[str, Any]]) -> None:
    merged = merge(
        copied(DEFAULTS),
        [(f"layer {number}", nested([*one.items()])) for number, one in enumerate(layers)],
    )
    together = {key: value for one in layers for key, value in one.items()}
    found = leaves(merged)
    assert found.keys() == leaves(DEFAULTS).keys()
    for key, value in LEAVES.items():
        expected = together.get(key, value)
        assert found[key] == expected, key
        assert type(found[key]) is type(value), key
    # All at once gives the same
    at_once = merge(copied(DEFAULTS), [("all", nested([*together.items()]))])
    assert leaves(at_once) == found
    assert leaves(DEFAULTS) == {**leaves(DEFAULTS), **LEAVES}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(LEAVES)), ANYTHING)
def test_a_value_has_the_type_of_its_key_or_is_refused_by_name(key: str, value: Any) -> None:
    try:
        merged = leaves(merge(copied(DEFAULTS), [("a file", nested([(key, value)]))]))
    except UserError as error:
        says(error, f"a file: {key}")
    else:
        if LEAVES[key] is not None:
            assert type(merged[key]) is type(LEAVES[key])
        assert {**merged, key: LEAVES[key]} == {**leaves(DEFAULTS), key: LEAVES[key]}


@settings(max_examples=60, deadline=None)
@given(settings_of())
def test_text_of_a_command_line_means_the_value(one: dict[str, Any]) -> None:
    words = [word for key, value in one.items() for word in (key, str(value))]
    of_text = merge(copied(DEFAULTS), [("words", nested(pairs(words)))])
    assert leaves(of_text) == leaves(merge(copied(DEFAULTS), [("x", nested([*one.items()]))]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["", "DATASET.", "TRAINER.COOP.", "NEW."]), st.text(min_size=1), ANYTHING)
def test_an_unknown_key_is_refused_by_name(section: str, name: str, value: Any) -> None:
    key = f"{section}{name}".replace(".", "_") if not section else f"{section}{name}"
    tree = nested([(key, value)])
    try:
        merge(copied(DEFAULTS), [("a file", tree)])
    except UserError as error:
        says(error, "a file: ")
    else:
        assert set(leaves(tree)) <= set(leaves(DEFAULTS)) or not leaves(tree)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | st.integers() | st.sampled_from(SIMPLE), max_size=6))
def test_any_words_are_pairs_or_refused(words: list[Any]) -> None:
    try:
        found = nested(pairs(words))
    except UserError:
        assert len(words) % 2 or any(str(word).startswith("--") for word in words) or any(
            str(one).startswith(f"{other}.") or str(other).startswith(f"{one}.")
            for one in words[::2] for other in words[::2] if one != other
        )  # fmt: skip
    else:
        assert isinstance(found, dict)


@pytest.fixture(scope="module")
def emoji() -> CfgNode:
    return built()


def built(*overrides: Any) -> CfgNode:
    place = configs_dir()
    return build_cfg(
        "CoOp",
        place / "datasets" / "emoji.yaml",
        place / "trainers" / "CoOp" / "tiny.yaml",
        overrides=overrides,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 999), FINITE.filter(lambda x: 0 < x < 1), st.integers(0, 2**31))
def test_a_command_line_has_the_last_word(
    emoji: CfgNode, epochs: int, rate: float, seed: int
) -> None:
    cfg = built("OPTIM.MAX_EPOCH", str(epochs), "OPTIM.LR", str(rate), "SEED", str(seed))
    own = {"OPTIM.MAX_EPOCH": epochs, "OPTIM.LR": rate, "SEED": seed}
    assert hashed(cfg) == hashed(emoji) | own
