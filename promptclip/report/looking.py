"""A trained model looks at its test pictures once more, for what a run does not keep.

Features and answers of every test picture, with and without what was learned. Nothing is written
into the run's folder, and its pictures and weights must still be where they were.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptclip import arithmetic, plugins, prompt_file, run_file
from promptclip.config import saved_cfg
from promptclip.errors import UserError
from promptclip.progress.amount import unheard
from promptclip.report.methods import Extra, extras
from promptclip.report.source import Run, Setting, Source
from promptclip.trainer import unit
from promptclip.tree import TARGETS, Place

log = logging.getLogger(__name__)

MOVED_SHOWN = 3


@dataclass(frozen=True)
class Look:
    """What a model makes of its test pictures, on the CPU.

    Attributes:
        run: whose model it is.
        classnames: in the order of labels, [C].
        paths: of the pictures, [N].
        label: [N].
        answer: class indices, [N].
        before: prompt-free image features, unit vectors in fp32, [N, D].
        after: those of the method, [N, D].
        text_before: features of the hand-written prompt, [C, D].
        text_after: those of the method, [C, D]; None if it has none.
        moved: paths of pictures that are not there any more.
        extras: what is particular to the method.
    """

    run: Run
    classnames: Sequence[str]
    paths: Sequence[str]
    label: Tensor
    answer: Tensor
    before: Tensor
    after: Tensor
    text_before: Tensor
    text_after: Tensor | None
    moved: Sequence[str] = ()
    extras: Sequence[Extra] = field(default_factory=tuple)

    @property
    def accuracy(self) -> float:
        """In percent, of the pictures that were there."""
        return 100 * float((self.answer == self.label).double().mean())

    def remarks(self) -> Iterator[str]:
        """What a reader must know: pictures that have moved, other answers than the run's."""
        if self.moved:
            some = ", ".join(self.moved[:MOVED_SHOWN])
            more = ", ..." if len(self.moved) > MOVED_SHOWN else ""
            yield f"{len(self.moved)} pictures are not there any more and left out: {some}{more}"
        told = self.run.outcome.accuracy
        if not self.moved and told is not None and abs(told - self.accuracy) > 1e-6:
            yield (
                f"the accuracy was {told:.2f} in the run and is {self.accuracy:.2f} now: "
                "pictures, weights or arithmetic are not the same"
            )


def look(source: Source, methods: Sequence[str], root: str = "") -> Source:
    """The same source with looks: of each method in each setting at the run of the lowest seed.

    Args:
        source: of `read`.
        methods: registered names; empty for all.
        root: where the data sets are now; "" for where they were.

    Raises:
        UserError: if a method has no finished run.
    """
    there = {run.place.method for run in source.finished}
    if unknown := sorted(set(methods) - there):
        raise UserError(
            f"no finished run of {', '.join(unknown)} to look at; there are "
            f"{', '.join(sorted(there))}"
        )
    looks: dict[tuple[Setting, str], Look] = {}
    blind: list[str] = []
    for setting, runs in source.by_setting().items():
        for label, its in source.by_label(runs).items():
            if methods and its[0].place.method not in methods:
                continue
            try:
                log.info("looking at the pictures of %s with %s", setting, label)
                looks[setting, label] = look_at(its[0], root)
            except UserError as error:
                log.warning("%s, %s: cannot look again (%s)", label, setting, error)
                blind.append(f"{label}, {setting}: {error}")
    return replace(source, looks=looks, blind=tuple(blind), looked=True)


@torch.no_grad()
def look_at(run: Run, root: str = "") -> Look:
    """What the model of a run makes of its test pictures.

    Args:
        run: a finished one.
        root: as of `look`.

    Raises:
        UserError: if the model, its CLIP or its pictures cannot be had any more.
    """
    written = run_file.read(run.folder)
    if written is None:
        raise UserError(f"{run.folder} has no {run_file.RUN_FILE}, so its model cannot be loaded")
    with tempfile.TemporaryDirectory() as own, unheard():
        cfg = _configuration(written, run, root, own)
        try:
            return _seen(run, _loaded(run, written, cfg))
        except UserError:  # of pictures, perhaps: those that are there are better than none
            cfg.defrost()
            cfg.DATASET.BAD_IMAGES = "skip"
            cfg.freeze()
            with contextlib.suppress(UserError):
                return _seen(run, _loaded(run, written, cfg))
            raise


def _configuration(written: Mapping[str, Any], run: Run, root: str, output: str) -> CfgNode:
    """The configuration of a run, but for where things lie; what it began with may be gone."""
    place = ["DATASET.ROOT", root] if root else []
    overrides = [*place, "OUTPUT_DIR", output, "MODEL.INIT_WEIGHTS", ""]
    cfg = saved_cfg(written["config"], str(run.folder / run_file.RUN_FILE), overrides)
    if cfg.TRAINER.NAME not in plugins.methods():
        raise UserError(f"{cfg.TRAINER.NAME} is no method of promptclip's own")
    return cfg


def _loaded(run: Run, written: Mapping[str, Any], cfg: CfgNode) -> Any:
    """The trainer of a run with what it has learned."""
    from dassl.engine import build_trainer

    arithmetic.arrange(cfg)
    trainer = build_trainer(cfg)
    folder, epoch = _training(run), written.get("load_epoch")
    if epoch is None and not (folder / prompt_file.NAME).exists():
        best = cfg.TEST.FINAL_MODEL == "best_val"
        epoch = None if best else cfg.OPTIM.MAX_EPOCH
    if trainer.model.fitted or trainer.num_trainable:
        trainer.load_model(str(folder), epoch=epoch)
    return trainer


def _training(run: Run) -> Path:
    """The folder of the run that has trained the model."""
    place: Place = run.place
    trained = place
    if place.protocol == "base2new":
        trained = replace(place, target="base")
    elif place.protocol in TARGETS and place.source:
        trained = place.source
    return run.folder.parents[len(place.path.parts) - 1] / trained.path


def _seen(run: Run, trainer: Any) -> Look:
    """Go through the test pictures that are still there."""
    trainer.set_model_mode("eval")
    skipped = getattr(trainer.dm.dataset, "skipped", None) or {}
    by_run = run.result["config"]["DATASET"].get("BAD_IMAGES") == "skip"
    rows: dict[str, list[Tensor]] = {name: [] for name in ("label", "answer", "before", "after")}
    paths: list[str] = []
    text: Tensor | None = None
    for batch in trainer.test_loader:
        image, label = trainer.parse_batch_test(batch)
        output = trainer.model(image)
        paths += batch["impath"]
        rows["label"].append(label.cpu())
        rows["answer"].append(output.logits.argmax(-1).cpu())
        rows["before"].append(trainer.model.frozen_image_features(image).cpu())
        rows["after"].append(output.image_features.float().cpu())
        if output.text_features is not None:
            own = output.text_features.float().cpu()
            if own.dim() == 3:  # the sum over images has their mean's direction
                own = own.sum(0) + (0 if text is None else text)
            text = own
    return Look(
        run=run,
        classnames=list(trainer.dm.dataset.classnames),
        paths=paths,
        text_before=trainer.model.template_features().float().cpu(),
        text_after=None if text is None else unit(text),
        moved=[] if by_run else list(skipped.get("test", ())),
        extras=extras(trainer, trainer.test_loader.dataset),
        **{name: torch.cat(parts) for name, parts in rows.items()},
    )
