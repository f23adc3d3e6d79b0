"""Class names and templates of any characters through CLIP's tokenizer."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from promptclip.clip.tokenizer import _MARKERS, _module, tokenize
from promptclip.errors import UserError
from promptclip.trainer import fill, readable

# With half characters, which no text of Unicode has
ANY = st.text(st.characters(), max_size=60) | st.text(st.characters(exclude_categories=[]))
WORDS = st.text(max_size=40) | st.text("abc &;#<>|{}_-'\u00e9\u4e00\u200d\U0001f469", max_size=40)


@functools.cache
def open_clips() -> Any:
    return _module().SimpleTokenizer()


@settings(max_examples=200, deadline=None)
@example("\ud800")
@example("&#xd800;")
@example("&#99999999999;")
@example("a" * 100_000)
@given(ANY)
def test_any_text_has_ids_or_is_refused(text: str) -> None:
    try:
        (ids,) = tokenize([text]).tolist()
    except UserError as error:
        str(error).encode()  # it can be printed
    else:
        assert ids[0] == 49406
        assert 49407 in ids
        assert len(ids) == 77


@settings(max_examples=200, deadline=None)
@given(WORDS)
def test_ids_are_those_of_open_clip(text: str) -> None:
    assume(not any(marker in text.lower() for pair in _MARKERS.items() for marker in pair))
    tokens = open_clips().encode(text)
    if len(tokens) > 75:
        with pytest.raises(UserError, match="at most 75 tokens"):
            tokenize([text])
    else:
        assert tokenize([text]).tolist() == open_clips()([text]).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=4))
def test_any_class_names_are_read_or_refused(names: list[str]) -> None:
    try:
        found = readable(names)
    except UserError as error:
        str(error).encode()
    else:
        assert len(found) == len(names)
        assert all(found)
        assert readable(found) == found


@settings(max_examples=100, deadline=None)
@given(ANY | ANY.map(lambda text: text + "{}"), st.lists(ANY, max_size=3))
def test_any_template_is_filled_or_refused(template: str, names: list[str]) -> None:
    try:
        found = fill(template, names)
    except UserError as error:
        str(error).encode()
    else:
        before, _, after = template.partition("{}")
        for name, text in zip(names, found, strict=True):
            assert text.startswith(before)
            assert name in text
            assert text == before + name + after.replace("{}", name)
