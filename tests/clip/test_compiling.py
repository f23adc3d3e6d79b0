"""Compiled blocks give the numbers of the others."""

from __future__ import annotations

import shutil

import pytest
import torch
from mini_benchmark import batch_of, build, cfg_of
from random_clip import TINY, random_state_dict

from promptclip.clip.compiling import check_compiler
from promptclip.clip.model import FrozenCLIP
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.prompts import TextContext


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.filterwarnings("default")  # of torch.compile's own
def test_steps_are_equal(mini, tmp_path):
    """DAPT's: prompts in both towers, and a backward pass through both."""
    found = []
    for name, on in (("plain", False), ("compiled", True)):
        trainer = build("DAPT", mini, tmp_path / name, "COMPUTE.COMPILE", on)
        trainer.before_train()
        trainer.set_model_mode("train")
        trainer.num_batches, trainer.batch_idx = 9, 0
        batch = batch_of(trainer)
        found.append([trainer.forward_backward(batch)["loss"] for _ in range(3)])
        assert trainer.model.clip.compile_blocks is on
    plain, compiled = found
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_the_fast_path_of_texts_is_left_as_it_is(monkeypatch):
    def refuse(function):
        raise RuntimeError("compiled")

    monkeypatch.setattr("promptclip.clip.model.compiled", refuse)
    clip = FrozenCLIP(random_state_dict(), TINY, compile_blocks=True)
    context = TextContext(clip, ["cat", "oak tree"], n_ctx=2)
    assert clip.encode_text(context.tokens, context).shape == (2, TINY.embed_dim)
    with pytest.raises(RuntimeError, match="compiled"):
        clip.encode_image(torch.zeros(1, 3, TINY.image_size, TINY.image_size))


def test_off_unless_asked_for_and_part_of_the_hash(mini, tmp_path):
    plain, on = (cfg_of("CoOp", mini, tmp_path, "COMPUTE.COMPILE", on) for on in (False, True))
    assert config_hash(plain) == config_hash(cfg_of("CoOp", mini, tmp_path))
    assert config_hash(plain) != config_hash(on)
    assert not FrozenCLIP(random_state_dict(), TINY).compile_blocks


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_compiler_is_told_at_once(device, monkeypatch, mini, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"COMPUTE.COMPILE needs a compiler of C.*install one"):
        check_compiler(torch.device(device))
    if device == "cpu":
        with pytest.raises(UserError, match="no 'g\\+\\+'"):
            build("CoOp", mini, tmp_path / "run", "COMPUTE.COMPILE", True)
