"""What was learned, put to use: pictures go in, ranked classes come out.

    import promptclip

    model = promptclip.load("output/try")
    for classname, probability in model.predict("cat.png", top=5): ...

A run's folder is all that is needed, and the weights of its CLIP: no data set. Pictures are read
and transformed as those of the run's own test, and the logits are those of `--eval-only`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from promptclip import pictures, plugins, prompt_file, results, run_file
from promptclip.arithmetic import arranged
from promptclip.config import saved_cfg
from promptclip.errors import UserError
from promptclip.progress.amount import unheard

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from promptclip.trainer import PromptModel, PromptTrainer

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | Tensor"


class Prediction(NamedTuple):
    """A class, and how likely it is, from 0 to 1: the softmax of the logits over all classes."""

    classname: str
    probability: float


class Predictor:
    """A trained run that says what pictures show; made by `load`.

    Attributes:
        method: the registered name, such as "CoOp".
        classnames: in the order of the logits.
        cfg: the run's configuration, frozen.
        transform: makes a tensor [3, H, W] of a PIL image in RGB, as in the run's test.
        device: where it computes.
    """

    def __init__(self, trainer: PromptTrainer, cfg: CfgNode) -> None:
        from dassl.data.transforms import build_transform

        self.cfg = cfg
        self.method: str = type(trainer).__name__
        self.classnames: list[str] = list(trainer.dm.dataset.classnames)
        self.device: torch.device = trainer.device
        self.transform = build_transform(cfg, is_train=False)
        self.model: PromptModel = trainer.model.eval()

    def predict(self, image: Picture, *, top: int | None = None) -> list[Prediction]:
        """The classes of one picture, the most likely first.

        Args:
            image: a path, a PIL image of any mode, or a tensor that `transform` has made.
            top: how many classes; None for all.

        Raises:
            UserError: the picture cannot be read, or is a tensor of another shape.
        """
        return next(self.predict_all([image], top=top))

    def predict_all(
        self, images: Iterable[Picture], *, top: int | None = None, batch_size: int | None = None
    ) -> Iterator[list[Prediction]]:
        """The same for many pictures, in their order, read and computed batch by batch.

        Args:
            images: as of `predict`; what yields them may be endless.
            top: how many classes of each; None for all.
            batch_size: pictures at once; None for as many as in the run's test.

        Raises:
            UserError: as of `predict`.
        """
        if top is not None and top < 1:
            raise UserError(f"top must be 1 or more, got {top}")
        size = self.cfg.DATALOADER.TEST.BATCH_SIZE if batch_size is None else batch_size
        if size < 1:
            raise UserError(f"batch_size must be 1 or more, got {size}")
        left = iter(images)
        while batch := [self.read(image) for image in islice(left, size)]:
            yield from (self.ranked(row, top=top) for row in self.logits(torch.stack(batch)))

    def read(self, image: Picture) -> Tensor:
        """A picture as the model takes it, [3, H, W].

        Raises:
            UserError: as of `predict`.
        """
        if isinstance(image, Tensor):
            return self._checked(image)
        tensor: Tensor = self.transform(_rgb(image))
        return tensor

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, C] of pictures that `transform` has made, [B, 3, H, W]; on `device`."""
        with arranged(self.cfg):
            logits: Tensor = self.model(images.to(self.device)).logits
        return logits

    def ranked(self, logits: Tensor, *, top: int | None = None) -> list[Prediction]:
        """Logits [C] as classes and probabilities, the most likely first; of equals the first."""
        likely, label = logits.float().softmax(-1).sort(descending=True, stable=True)
        rows = zip(label[:top].tolist(), likely[:top].tolist(), strict=True)
        return [Prediction(self.classnames[one], probability) for one, probability in rows]

    def _checked(self, image: Tensor) -> Tensor:
        height, width = self.cfg.INPUT.SIZE
        if tuple(image.shape) != (3, height, width) or not image.is_floating_point():
            raise UserError(
                f"a tensor must be what `transform` makes, floating-point numbers of the shape "
                f"[3, {height}, {width}]; got {image.dtype} of {list(image.shape)}"
            )
        return image.detach().to("cpu", torch.float32)


