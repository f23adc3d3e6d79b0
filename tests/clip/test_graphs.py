"""What is recorded, and when a recording is replayed; a GPU is stood in for by a counter.

`tests/cuda` has the same on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from mini_benchmark import build, cfg_of
from random_clip import TINY, random_state_dict

from promptclip import plugins
from promptclip.clip.graphs import Recorded
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.shared_prefix import in_one_part
from promptclip.config import config_hash
from promptclip.prompts import TextContext

NAMES = ["cat", "oak tree", "golden retriever"]


@pytest.fixture
def recordings(monkeypatch):
    """Functions that were recorded; their replay is the function itself."""
    recorded = []

    def record(function, samples):
        assert all(sample.is_leaf for sample in samples)
        recorded.append(function)
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return recorded


def doubled(learned):
    return 2 * learned[0]


def test_recorded_once_for_each_kind(recordings):
    run = Recorded(doubled)
    for shape in ((2, 3), (2, 3), (4, 3)):
        x = torch.ones(shape, requires_grad=True)
        run([x, None]).sum().backward()
        assert torch.equal(x.grad, torch.full(shape, 2.0))
    assert len(recordings) == 2


def test_not_replayed_while_a_backward_pass_is_due(recordings):
    ran = []
    run = Recorded(lambda learned: ran.append(1) or doubled(learned))
    x = torch.ones(2, requires_grad=True)
    first, second = run([x]), run([x])
    assert len(recordings) == 1
    second.sum().backward()
    first.sum().backward()
    with pytest.raises(RuntimeError, match="set COMPUTE.CUDA_GRAPHS False"):
        first.sum().backward()


def test_nothing_is_recorded_without_gradients_or_on_a_cpu(recordings):
    run = Recorded(doubled)
    run([torch.ones(2)])
    with torch.no_grad():
        run([torch.ones(2, requires_grad=True)])
    tower = FrozenCLIP(random_state_dict(), TINY, graphs=True)
    context = TextContext(tower, NAMES, n_ctx=2)
    assert tower.encode_text(context.tokens, context).requires_grad
    assert not recordings


def test_one_part_is_what_a_recording_needs(monkeypatch):
    tower = FrozenCLIP(random_state_dict(), TINY)
    tokens = TextContext(tower, NAMES, n_ctx=2).tokens
    of_images = torch.zeros(5, 2, TINY.text_width)
    assert in_one_part(tokens, [None])
    assert in_one_part(tokens, [of_images])
    monkeypatch.setattr("promptclip.clip.shared_prefix.TOKENS_AT_ONCE", 20)
    assert not in_one_part(tokens, [of_images])
    assert in_one_part(tokens, [of_images[:1]])
    monkeypatch.setattr("promptclip.prompts.TOKENS_AT_ONCE", 4)
    assert not in_one_part(TextContext(tower, NAMES, n_ctx=2).tokens, [None])


@pytest.mark.parametrize("method", sorted(plugins.methods()))
def test_methods_whose_backward_pass_is_their_own_are_not_recorded(method, mini, tmp_path):
    trainer = build(method, mini, tmp_path)
    own = "backward" in vars(plugins.methods()[method])
    assert trainer.model.clip.record_text is not own
    assert own == (method == "ProGrad")


def test_the_hash_does_not_depend_on_it(mini, tmp_path):
    on, off = (cfg_of("CoOp", mini, tmp_path, "COMPUTE.CUDA_GRAPHS", on) for on in (True, False))
    assert config_hash(on) == config_hash(off) == config_hash(cfg_of("CoOp", mini, tmp_path))
