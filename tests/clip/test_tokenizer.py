"""The tokenizer gives the ids of OpenAI's `clip.tokenize` (openai/CLIP d05afc4, clip/clip.py).

The expected ids were printed by that function.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from promptclip.clip import tokenizer
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError

EXPECTED = {
    "a photo of a dog.": [320, 1125, 539, 320, 1929, 269],
    "a photo of a fire_engine, a type of vehicle.": [
        320,
        1125,
        539,
        320,
        1769,
        318,
        5857,
        267,
        320,
        3877,
        539,
        5299,
        269,
    ],
    "": [],
    "  Fire \t\n ENGINE ": [1769, 5857],
    "it's 1,234 mother-in-law's": [
        585,
        568,
        272,
        267,
        273,
        274,
        275,
        3050,
        268,
        530,
        268,
        2606,
        568,
    ],
    "caf&eacute; &amp;amp; bar": [15304, 261, 2411],
    "na\xefve S\xe3o Paulo": [1097, 35689, 563, 45911, 21628],
    "\u65e5\u672c\u8a9e \u0434\u0430": [39121, 44353, 34002, 508, 140, 112, 27080],
    "don\xe2\u20ac\u2122t": [847, 713],
    "\U0001f469\U0001f3fd\u200d\U0001f680": [18800, 8514, 4244, 13542],
    "X X X X": [343, 343, 343, 343],
    "<|endoftext|> end_of_text <end_of_text>": [
        49407,
        806,
        318,
        539,
        318,
        4160,
        283,
        806,
        318,
        539,
        318,
        4160,
        285,
    ],
    "\u0130\u017f\u01c5 \ufb01": [328, 16384, 129, 123, 67, 129, 378, 3589],
}
START, END = 49406, 49407


@pytest.mark.parametrize("text", EXPECTED)
def test_ids_of_openai(text):
    (ids,) = tokenize([text]).tolist()
    assert ids == [START, *EXPECTED[text], END] + [0] * (75 - len(EXPECTED[text]))


def test_one_row_for_each_text():
    ids = tokenize(tuple(EXPECTED), context_length=20)
    assert ids.shape == (len(EXPECTED), 20)
    assert ids.dtype == torch.int64
    assert torch.equal(ids[:1], tokenize("a photo of a dog.", 20))
    assert tokenize([]).shape == (0, 77)


def test_longest_text_and_longer():
    assert tokenize(["dog " * 75])[0, -1] == END
    with pytest.raises(UserError, match=r"at most 75 tokens, this one has 76: 'dog dog .{,80}"):
        tokenize(["a cat", "dog " * 76])


def test_open_clip_is_not_imported():
    code = (
        "import sys; from promptclip.clip import tokenize; tokenize(['a dog'])\n"
        "sys.exit(bool({'open_clip', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_open_clip_with_another_layout(monkeypatch, tmp_path):
    origin = tmp_path / "__init__.py"  # beside which there is no tokenizer.py
    spec = tokenizer.importlib.util.spec_from_file_location("open_clip", origin)
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: spec)
    tokenizer._tokenizer.cache_clear()
    try:
        assert tokenize(["a dog"])[0, :4].tolist() == [START, 320, 1929, END]
    finally:
        tokenizer._tokenizer.cache_clear()
