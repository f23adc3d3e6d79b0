"""How prompts are learned: one trainer for every method.

A method is a frozen dataclass of options, a `PromptModel` that says what is learned, and a
`PromptTrainer` that says which losses train it; all three fit in one short file.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import promptclip
from promptclip import (
    bad_pictures,
    checkpoints,
    parallel,
    prompt_file,
    regularizers,
    run_file,
    tensor_file,
)
from promptclip.benchmark import PictureSet
from promptclip.classifier import LinearClassifier, text_classifier
from promptclip.clip.layout import not_finite
from promptclip.clip.load import load_clip
from promptclip.clip.model import EncodedImages, FrozenCLIP, PixelsNeededError
from promptclip.clip.tokenizer import tokenize
from promptclip.collapse import TestFeatures, listed
from promptclip.config import config_hash
from promptclip.divergence import diverged
from promptclip.errors import UserError
from promptclip.feature_cache import encoded_loader, identity, instead, open_cache
from promptclip.files import DamagedError
from promptclip.memory import GIB
from promptclip.progress.screen import counted
from promptclip.progress.stretches import images_in, loader_name

log = logging.getLogger(__name__)
T = TypeVar("T")

# Fixed tensors that older code bases saved among the learned ones (CoOp's trainers/coop.py)
_FOREIGN_BUFFERS = {"token_prefix", "token_suffix"}
_ORIGIN = "origin._extra_state"


@dataclass(frozen=True)
class MethodOptions:
    """Options of every method; a field `n_ctx` is the key `TRAINER.<METHOD>.N_CTX`."""

    prec: str = "auto"

    def __post_init__(self) -> None:
        self.one_of("prec", "auto", "fp32", "fp16", "amp", "bf16")

    def check(self, name: str, ok: bool, expected: str) -> None:
        """Refuse the value of field `name` unless `ok`."""
        if not ok:
            method = type(self).__name__.removesuffix("Options").upper()
            value = getattr(self, name)
            raise UserError(f"TRAINER.{method}.{name.upper()} must be {expected}, got {value!r}")

    def at_least(self, least: float, *names: str) -> None:
        """Refuse the values of some fields if they are smaller."""
        for name in names:
            self.check(name, getattr(self, name) >= least, f"at least {least}")

    def one_of(self, name: str, *choices: str) -> None:
        """Refuse the value of field `name` unless it is one of several."""
        *most, last = (f'"{choice}"' for choice in choices)
        self.check(name, getattr(self, name) in choices, f"{', '.join(most)} or {last}")


@dataclass
class Output:
    """What a model makes of a batch.

    Attributes:
        logits: [B, C].
        image_features: unit vectors, [B, D].
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own.
        aux: what else a method's losses need: tensors with a row for each image, or functions
            that give such.
    """

    logits: Tensor
    image_features: Tensor
    text_features: Tensor
    aux: dict[str, Any] = field(default_factory=dict)

    def gathered(self, batch: int) -> Output:
        """Of the whole batch, of which every process of torchrun has a share."""
        own = {key: parallel.gather(value, batch) for key, value in self.aux.items()}
        text = self.text_features
        if text.dim() == 3:
            text = parallel.gather(text, batch)
        logits, image = parallel.gather(self.logits, batch), self.image_features
        return Output(logits, parallel.gather(image, batch), text, own)


class PromptModel(nn.Module):
    """What is learned: `prompt_learner`, and how it enters the two towers.

    A method without image prompts may be handed `EncodedImages` in the place of pixels, in tests.

    Args:
        clip: the frozen model.
        classnames: of the classes to tell apart, [C].
        options: the method's.
        template: the benchmark's hand-written prompt, with `{}` for the class name.
        label: class indices of the training pictures, [N].

    Attributes:
        learns: what the tensors trained by gradient move: "text" and "image" features, or "logits"
            alone.
        prompts_image: whether prompts enter the image tower, which must then be a ViT.
        transfers: whether what is learned can be used for other classes.
        fitted: whether `PromptTrainer.fit` computes what is learned, in no epochs.
        chosen: hyper-parameters that were chosen on the validation pictures, by option; saved.
        training_only: learners that are of no use after training, and never loaded for a test.
        text_by_image: whether every image has text features of its own.
    """

    learns: ClassVar[frozenset[str]] = frozenset({"text"})
    prompts_image: ClassVar[bool] = False
    transfers: ClassVar[bool] = True
    fitted: bool = False
    training_only: ClassVar[frozenset[str]] = frozenset()
    text_by_image: ClassVar[bool] = False
    clip: FrozenCLIP
    prompt_learner: Any  # a module, or a dictionary of modules
    text_prompter: Any  # with its `tokens`, such as `TextContext`; None without
    image_prompter: Any  # None without

    def __init__(
        self,
        clip: FrozenCLIP,
        classnames: Sequence[str],
        options: Any,
        template: str,
        label: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.clip, self.template, self.label = clip, template, label
        self.classnames = readable(classnames)
        self.chosen: dict[str, float] = {}
        self.text_prompter = self.image_prompter = None
        self._text_features: Tensor | None = None
        self._template_features: dict[tuple[str, ...], Tensor] = {}
        self.build(options)

    @property
    def shares_image_features(self) -> bool:
        """Whether the image tower is asked without prompts only: its features are any run's."""
        return not self.prompts_image and self.image_prompter is None

    @property
    def learners(self) -> dict[str, nn.Module]:
        """What is learned, by the name of its checkpoints' folder; each has an optimiser."""
        return {"prompt_learner": self.prompt_learner}

    def build(self, options: Any) -> None:
        """Make `prompt_learner`, and `text_prompter` and `image_prompter` where there are any."""
        raise NotImplementedError

    def text_features(self) -> Tensor:
        """Features of all classes, [C, D]; of the benchmark's template without a prompter."""
        if self.text_prompter is None:
            return self.template_features()
        return self.clip.encode_text(self.text_prompter.tokens, self.text_prompter)

    def image_features(self, image: Tensor) -> Tensor:
        """Features of a batch, [B, D], not normalised."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.image_prompter is not None):
            return self.clip.encode_image(image, self.image_prompter)

    def forward(self, image: Tensor) -> Output:
        """Cosine logits of images [B, 3, H, W]."""
        image_features = unit(self.image_features(image))
        text_features = self.unit_text_features()
        logits = self.clip.logit_scale * image_features @ text_features.T
        return Output(logits, image_features, text_features)

    def linear_classifier(self) -> LinearClassifier:
        """What is left of the model behind CLIP's own image features, for other programs.

        A model with a `forward` or `image_features` of its own overrides this if it has one.

        Raises:
            UserError: if it is no linear classifier; the message says why.
        """
        return text_classifier(self)

    def current_text_features(self) -> Tensor:
        """`text_features()`; without gradient they are computed once, until `forget()`."""
        if torch.is_grad_enabled():
            return self.text_features()
        if self._text_features is None:
            self._text_features = self.text_features()
        return self._text_features

    def unit_text_features(self) -> Tensor:
        """The same as unit vectors, [C, D]."""
        return unit(self.current_text_features())

    @torch.no_grad()
    def encode_template(self, template: str) -> Tensor:
        """Prompt-free features of a hand-written prompt with every class name, [C, D].

        Not normalised; `{}` stands for the name.
        """
        prompts = fill(template, self.classnames)
        return self.clip.encode_text(tokenize(prompts, self.clip.config.context_length))

    def template_features(self, *templates: str) -> Tensor:
        """Unit features [C, D] of the benchmark's template, or the means of those of several.

        The means are unit vectors again; "" is the benchmark's. Computed once.
        """
        templates = tuple(template or self.template for template in templates or ("",))
        if templates not in self._template_features:
            features = [unit(self.encode_template(template)) for template in templates]
            self._template_features[templates] = unit(torch.stack(features).mean(0))
        return self._template_features[templates]

    @torch.no_grad()
    def frozen_image_features(self, image: Tensor) -> Tensor:
        """Unit features [B, D] of the prompt-free image tower."""
        return unit(self.clip.encode_image(image))

    def forget(self) -> None:
        """Drop what was kept from an earlier test: the prompts have changed since."""
        self._text_features = None


def unit(features: Tensor) -> Tensor:
    """Features [..., D] as unit vectors in fp32."""
    return F.normalize(features.float(), dim=-1)


def fill(template: str, classnames: Sequence[str]) -> list[str]:
    """A hand-written prompt with every class name in the place of `{}`, whatever the name holds.

    Raises:
        UserError: the template has no `{}`, or other braces.
    """
    before, name, after = template.partition("{}")
    if not name or any(brace in before + after.replace("{}", "") for brace in "{}"):
        raise UserError(
            "a template must have {} where the class name stands, and no other braces, got "
            f'{template!r}; an example is "a photo of a {{}}."'
        )
    return [template.replace("{}", name) for name in classnames]


def readable(classnames: Sequence[str]) -> list[str]:
    """Class names as they stand in a prompt: "_" read as a space, no white space around.

    Raises:
        UserError: a name is empty, is no text, or has nothing that CLIP's tokenizer reads.
    """
    names = [" ".join(name.replace("_", " ").split()) for name in classnames]
    if strange := [name for name in names if not _is_text(name)]:
        raise UserError(
            f"the class name {strange[0]!r} is no text in UTF-8; rename the class or its folder"
        )
    tokens = tokenize(names)
    for label, end in enumerate(tokens.argmax(-1).tolist()):
        if end == 1:  # behind the start of the text
            raise UserError(
                f"class {label} has the name {classnames[label]!r}, which leaves nothing to put "
                "into a prompt; give every class a name"
            )
    rows = [tuple(row) for row in tokens.tolist()]
    count = Counter(rows)  # the tokenizer reads "Crane" and "crane" alike
    twins = sorted({name for name, row in zip(names, rows, strict=True) if count[row] > 1})
    if twins:
        log.warning(
            "several classes have the name %s: no text prompt can tell them apart",
            ", ".join(map(repr, twins)),
        )
    return names


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Origin(nn.Module):
    """Says in a checkpoint what its tensors belong to, and what was chosen on validation.

    Args:
        method: registered name.
        backbone: of the frozen CLIP.
        classnames: the only classes that the tensors can be used for; none if any will do.
        chosen: `PromptModel.chosen`.
        run: hash of the configuration; "" if that is not known.
    """

    def __init__(
        self,
        method: str,
        backbone: str,
        classnames: Sequence[str] = (),
        chosen: dict[str, float] | None = None,
        run: str = "",
    ) -> None:
        super().__init__()
        self.origin = {"method": method, "backbone": backbone}
        self.classnames = list(classnames)
        self.chosen = {} if chosen is None else chosen
        self.run = run

    def get_extra_state(self) -> dict[str, Any]:
        """Saved with the state dict."""
        own = {"classes": self.classnames, "chosen": dict(self.chosen), "run": self.run}
        return {**self.origin, **own}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the tensors of another method or backbone, or of classes they cannot change."""
        for what, own in self.origin.items():
            _refuse(what, state.get(what), own)
        trained = state.get("classes", [])
        if trained != self.classnames:
            alone = sorted({*trained} ^ {*self.classnames}) or ["their order"]
            raise UserError(
                f"{self.origin['method']} cannot change classes: this checkpoint was made for "
                f"{len(trained)} classes, this run has {len(self.classnames)}, and they differ in "
                f"{', '.join(map(repr, alone[:3]))}; train on the classes of this run"
            )
        self.chosen.clear()
        self.chosen.update(state.get("chosen", {}))


