"""Metrics against values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from dassl.evaluation import Classification, build_evaluator
from dassl.metrics import compute_accuracy
from dassl.utils import AverageMeter, MetricMeter
from torch.nn.functional import one_hot


def options(tmp_path, **test):
    defaults = {"PER_CLASS_RESULT": False, "COMPUTE_CMAT": False}
    return SimpleNamespace(TEST=SimpleNamespace(**defaults | test), OUTPUT_DIR=str(tmp_path))


# label 3 is predicted but never true, label 2 never predicted
TRUE = [0, 0, 0, 0, 1, 1, 1, 2]
PREDICTED = [0, 0, 0, 1, 1, 1, 3, 0]


def evaluator(tmp_path, **test):
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    built = Classification(options(tmp_path, **test), lab2cname=names)
    logits = one_hot(torch.tensor(PREDICTED), 4).float()
    for part in (slice(0, 5), slice(5, 8)):
        built.process(logits[part], torch.tensor(TRUE)[part])
    return built


def test_metrics(tmp_path, capsys):
    built = evaluator(tmp_path)
    results = built.evaluate()
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == 62.5
    assert results["error_rate"] == 37.5
    # F1 of 0, 1, 2: 6/8, 4/6, 0
    assert results["macro_f1"] == pytest.approx(100 * (6 / 8 + 4 / 6) / 3)
    assert capsys.readouterr().out == (
        "=> result\n* total: 8\n* correct: 5\n* accuracy: 62.5%\n* error: 37.5%\n"
        "* macro_f1: 47.2%\n"
    )
    assert (built._y_true, built._y_pred) == (TRUE, PREDICTED)
    built.reset()
    with pytest.raises(ValueError, match="none"):
        built.evaluate()


def test_per_class(tmp_path, capsys):
    results = evaluator(tmp_path, PER_CLASS_RESULT=True).evaluate()
    assert results["perclass_accuracy"] == pytest.approx((75 + 200 / 3 + 0) / 3)
    lines = capsys.readouterr().out.splitlines()
    assert "* class: 1 (b)\ttotal: 3\tcorrect: 2\tacc: 66.7%" in lines
    assert lines[-1] == "* average: 47.2%"
    with pytest.raises(ValueError, match="lab2cname"):
        Classification(options(tmp_path, PER_CLASS_RESULT=True))


def test_confusion_matrix(tmp_path):
    evaluator(tmp_path, COMPUTE_CMAT=True).evaluate()
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    expected = [[0.75, 0.25, 0, 0], [0, 2 / 3, 0, 1 / 3], [1, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64))


def test_thousands_are_separated(tmp_path, capsys):
    built = Classification(options(tmp_path))
    built.process(torch.eye(2).repeat(1000, 1), torch.tensor([0, 1]).repeat(1000))
    built.evaluate()
    assert "* total: 2,000\n* correct: 2,000\n" in capsys.readouterr().out


def test_agrees_with_scikit_learn(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(200, 7, generator=generator)
    labels = torch.randint(5, (200,), generator=generator)
    built = Classification(options(tmp_path, COMPUTE_CMAT=True))
    built.process(logits, labels)
    results = built.evaluate()
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    f1 = metrics.f1_score(true, predicted, average="macro", labels=range(5))
    assert results["macro_f1"] == pytest.approx(100 * f1)
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert matrix.numpy() == pytest.approx(
        metrics.confusion_matrix(true, predicted, normalize="true")
    )


def test_unknown_evaluator(make_cfg):
    with pytest.raises(ValueError, match="Classification"):
        build_evaluator(make_cfg(TEST__EVALUATOR="Clasification"))


def test_accuracy():
    output = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])
    target = torch.tensor([1, 1, 0, 0])
    top1, top2 = compute_accuracy(output, target, topk=(1, 2))
    assert (top1.shape, top1.item(), top2.item()) == ((1,), 50.0, 75.0)
    assert compute_accuracy((output, None), target)[0].item() == 50.0


def test_meters():
    meter = AverageMeter()
    meter.update(1.0)
    meter.update(torch.tensor(4.0), n=2)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (4.0, 3.0, 9.0, 3)
    moving = AverageMeter(ema=True)
    moving.update(1.0)
    moving.update(1.0)
    assert moving.avg == pytest.approx(0.19)
    metrics = MetricMeter()
    metrics.update(None)
    metrics.update({"loss": 1.0, "acc": torch.tensor(50.0)})
    metrics.update({"loss": 2.0})
    assert str(metrics) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError, match="list"):
        metrics.update([1.0])
