"""What a user can get wrong with names, templates, lengths, depths and backbones.

No method is named here: whatever is registered must handle odd input or refuse it by name.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from mini_benchmark import CLASSES, cfg_of
from random_clip import TINY, random_state_dict
from safetensors.torch import save_file

from promptclip import plugins, regularizers
from promptclip.clip.load import METADATA_KEY
from promptclip.errors import UserError
from promptclip.regularizers import Regularizer
from promptclip.run import run
from promptclip.trainer import fill, readable

METHODS = plugins.methods()
LENGTHS = ("n_ctx", "n_ctx_text", "txt_num_tokens")  # what methods call the length of the context


def options_of(method: str) -> dict[str, Any]:
    return {field.name: field.default for field in fields(METHODS[method].Options)}


def key(method: str, option: str) -> str:
    return f"TRAINER.{method.upper()}.{option.upper()}"


def built(method, mini, output, *overrides):
    """Builds everything and stops, as `--no-train` does."""
    return run(cfg_of(method, mini, output, *overrides), no_train=True)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        (method, option)
        for method in METHODS
        for option in LENGTHS
        if "text" in METHODS[method].Model.learns and option in options_of(method)
    ],
)
def test_a_context_that_leaves_no_room_for_the_longest_name(method, option, mini, tmp_path):
    random_start = (key(method, "ctx_init"), "") if "ctx_init" in options_of(method) else ()
    longest = max(CLASSES, key=len)
    room = TINY.context_length - len(longest.split()) - 3  # start, full stop, end
    built(method, mini, tmp_path, *random_start, key(method, option), room)
    message = (
        f"the prompt of class '{longest}' has 78 tokens, {room + 1} of them learned, but this "
        "text tower reads 77: take fewer context tokens or a shorter name"
    )
    with pytest.raises(UserError, match=message):
        built(method, mini, tmp_path, *random_start, key(method, option), room + 1)


@pytest.mark.parametrize(
    ("method", "option"),
    [(method, option) for method in METHODS for option in options_of(method) if "depth" in option],
)
def test_more_layers_with_prompts_than_there_are(method, option, mini, tmp_path):
    layers = TINY.visual_layers
    assert layers == TINY.text_layers
    message = f"{key(method, option)} must be .*{layers}, .*layers.* got {layers + 1}"
    with pytest.raises(UserError, match=message):
        built(method, mini, tmp_path, key(method, option), layers + 1)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """The weights of a random CLIP with a small ResNet."""
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    tower = ModifiedResNet([1, 1, 1, 1], TINY.embed_dim, 4, TINY.image_size, 8)
    weights = {k: v for k, v in random_state_dict().items() if not k.startswith("visual.")}
    weights |= {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    file = tmp_path_factory.mktemp("resnet") / "resnet.safetensors"
    save_file(weights, file, {METADATA_KEY: json.dumps({"text_heads": TINY.text_heads})})
    return str(file)


@pytest.mark.parametrize("method", METHODS)
def test_a_resnet_takes_no_visual_prompts(method, resnet, mini, tmp_path):
    overrides = ("MODEL.BACKBONE.NAME", resnet, "OPTIM.MAX_EPOCH", 1)
    if METHODS[method].Model.prompts_image:
        message = f"{method} puts prompts into a vision transformer, .*{resnet} is a ResNet; .*CoOp"
        with pytest.raises(UserError, match=message):
            built(method, mini, tmp_path, *overrides)
    else:
        assert run(cfg_of(method, mini, tmp_path, *overrides))["metrics"]


@pytest.mark.parametrize("acts_on", ["text", "image"])
@pytest.mark.parametrize("method", METHODS)
def test_a_regulariser_that_a_method_cannot_feed(method, acts_on, mini, tmp_path, monkeypatch):
    fake = dataclass(type("Fake", (Regularizer,), {"name": "fake", "acts_on": {acts_on}}))
    monkeypatch.setitem(regularizers._REGISTRY, "fake", fake)
    overrides = ("TRAINER.REGULARIZERS", "fake")
    if acts_on in METHODS[method].Model.learns:
        assert cfg_of(method, mini, tmp_path, *overrides).TRAINER.REGULARIZERS == ["fake"]
    else:
        message = f"'fake' acts on {acts_on} features, but {method} does not learn them"
        with pytest.raises(UserError, match=message):
            cfg_of(method, mini, tmp_path, *overrides)


@pytest.mark.slow  # tests/test_regularizers.py has a step of each
@pytest.mark.parametrize("name", sorted(regularizers._REGISTRY))
@pytest.mark.parametrize("method", METHODS)
def test_every_regulariser_with_every_method(method, name, mini, tmp_path):
    """Refused, or a run with a finite loss."""
    overrides = ("TRAINER.REGULARIZERS", name, "OPTIM.MAX_EPOCH", 1)
    if regularizers._REGISTRY[name].acts_on & METHODS[method].Model.learns:
        assert run(cfg_of(method, mini, tmp_path, *overrides))["metrics"]
    else:
        with pytest.raises(UserError, match=f"regulariser '{name}' acts on .* but {method}"):
            cfg_of(method, mini, tmp_path, *overrides)


def renamed(mini, folder, names):
    """A copy of the miniature benchmark with other class names; gives its yaml."""
    shutil.copytree(mini.parent, folder, ignore=shutil.ignore_patterns("split_fewshot"))
    file = folder / "mini" / "split_zhou_Mini.json"
    split = json.loads(file.read_text())
    for part in split.values():
        for row in part:
            row[2] = names[row[1]]
    file.write_text(json.dumps(split))
    return folder / "mini.yaml"


ODD = ['it\'s a "dog"', "cat_/_owl", "blåbær 日本", "{} {0} {name", "Cat / Owl"]


@pytest.mark.parametrize("method", METHODS)
def test_odd_class_names(method, mini, tmp_path, caplog):
    yaml = renamed(mini, tmp_path / "data", ODD)
    with caplog.at_level(logging.WARNING, logger="promptclip"):
        result = run(cfg_of(method, yaml, tmp_path / "run", "OPTIM.MAX_EPOCH", 1))
    assert [row["classname"] for row in result["per_class"]] == ODD
    assert math.isfinite(result["metrics"]["accuracy"])
    assert "several classes have the name 'Cat / Owl', 'cat / owl'" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_a_name(method, mini, tmp_path):
    yaml = renamed(mini, tmp_path / "data", [*CLASSES[:4], "_"])
    with pytest.raises(UserError, match="class 4 has the name '_', .* give every class a name"):
        built(method, yaml, tmp_path / "run")


@pytest.mark.parametrize("name", ["", " \t", "&nbsp;", "\ufeff", "<|endoftext|>"])
def test_names_that_say_nothing(name):
    with pytest.raises(UserError, match="class 1 has the name .* give every class a name"):
        readable(["dog", name])


def test_names_of_one_meaning_only_warn(caplog):
    # ImageNet has both in CoOp's list: two classes called "missile", two called "sunglasses".
    names = ["missile", "Crane", "crane", "missile", "tom &amp; jerry", "tom & jerry", "fish"]
    assert readable(names) == names
    assert "name 'Crane', 'crane', 'missile', 'tom & jerry', 'tom &amp; jerry': no" in caplog.text


def test_braces_in_names_and_templates():
    assert fill("a {}.", ["{}", "{0}", "c"]) == ["a {}.", "a {0}.", "a c."]
    assert fill("{} and {}", ["a"]) == ["a and a"]
    for template in (
        "a photo",
        "",
        "a {0}.",
        "a {name}",
        "{} of {a}",
        "{} {",
        "}{}",
        "{{}}",
        "{ }",
    ):
        with pytest.raises(UserError, match="must have {} where the class name .*, got '"):
            fill(template, ["a"])