class PromptTrainer(TrainerX):
    """How a `PromptModel` is learned, on our runtime and on the original Dassl.

    A method names its `Options` and `Model` and may write `losses`.

    Attributes:
        collapse: of the last test, if `TEST.COLLAPSE_METRICS` asked for it.
        shared_features: "computed" or "found", of the last test, if its image features are of
            `promptclip.feature_cache`.
    """

    Options: ClassVar[type[MethodOptions]]
    Model: ClassVar[type[PromptModel]]
    options: Any  # an instance of `Options`
    model: PromptModel
    train_loader_x: Any
    collapse: dict[str, float | None] | None = None
    shared_features: str | None = None
    _tested: TestFeatures | None = None
    _resumed: dict[str, Any] | None = None  # what the file is of from which this run goes on
    _loaded_epoch: int | None = None  # of the checkpoint in use, if one was loaded
    val_loader: Any

    def __init__(self, cfg: Any) -> None:
        self._features: dict[Any, tuple[Tensor, str] | None] = {}  # shared ones, by loader
        super().__init__(cfg)

    def check_cfg(self, cfg: Any) -> None:
        """Read the method's options, which checks them.

        Raises:
            UserError: for a value that the method cannot use.
        """
        if cfg.INPUT.NO_TRANSFORM or cfg.DATALOADER.K_TRANSFORMS != 1:
            raise UserError(
                f"{type(self).__name__} takes one transformed view of a picture; set "
                "INPUT.NO_TRANSFORM False and DATALOADER.K_TRANSFORMS 1"
            )
        node = cfg.TRAINER[type(self).__name__.upper()]
        self.options = self.Options(**{f.name: node[f.name.upper()] for f in fields(self.Options)})
        self.regularizers = regularizers.build(cfg)

    def build_data_loader(self) -> None:
        """Dassl's loaders over pictures that are decoded once where they fit into memory."""
        try:
            dm = DataManager(self.cfg, dataset_wrapper=PictureSet)
        except ValueError as error:  # of the engine: what in the configuration does not fit
            if isinstance(error, UserError):
                raise
            raise UserError(f"the data cannot be loaded as configured: {error}") from error
        bad_pictures.check_support(self.cfg, dm.dataset)
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.lab2cname = dm.num_classes, dm.lab2cname
        self.num_source_domains = dm.num_source_domains
        self.dm = dm

    def build_model(self) -> None:
        """The frozen CLIP, the learned parts, their optimisers and schedules."""
        cfg, options = self.cfg, self.options
        backbone = cfg.MODEL.BACKBONE.NAME
        clip = load_clip(
            backbone,
            precision=options.prec,
            device=self.device,
            textbook=cfg.MODEL.EXACT_TEXTBOOK,
            memory_budget=cfg.MODEL.MEMORY_BUDGET * GIB,
            compile_blocks=cfg.COMPUTE.COMPILE,
            # A method with a `backward` of its own may go back twice, which a recording cannot
            graphs=cfg.COMPUTE.CUDA_GRAPHS and type(self).backward is PromptTrainer.backward,
        )
        clip.check_size(cfg.INPUT.SIZE)
        if self.Model.prompts_image and clip.visual is not None:
            raise UserError(
                f"{type(self).__name__} puts prompts into a vision transformer, but the image "
                f"tower of {backbone} is a ResNet; take a ViT, or a method that leaves the image "
                f"tower alone ({', '.join(_without_image_prompts())})"
            )
        dataset = self.dm.dataset
        template = getattr(dataset, "template", "a photo of a {}.")
        label = [picture.label for picture in dataset.train_x]
        model = self.Model(clip, dataset.classnames, options, template, label)
        self.model = model.to(self.device)
        if model.fitted and cfg.MODEL.INIT_WEIGHTS:
            raise UserError(
                f"{type(self).__name__} has no start that could be loaded: it is computed at once; "
                "leave MODEL.INIT_WEIGHTS empty"
            )
        learners = model.learners
        learned = [p for one in learners.values() for p in one.parameters() if p.requires_grad]
        self.num_trainable = sum(p.numel() for p in learned)
        parallel.average_gradients(p for one in learners.values() for p in one.parameters())
        for name, learner in learners.items():
            own_classes = () if model.transfers else model.classnames
            learner.origin = Origin(
                type(self).__name__, backbone, own_classes, model.chosen, config_hash(cfg)
            )
            if cfg.MODEL.INIT_WEIGHTS and name == "prompt_learner":
                _load_strictly(learner, self._start(cfg.MODEL.INIT_WEIGHTS, name))
        # fp16 gradients need scaling; bf16 has the range of fp32
        scale = clip.precision == "amp" and clip.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type) if scale else None
        if model.fitted:
            for name, learner in learners.items():
                self.register_model(name, learner)
        elif learned:  # which may have no numbers before a checkpoint brings them
            for name, learner in learners.items():
                optim_cfg = self.optim_cfg(name)
                try:
                    optim = build_optimizer(learner, optim_cfg)
                    schedule = build_lr_scheduler(optim, optim_cfg)
                except (ValueError, TypeError) as error:
                    raise UserError(f"OPTIM cannot be as configured: {error}") from error
                self.register_model(name, learner, optim, schedule)

    def optim_cfg(self, learner: str) -> Any:
        """The node OPTIM, from which a method may derive another for one of its learners."""
        return self.cfg.OPTIM

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """Named, already weighted terms; their sum is minimised."""
        return {"ce": F.cross_entropy(output.logits, label)}

    def before_train(self) -> None:
        """Decode the training pictures here, so that loader workers inherit them."""
        bad_pictures.remember(self.dm.dataset, self.output_dir)
        self.train_loader_x.dataset.decode()
        for regularizer in self.regularizers:
            regularizer.prepare(self)
        super().before_train()
        if self.cfg.TEST.COLLAPSE_EVERY and self.start_epoch == 0:
            self._watch_collapse(epoch=0)

    def after_epoch(self) -> None:
        """As in Dassl, after a look at the neural collapse where `TEST.COLLAPSE_EVERY` asks."""
        done, every = self.epoch + 1, self.cfg.TEST.COLLAPSE_EVERY
        if every and (done % every == 0 or done == self.max_epoch):
            self._watch_collapse(done)
        super().after_epoch()

    @torch.no_grad()
    def _watch_collapse(self, epoch: int) -> None:
        """Log the measures on the pictures of the test; nothing else of the run depends on it."""
        self.model.forget()
        self.set_model_mode("eval")
        with own_draws(max(self.cfg.SEED, 0)):
            measures = self._on_features(None, self._measure)
            if measures is None:
                measures = self._measure(None)
        self.model.forget()
        told = " ".join(f"{name} {value:.4g}" for name, value in measures.items())
        log.info("epoch [%d/%d] collapse %s", epoch, self.max_epoch, told)
        for name, value in measures.items():
            self.write_scalar(f"collapse/{name}", value, epoch)

    def fit(self) -> None:
        """Compute what a `fitted` model learns."""
        raise NotImplementedError

    @torch.no_grad()
    def pictures_features(self, pictures: Any, views: int = 1) -> tuple[Tensor, Tensor]:
        """Prompt-free features of some pictures and their labels, in their order, on the CPU.

        Random views are drawn from generators of their own: they are the same in a resumed run,
        and the run's other draws do not depend on them.

        Args:
            pictures: a `PictureSet`, whose transform makes the views.
            views: of each picture, of which the mean is taken.

        Returns:
            Features in fp32, not normalised, [N, D], and class indices, [N].
        """
        pictures.decode()
        loader = DataLoader(
            pictures,
            self.cfg.DATALOADER.TEST.BATCH_SIZE,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )
        total, label = torch.zeros(()), torch.zeros(())
        with own_draws(max(self.cfg.SEED, 0)):
            for _ in range(views):
                features, label = self._encode(loader)
                total = total + features.float()
        return total / views, label

    def validation_features(self) -> tuple[Tensor, Tensor]:
        """`pictures_features` of the validation pictures.

        Raises:
            UserError: there are none, or they are the test pictures.
        """
        dataset = self.dm.dataset
        val, test = ({p.impath for p in part or ()} for part in (dataset.val, dataset.test))
        if not val or val & test:
            method = type(self).__name__
            raise UserError(
                f"{method} would choose hyper-parameters on validation pictures, but here "
                f"{'they are the test pictures' if val else 'are none'}; set TRAINER."
                f"{method.upper()}.SEARCH none, which takes the configured values"
            )
        found = self._shared(self.val_loader)
        if found is None:
            return self.pictures_features(self.val_loader.dataset)
        return found[0].float(), torch.tensor([picture.label for picture in dataset.val or ()])

    @torch.no_grad()
    def class_means(self) -> Tensor:
        """Mean prompt-free unit feature of every class's training pictures, [C, D].

        Of one random training view of each picture. Computed once for a run.
        """
        file = Path(self.output_dir, "class_means.safetensors")
        try:
            kept, of = tensor_file.read(file)
            if of == self._what():
                return kept["class_means"].to(self.device)
            log.warning("%s is of another run and is made again", file)
        except FileNotFoundError:
            pass
        except DamagedError as error:
            log.warning("%s, and is made again", error)
        features, label = self.pictures_features(self.train_loader_x.dataset)
        total = torch.zeros(self.num_classes, features.shape[1])
        total.index_add_(0, label, unit(features))
        means = total / label.bincount(minlength=self.num_classes)[:, None]
        tensor_file.write({"class_means": means}, self._what(), file)
        return means.to(self.device)

    def _what(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on.

        An unseeded run draws another few-shot sample each time.
        """
        data = self.dm.dataset
        sample = getattr(data, "split_hash", None) if self.cfg.SEED >= 0 else None
        split = getattr(data, "split_file_hash", None)
        return {
            "configuration": config_hash(self.cfg),
            "split": split,
            "few-shot sample": sample,
        }

    def extra_state(self) -> dict[str, Any]:
        """Says in a file for exact resume what it is of."""
        return {"of": self._what()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Note what a file for exact resume is of."""
        self._resumed = state.get("of")

    def resume_model_if_exist(self, directory: str) -> int:
        """As in Dassl.

        Raises:
            UserError: the files in the folder are damaged, or this run's own are of another; or
                RESUME names a folder without any.
        """
        self._resumed = None
        with checkpoints.told(directory, "delete the folder, or give another --output-dir"):
            epoch: int = super().resume_model_if_exist(directory)
        if self.cfg.RESUME and not epoch and self._resumed is None:  # not even within the first
            raise UserError(
                f"RESUME: there is no checkpoint of {type(self).__name__} in {directory} to go on "
                "from; give the output folder of such a run, or leave it away"
            )
        if 0 < epoch < self.max_epoch and not [*Path(directory).glob("resume*.pth.tar")]:
            log.warning("Going on after epoch %d with other random numbers than the run that was "
                        "stopped: there is no resume.pth.tar", epoch)  # fmt: skip
        own, written = self._what(), self._resumed
        if written and Path(directory).resolve() == Path(self.output_dir).resolve():
            for what in [key for key in own if written.get(key) != own[key]]:
                raise UserError(
                    f"cannot go on from {directory}: its resume.pth.tar is of a run with another "
                    f"{what} "
                    f"(hash {written.get(what)}, now {own[what]}); put that back, or delete the "
                    "folder"
                )
        return epoch

    def forward_backward(self, batch: Any) -> dict[str, float]:
        """One optimiser step.

        Raises:
            DivergedError: the loss is infinite or NaN.
        """
        image, label = self.parse_batch_train(batch)
        output = self.encode(image)
        terms = self.losses(output, label)
        for regularizer in self.regularizers:
            terms |= regularizer.terms(output, label)
        loss = torch.stack(list(terms.values())).sum()
        self.model_zero_grad()
        self.backward(loss, terms)
        summary = {"loss": loss, "acc": compute_accuracy(output.logits, label)[0].squeeze()}
        if len(terms) > 1:
            summary |= {f"loss_{name}": term for name, term in terms.items()}
        # In one piece and once, before anything is learned: a GPU is waited for here, nowhere else
        values = torch.stack([value.detach().float() for value in summary.values()]).tolist()
        if not math.isfinite(values[0]):
            text, images = output.text_features, output.image_features
            found = {"pictures": image, "text features": text, "image features": images}
            raise diverged(self, terms, {**found, "logits": output.logits})
        if self.scaler is None:
            self.model_update()
        else:
            for optimizer in self._optims.values():
                # The scaler cannot step one that got no gradient; others skip such parameters
                if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                    self.scaler.step(optimizer)
            self.scaler.update()
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return dict(zip(summary, values, strict=True))

    def encode(self, image: Tensor) -> Output:
        """What the model makes of a batch; under torchrun each process encodes its share."""
        output: Output = self.model(parallel.share(image))
        return output.gathered(len(image))

    def backward(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Gradients of the loss; a method that treats its terms differently overrides this."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def parse_batch_train(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels, on the device."""
        image, label = batch["img"], batch["label"]  # in pinned memory where there is CUDA
        return image.to(self.device, non_blocking=True), label.to(self.device, non_blocking=True)

    def train(self) -> None:  # type: ignore[override]  # as in SimpleTrainer
        """Train or fit, and test; a method that learns nothing is only tested.

        What is fitted is saved as the last epoch's checkpoint would be.
        """
        if self.model.fitted:
            self.fit()
            best = self.cfg.TEST.FINAL_MODEL == "best_val"
            self.save_model(self.max_epoch - 1, self.output_dir, is_best=best)
            self.test()
            self._write_prompts()
        elif self.num_trainable:
            super().train()
        else:
            self.test()

    def after_train(self) -> None:
        """Test, as in Dassl, and write what was tested in the form that travels."""
        super().after_train()
        self._write_prompts()

    def _write_prompts(self) -> None:
        """Write `prompts.safetensors`, see `promptclip.prompt_file`."""
        about = {
            "method": type(self).__name__,
            "epoch": self._loaded_epoch or self.max_epoch,
            "promptclip": promptclip.__version__,
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "backbone_sha256": self.model.clip.weights_hash,
            "classnames": list(self.dm.dataset.classnames),
            "config_hash": config_hash(self.cfg),
        }
        states = {name: self._models[name].state_dict() for name in self._used}
        file = Path(self.output_dir, prompt_file.NAME)
        try:
            prompt_file.write(states, about, file)
        except TypeError as error:
            log.warning("%s is not written: %s learns more than it holds (%s)",
                        file, type(self).__name__, error)  # fmt: skip

    @property
    def _used(self) -> list[str]:
        """The learners that a test needs."""
        return [name for name in self._models if name not in self.model.training_only]

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Accuracy in percent; text features are computed once."""
        self.model.forget()
        accuracy = self._on_features(split, self._test)
        if accuracy is None:
            self.shared_features = None
            accuracy = self._test(split)
        if self._tested is not None:
            self.collapse, self._tested = self._tested.metrics(), None
            log.info("=> neural collapse\n%s", listed(self.collapse))
        self.model.forget()
        return accuracy

    def _test(self, split: str | None) -> float:
        # Not of the tests that choose an epoch: they name their split
        wanted = self.cfg.TEST.COLLAPSE_METRICS and split is None
        self._tested = TestFeatures() if wanted else None
        accuracy: float = super().test(split)
        return accuracy

    def _measure(self, split: str | None) -> dict[str, float]:
        """The measures of neural collapse that are defined, without Dassl's evaluation."""
        self._tested = tested = TestFeatures()
        try:
            loader = getattr(self, loader_name(self, split))
            for batch in counted(loader, "neural collapse", len(loader.dataset), images_in):
                self.model_inference(self.parse_batch_test(batch)[0])
        finally:
            self._tested = None
        return {name: value for name, value in tested.metrics().items() if value is not None}

    def _on_features(self, split: str | None, test: Callable[[str | None], T]) -> T | None:
        """A test on image features that all runs share; None where there are none.

        Numbers, and draws of random numbers, are those of a test on pictures.
        """
        name = loader_name(self, split)
        loader = getattr(self, name)
        if not self.model.shares_image_features or (found := self._shared(loader)) is None:
            return None
        features, self.shared_features = found
        random_state = torch.get_rng_state()
        try:
            with instead(self, name, encoded_loader(loader, features)):
                return test(split)
        except (PixelsNeededError, TypeError) as error:
            log.info("The test is on pictures, as this method looks at them itself (%s)", error)
            torch.set_rng_state(random_state)
            self._features[loader] = None
            return None

    def _shared(self, loader: Any) -> tuple[Tensor, str] | None:
        """Prompt-free features [N, D] of a test loader's pictures, on the CPU, and from where.

        In the type in which the tower gives them. Once found or computed they stay for the run;
        None if the cache is off or cannot have them.
        """
        if loader not in self._features:
            self._features[loader] = self._find_or_compute(loader)
        return self._features[loader]

    def _find_or_compute(self, loader: Any) -> tuple[Tensor, str] | None:
        cache, clip = open_cache(self.cfg.TEST.FEATURE_CACHE), self.model.clip
        if cache is None or (its := identity(clip, loader, self.cfg)) is None:
            return None
        if (features := cache.read(its)) is not None:
            return features, "found"
        with cache.alone(its):
            if (features := cache.read(its)) is not None:  # by another process in the meantime
                return features, "found"
            log.info("Image features of %d pictures are computed, for all runs", its["number"])
            with own_draws(max(self.cfg.SEED, 0)):
                features, _ = self._encode(loader)
            if identity(clip, loader, self.cfg) != its:  # pictures were replaced in the meantime
                return None
            cache.keep(its, features)
        return features, "computed"

    def _encode(self, loader: Any) -> tuple[Tensor, Tensor]:
        """Prompt-free features [N, D] as the tower gives them, and labels [N], on the CPU."""
        batches = [
            (self.model.clip.encode_image(batch["img"].to(self.device)).cpu(), batch["label"])
            for batch in counted(loader, "image features", len(loader.dataset), images_in)
        ]
        features, label = zip(*batches, strict=True)
        return torch.cat(features), torch.cat(label)

    def parse_batch_test(self, batch: Any) -> tuple[Any, Tensor]:
        """Images, or what stands for them, and labels, on the device."""
        image, label = super().parse_batch_test(batch)
        if self._tested is not None:
            self._tested.add_label(label)
        return EncodedImages(image) if image.dim() == 2 else image, label

    def model_inference(self, input: Any) -> Tensor:
        """Logits [B, C]."""
        output = self.encode(input)
        if self._tested is not None:
            self._tested.add_output(output)
        return output.logits

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the learned tensors strictly; the classes may be others than in training.

        Args:
            directory: a run's output folder, or a `prompts.safetensors`.
            epoch: that epoch's checkpoint; else the best on validation, or where a run's folder has
                none, its `prompts.safetensors`.

        Raises:
            UserError: none is given, or it is damaged, or of another method, backbone, shape or
                run.
        """
        if self._models and not directory:
            raise UserError(
                f"{type(self).__name__} must be trained before it is tested; give the folder of "
                "a training as --model-dir"
            )
        if not self._models:
            log.info("Nothing to load")
            return
        for name, checkpoint in self._checkpoints(Path(directory), epoch).items():
            _load_strictly(self._models[name], checkpoint)
            path, self._loaded_epoch = checkpoint["path"], checkpoint["epoch"]
            log.info('Loading weights to %s from "%s" (epoch = %d)', name, path, self._loaded_epoch)

    def _checkpoints(self, place: Path, epoch: int | None) -> dict[str, dict[str, Any]]:
        """Those that `load_model` means, by learner."""
        name = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        files = {learner: place / learner / name for learner in self._used}
        prompts = place if place.suffix == prompt_file.SUFFIX else place / prompt_file.NAME
        without = epoch is None and not any(file.exists() for file in files.values())
        if prompts == place or (without and prompts.exists()):
            found = self._read_prompts(prompts, self._used)
        else:
            found = {learner: checkpoints.read(str(file)) for learner, file in files.items()}
        trained = run_file.read(place)
        for checkpoint in found.values():
            path, run = checkpoint["path"], _origin(checkpoint["state_dict"]).get("run")
            if epoch is not None and checkpoint["epoch"] not in (0, epoch):  # 0: it does not say
                raise UserError(
                    f"{path} is of epoch {checkpoint['epoch']}, not {epoch}; set --load-epoch"
                )
            if trained and run and run != trained["config_hash"]:
                raise UserError(
                    f"{path} is of another run than its folder: its configuration has the hash "
                    f"{run}, {run_file.RUN_FILE} says {trained['config_hash']}; put back its own, "
                    "or train again"
                )
        return found

    def _start(self, file: str, learner: str) -> dict[str, Any]:
        """The checkpoint of MODEL.INIT_WEIGHTS."""
        if file.endswith(prompt_file.SUFFIX):
            return self._read_prompts(Path(file), [learner])[learner]
        return checkpoints.read(file)

    def _read_prompts(self, file: Path, learners: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Some learners of a `prompts.safetensors`, as checkpoints of this run's CLIP."""
        tensors, about = prompt_file.read(file)
        found = prompt_file.states(tensors, about)
        _refuse("method", about["method"], type(self).__name__)
        own, name = self.model.clip.weights_hash, self.cfg.MODEL.BACKBONE.NAME
        if about["backbone_sha256"] != own:
            raise UserError(
                f"{file} was made with the backbone {about['backbone']!r}, whose weights have the "
                f"SHA-256 {about['backbone_sha256']:.12}...; those of this run's {name!r} have "
                f"{own:.12}...; give the same backbone"
            )
        if lacking := [learner for learner in learners if learner not in found]:
            raise UserError(
                f"{file} does not hold {', '.join(lacking)}, but {', '.join(found)}; the options "
                "that shape the prompts must be those of training"
            )
        for state in found.values():
            if _origin(state):  # the same weights may lie in another place now
                state[_ORIGIN] = {**state[_ORIGIN], "backbone": name}
        more = {"epoch": about["epoch"], "path": str(file)}
        return {learner: {"state_dict": found[learner], **more} for learner in learners}


@contextmanager
def own_draws(seed: int) -> Iterator[None]:
    """Draw from generators seeded anew inside, and go on outside as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _without_image_prompts() -> list[str]:
    from promptclip import plugins

    return [name for name, method in plugins.methods().items() if not method.Model.prompts_image]


def _origin(state: dict[str, Any]) -> dict[str, Any]:
    """What a state dict says of where it is from; nothing if it is not of this software."""
    found = state.get(_ORIGIN)
    return found if isinstance(found, dict) else {}


def _refuse(what: str, theirs: object, own: object) -> None:
    """Refuse a checkpoint that was made with something else."""
    if theirs != own:
        raise UserError(
            f"this checkpoint was made with {what} {theirs!r}, but this run has {own!r}; give a "
            f"checkpoint of the same {what}"
        )


def _load_strictly(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Load the learned tensors; refuse those of another method, backbone or shape."""
    path = checkpoint["path"]
    state = {k: v for k, v in checkpoint["state_dict"].items() if k not in _FOREIGN_BUFFERS}
    if not _origin(state):
        log.warning("%s does not say which method and backbone it is of; trusting you", path)
        state[_ORIGIN] = model.state_dict()[_ORIGIN]
    if broken := not_finite(state):
        raise UserError(
            f"{path}: {broken} has numbers that are not finite; take another checkpoint"
        )
    try:
        with checkpoints.told(path):
            # First, as it names what does not fit; a learner may not understand its tensors then
            model.get_submodule("origin").set_extra_state(state[_ORIGIN])
        model.load_state_dict(state)
    except RuntimeError as error:
        expected, found = (
            {k: tuple(v.shape) for k, v in tensors.items() if isinstance(v, Tensor)}
            for tensors in (model.state_dict(), state)
        )
        raise UserError(
            f"{path} does not fit: expected {expected}, got {found}; the options that shape the "
            "prompts must be those of training (class-specific prompts cannot change classes)"
        ) from error