def load(
    run: str | os.PathLike[str],
    *,
    classnames: Sequence[str] | None = None,
    epoch: int | None = None,
    backbone: str | None = None,
    device: str | torch.device | None = None,
) -> Predictor:
    """A trained run, ready to predict.

    Nothing of the folder is run, nothing is written, and the state of random generators, logging
    and torch is afterwards what it was.

    Args:
        run: a run's output folder, which has `run.json` and what was learned.
        classnames: other classes to tell apart, where what was learned is not bound to those of
            training; None for these.
        epoch: that epoch's checkpoint; None for the model that the run has tested.
        backbone: where the CLIP's weights are now; None for the name or path in the run.
        device: such as "cpu" or "cuda:1"; None for a GPU if there is one, as in the run.

    Raises:
        UserError: the folder is no run of promptclip's, is not finished, is damaged, or tests a
            model that was trained elsewhere; or the CLIP or the device is not there.
    """
    if isinstance(classnames, str):
        raise UserError(f"classnames must be a list of names, got the text {classnames!r}")
    folder = Path(run)
    written = run_file.read(folder)
    if written is None:
        raise UserError(
            f"{folder} is no run: it has no {run_file.RUN_FILE}; give the --output-dir of a run, "
            "such as output/base2new/train_base/emoji/shots_16/CoOp/tiny/seed1"
        )
    if written.get("model"):
        raise UserError(
            f"{folder} tests a model that was trained in another folder (its configuration has "
            f"the hash {written['model']}); give that folder, and this one's classes if they differ"
        )
    source = str(folder / run_file.RUN_FILE)
    moved = [] if backbone is None else ["MODEL.BACKBONE.NAME", backbone]
    # What training began with is of no use any more, and may be gone.
    cfg = saved_cfg(written["config"], source, ["MODEL.INIT_WEIGHTS", "", *moved])
    method = plugins.methods().get(cfg.TRAINER.NAME)
    if method is None:
        raise UserError(f"{source}: {cfg.TRAINER.NAME} is no method of promptclip's own")
    tested = results.read_of(folder, written["config_hash"]) or {}
    file = folder / prompt_file.NAME
    prompts = file if epoch is None and file.exists() else None
    known = _classnames(prompts, tested, written["config_hash"])
    names = known if classnames is None else list(classnames)
    if not names:
        raise UserError(
            f"{folder} does not say which classes it is of: it has neither {prompt_file.NAME} nor "
            f"a whole {results.RESULT_FILE}; finish the run, or give the class names"
        )
    template = tested.get("template") or plugins.benchmark(cfg.DATASET.NAME).at(cfg).template
    if odd := [one for one in (*names, template) if not isinstance(one, str)]:
        raise UserError(f"{folder}: expected text for class names and template, got {odd[0]!r}")
    with _unnoticed(max(cfg.SEED, 0)), arranged(cfg):
        trainer = _without_data(method, names, template, device)(cfg)
        trainer.load_model(str(prompts or folder), epoch=epoch)
        return Predictor(trainer, cfg)


def _classnames(prompts: Path | None, tested: dict[str, Any], run: str) -> list[str]:
    """Those of training, in the order of labels; none if nothing says it."""
    if prompts is None:
        return [one.get("classname") for one in tested.get("per_class", ())]
    _, about = prompt_file.read(prompts)
    if about["config_hash"] != run:
        raise UserError(
            f"{prompts} is of another run than its folder: its configuration has the hash "
            f"{about['config_hash']}, {run_file.RUN_FILE} says {run}; put back its own, or train "
            "again"
        )
    return list(about["classnames"])


def _without_data(
    method: type[PromptTrainer],
    classnames: Sequence[str],
    template: str,
    device: str | torch.device | None,
) -> type[PromptTrainer]:
    """A method's trainer that asks no data set: what a model is built of is at hand."""
    said = {"classnames": list(classnames), "template": template}
    parts: dict[str, list[Any]] = {"train_x": [], "val": [], "test": []}

    def build_data_loader(self: PromptTrainer) -> None:
        data: Any = SimpleNamespace(dataset=SimpleNamespace(**said, **parts))
        self.dm = data
        self.num_classes, self.lab2cname = len(classnames), dict(enumerate(classnames))
        if device is not None:
            self.device = _device(device)

    own = {"build_data_loader": build_data_loader, "__module__": method.__module__}
    return type(method.__name__, (method,), own)


def _device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        UserError: if it is not.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).tolist()  # which a device without memory cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"the device {str(device)!r} cannot be used ({str(error).splitlines()[0]}); give cpu, "
            "or leave it away"
        ) from None
    return found


@contextlib.contextmanager
def _unnoticed(seed: int) -> Iterator[None]:
    """Nothing is printed inside, and no random number drawn from the caller's generators."""
    from promptclip.trainer import own_draws

    with unheard(), own_draws(seed):
        yield


def _rgb(image: str | os.PathLike[str] | Image.Image) -> Image.Image:
    name = "the picture" if isinstance(image, Image.Image) else os.fsdecode(image)
    try:
        with pictures.quiet():
            if isinstance(image, Image.Image):
                return pictures.as_rgb(image)
            return pictures.rgb(name)
    except pictures.UnreadableError as error:
        raise UserError(f"{name} cannot be read as a picture ({error})") from error
