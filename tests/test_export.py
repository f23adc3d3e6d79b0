"""`promptclip export`: other programs predict with it what the run does, or it is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mini_benchmark import CLASSES, cfg_of
from random_clip import TINY, random_state_dict
from safetensors import safe_open
from torch import Tensor

import promptclip
from promptclip import export, plugins
from promptclip.classifier import LinearClassifier
from promptclip.cli import main
from promptclip.clip.download import OPENAI
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.run import run

METHODS = sorted(plugins.methods())
LINEAR = ("CoOp", "KgCoOp", "LinearProbe", "ProGrad", "ZeroshotCLIP")
REASONS = {
    "CLIPAdapter": "changes the image features by a network",
    "CoCoOp": "every image has text features of its own",
    "TipAdapter": "its logits are more than products",
}
IMAGE_PROMPTS = "puts prompts into the image tower"


def trained(method: str, mini: Path, folder: Path, *overrides: object) -> Path:
    run(cfg_of(method, mini, folder, "OPTIM.MAX_EPOCH", 1, *overrides))
    return folder


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As another program would, with safetensors and JSON alone."""
    with safe_open(folder / export.WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["about"]) == json.loads(
            (folder / export.ABOUT).read_text()
        )
    return tensors, json.loads((folder / export.ABOUT).read_text())


def used(about: dict[str, Any], clip: Any, image: Tensor, **tensors: Tensor) -> Tensor:
    """What the three lines of the file say, carried out."""
    names: dict[str, Any] = {"clip": clip, "image": image, **tensors}
    with torch.no_grad():
        exec("\n".join(about["use"]), names)
    logits: Tensor = names["logits"]
    return logits


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exported_or_refused_by_name(method, mini, tmp_path, capsys):
    folder = trained(method, mini, tmp_path / "run")
    out = tmp_path / "new" / "out"
    capsys.readouterr()
    status = main(["export", str(folder), "--out", str(out)])
    said = capsys.readouterr()
    if method in LINEAR:
        assert (status, said.err) == (0, "")
        assert sorted(os.listdir(out)) == [export.ABOUT, export.WEIGHTS]
        return
    assert status == 2
    assert said.err.startswith(f"error: what {method} has learned cannot be exported as a classif")
    assert REASONS.get(method, IMAGE_PROMPTS) in said.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", LINEAR)
def test_open_clip_predicts_the_same(method, mini, tmp_path):
    import open_clip

    model = promptclip.load(trained(method, mini, tmp_path / "run"))
    export.export(model, tmp_path / "out")
    tensors, about = read(tmp_path / "out")
    assert about["classnames"] == CLASSES
    clip = open_clip.CLIP(**about["backbone"]["open_clip_config"])
    clip.load_state_dict(random_state_dict())
    images = [*(mini.parent / "mini" / "images").rglob("test_*.png")]
    batch = torch.stack([model.read(path) for path in images])
    logits = used(about, clip.eval(), batch, **tensors)
    torch.testing.assert_close(logits, model.logits(batch), rtol=1e-4, atol=1e-4)


class Emoji:
    """A text classifier and a linear probe of the small CLIP, and emoji's test pictures."""

    def __init__(self, folder: Path) -> None:
        self.models = {}
        for method, words in (("CoOp", ["OPTIM.MAX_EPOCH", 1]), ("LinearProbe", [])):
            cfg = build_cfg(
                method,
                configs_dir() / "datasets" / "emoji.yaml",
                configs_dir() / "trainers" / method / "tiny.yaml",
                seed=1,
                output_dir=str(folder / method),
                overrides=["DATASET.NUM_SHOTS", 2, "DATALOADER.NUM_WORKERS", 0, *words],
            )
            run(cfg)
            self.models[method] = promptclip.load(folder / method, device="cpu")
            export.export(self.models[method], folder / "out" / method)
        from dassl.data.datasets import build_dataset

        pictures = build_dataset(cfg).test
        model = self.models["CoOp"]
        self.images = torch.stack([model.read(picture.impath) for picture in pictures])
        self.folder = folder / "out"

    def compare(self, clip: Any) -> None:
        """Another program's CLIP predicts what the runs do, on every picture."""
        for method, model in self.models.items():
            tensors, about = read(self.folder / method)
            logits = used(about, clip, self.images, **tensors)
            expected = torch.cat([model.logits(part) for part in self.images.split(100)])
            torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
            assert torch.equal(logits.argmax(-1), expected.argmax(-1))


