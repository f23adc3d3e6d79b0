"""What the small CLIP's frozen features allow on the built-in benchmarks.

    python benchmarks/emoji_features.py

prints, per benchmark and half of its classes, the test accuracy (percent) of the hand-written
template, and of class means and a linear probe on 1, 2, 4, 8 and 16 shots: mean of three seeds.
Prompt learning on this model is to be judged by them. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean

import torch
from dassl.data.datasets import Datum, build_dataset
from dassl.data.transforms import build_transform
from torch import Tensor
from torch.nn import functional as F

from promptclip.benchmark import read_picture
from promptclip.clip.load import load_clip
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.tokenizer import tokenize
from promptclip.config import build_cfg
from promptclip.plugins import load_plugins

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)


def accuracy(logits: Tensor, label: Tensor) -> float:
    """Percent of rows whose largest logit is the label's."""
    return 100 * (logits.argmax(1) == label).float().mean().item()


class Features:
    """Unit image features by path, each computed once."""

    def __init__(self, clip: FrozenCLIP) -> None:
        self.clip = clip
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, items: list[Datum], transform: object) -> tuple[Tensor, Tensor]:
        """Features [B, D] and labels [B]."""
        new = [item.impath for item in items if item.impath not in self.known]
        if new:
            images = torch.stack([transform(read_picture(path)) for path in new])
            x = F.normalize(self.clip.encode_image(images), dim=-1)
            self.known |= dict(zip(new, x, strict=True))
        label = torch.tensor([item.label for item in items])
        return torch.stack([self.known[item.impath] for item in items]), label


def class_means(x: Tensor, label: Tensor) -> Tensor:
    """Unit class means [C, D]."""
    return F.normalize(F.one_hot(label).T.float() @ x, dim=-1)


def linear_probe(x: Tensor, label: Tensor) -> Tensor:
    """Weights [C, D] of a logistic regression on features scaled by 10, with weight decay 1e-3."""
    weight = torch.zeros(int(label.max()) + 1, x.shape[1], requires_grad=True)
    optim = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optim.zero_grad()
        loss = F.cross_entropy(10 * x @ weight.T, label) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optim.step(closure)
    return weight.detach()


def measure(features: Features, benchmark: str, half: str, root: str) -> None:
    """Print the rows of one benchmark and half."""
    means: dict[int, list[float]] = {shots: [] for shots in SHOTS}
    probes: dict[int, list[float]] = {shots: [] for shots in SHOTS}
    for seed in SEEDS:
        for shots in SHOTS:
            cfg = build_cfg(
                "ZeroshotCLIP",
                CONFIGS / "datasets" / f"{benchmark}.yaml",
                "",
                root=root,
                seed=seed,
                overrides=["DATASET.NUM_SHOTS", shots, "DATASET.SUBSAMPLE_CLASSES", half],
            )
            with redirect_stdout(io.StringIO()):  # the engine tells what it builds
                dataset, transform = build_dataset(cfg), build_transform(cfg, is_train=False)
            test, test_label = features(dataset.test, transform)
            x, label = features(dataset.train_x, transform)
            means[shots].append(accuracy(test @ class_means(x, label).T, test_label))
            probes[shots].append(accuracy(test @ linear_probe(x, label).T, test_label))
    texts = [dataset.template.format(name.replace("_", " ")) for name in dataset.classnames]
    with torch.no_grad():
        text_features = F.normalize(features.clip.encode_text(tokenize(texts)), dim=-1)
    zero_shot = accuracy(test @ text_features.T, test_label)
    head = f"{benchmark}, {half} ({len(texts)} classes, {len(test)} test pictures)"
    print(f"{head}: zero-shot {zero_shot:.1f}")
    for name, rows in (("class means", means), ("linear probe", probes)):
        print(f"  {name:12}", *(f"{shots}: {mean(rows[shots]):.1f}" for shots in SHOTS), sep="  ")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", default="", help="data root; default: the user's cache folder")
    root = parser.parse_args().root
    load_plugins()
    features = Features(load_clip("tiny-emoji"))
    for benchmark in ("emoji", "emoji_openmoji", "emoji_line", "emoji_people"):
        for half in ("all", "base", "new"):
            measure(features, benchmark, half, root)


if __name__ == "__main__":
    main()
