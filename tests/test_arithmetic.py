"""The settings that say how numbers are computed."""

from __future__ import annotations

import pytest
import torch
from mini_benchmark import build, cfg_of

from promptclip import arithmetic, plugins
from promptclip.config import config_hash
from promptclip.run import run

METHODS = sorted(plugins.methods())


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


def found() -> tuple[bool, ...]:
    backends = torch.backends
    return (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), (False, False, False, False)),
        (("COMPUTE.TF32", True), (True, True, False, False)),
        (("COMPUTE.CUDNN_BENCHMARK", True), (False, False, True, False)),
        (("COMPUTE.DETERMINISTIC", True), (False, False, False, True)),
        (
            ("COMPUTE.DETERMINISTIC", True, "COMPUTE.CUDNN_BENCHMARK", True),
            (False, False, False, True),
        ),
    ],
)
def test_settings_reach_torch_and_do_not_stay(settings, expected, mini, tmp_path):
    plain = cfg_of("ZeroshotCLIP", mini, tmp_path / "plain")
    cfg = cfg_of("ZeroshotCLIP", mini, tmp_path / "run", *settings)
    assert (config_hash(cfg) == config_hash(plain)) == (not settings)
    run(cfg)
    assert found() == expected
    run(plain)
    assert found() == (False, False, False, False)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_needs_an_operation_without_a_fixed_order(method, mini, tmp_path):
    settings = ("COMPUTE.DETERMINISTIC", True, "OPTIM.MAX_EPOCH", 1)
    cfg = cfg_of(method, mini, tmp_path, *settings)
    arithmetic.arrange(cfg)
    build(method, mini, tmp_path, *settings).train()
    assert torch.are_deterministic_algorithms_enabled()


def test_another_workspace_is_told(mini, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    arithmetic.arrange(cfg_of("CoOp", mini, tmp_path, "COMPUTE.DETERMINISTIC", True))
    assert "CUBLAS_WORKSPACE_CONFIG=:0:0: set it to :4096:8" in caplog.text