@pytest.fixture(scope="module")
def emoji(emoji_packages, tmp_path_factory):
    return Emoji(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def tiny_emoji():
    """The small CLIP's tensors by OpenAI's names."""
    from promptclip.clip.load import read_clip

    tensors, config, _ = read_clip("tiny-emoji")
    return {name: tensor.float() for name, tensor in tensors.items()}, config


@pytest.mark.slow
def test_open_clip_on_emojis_test_pictures(emoji, tiny_emoji):
    import open_clip

    _, about = read(emoji.folder / "CoOp")
    clip = open_clip.CLIP(**about["backbone"]["open_clip_config"])
    clip.load_state_dict(tiny_emoji[0])
    # Pictures prepared by open_clip from what the file says
    said, pixels = about["image"], emoji.models["CoOp"].transform
    prepare = open_clip.image_transform(
        said["size"][0], is_train=False, mean=said["mean"], std=said["std"],
        interpolation=said["interpolation"],
    )  # fmt: skip
    from PIL import Image

    image = Image.effect_mandelbrot((99, 70), (-2, -1, 1, 1), 50).convert("RGB")
    torch.testing.assert_close(prepare(image), pixels(image))
    emoji.compare(clip.eval())


def hugging_face(tensors: dict[str, Tensor], config: Any) -> Any:
    """The same CLIP as `transformers` has it, by the names of its published checkpoints."""
    import transformers

    sides = {
        "vision_config": {
            "hidden_size": config.visual_width, "num_hidden_layers": config.visual_layers,
            "num_attention_heads": config.visual_heads, "image_size": config.image_size,
            "patch_size": config.patch_size,
        },
        "text_config": {
            "hidden_size": config.text_width, "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads, "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length,
        },
    }  # fmt: skip
    for side in sides.values():
        side |= {"hidden_act": config.activation, "intermediate_size": 4 * side["hidden_size"]}
    model = transformers.CLIPModel(
        transformers.CLIPConfig(projection_dim=config.embed_dim, **sides)
    )
    renamed: dict[str, Tensor] = {
        "visual_projection.weight": tensors["visual.proj"].T,
        "text_projection.weight": tensors["text_projection"].T,
        "logit_scale": tensors["logit_scale"],
        "vision_model.embeddings.class_embedding": tensors["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": tensors["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": tensors["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": tensors["positional_embedding"],
    }
    layers = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
              "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm",
             "ln_final": "text_model.final_layer_norm",
             "visual.ln_post": "vision_model.post_layernorm"}  # fmt: skip
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if stem in norms:
            renamed[f"{norms[stem]}.{kind}"] = tensor
        elif match := re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name):
            tower = "vision_model" if match[1] else "text_model"
            place = f"{tower}.encoder.layers.{match[2]}"
            part = match[3].rpartition(".")[0]
            if part in layers:
                renamed[f"{place}.{layers[part]}.{kind}"] = tensor
            else:
                kind = match[3].removeprefix("attn.in_proj_")
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{place}.self_attn.{letter}_proj.{kind}"] = third
    model.load_state_dict(renamed)
    return model.eval()


@pytest.mark.slow
def test_hugging_face_on_emojis_test_pictures(emoji, tiny_emoji):
    clip = hugging_face(*tiny_emoji)

    class AsClip:
        @staticmethod
        def encode_image(image: Tensor) -> Tensor:
            found = clip.get_image_features(pixel_values=image)
            return found if isinstance(found, Tensor) else found.pooler_output  # version 5

    emoji.compare(AsClip)


def test_every_name_is_one_of_open_clips():
    import open_clip

    for name in OPENAI:
        found = export._open_clip(name)
        assert found is not None
        assert found["pretrained"] in open_clip.list_pretrained_tags_by_model(found["model"])
        if not name.startswith("RN"):
            config = open_clip.get_model_config(found["model"])
            assert config["quick_gelu"] is True
            assert name in export._HUGGING_FACE
    assert export._open_clip("open_clip:ViT-B-32/laion2b_s34b_b79k") == {
        "model": "ViT-B-32",
        "pretrained": "laion2b_s34b_b79k",
    }
    assert export._open_clip("/home/me/clip.pt") is None
    assert export._open_clip_config(dataclasses.replace(TINY, patch_size=0)) is None


def test_a_model_that_says_something_wrong_of_itself_is_refused(mini, tmp_path, monkeypatch):
    model = promptclip.load(trained("CoOp", mini, tmp_path / "run"))
    right = model.model.linear_classifier()
    wrong = LinearClassifier(right.weight, right.bias + 1, right.scale, right.normalise)
    monkeypatch.setattr(model.model, "linear_classifier", lambda: wrong)
    with pytest.raises(UserError, match="its logits differ from those of a linear classifier by"):
        export.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(mini, tmp_path, capsys):
    folder = trained("ZeroshotCLIP", mini, tmp_path / "run")
    assert main(["export", str(folder), "--out", "/dev/null/out"]) == 2
    assert "/dev/null/out: cannot be written" in capsys.readouterr().err
