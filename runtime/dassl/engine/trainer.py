"""The training loop, in steps that methods override."""

import datetime
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.engine import resume
from dassl.engine.signals import PutOff
from dassl.evaluation import build_evaluator
from dassl.modeling import build_backbone, build_head
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    # Third-party trainers import SummaryWriter from here; only then is tensorboard needed.
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class SimpleNet(nn.Module):
    """Backbone, optional head, linear classifier."""

    def __init__(self, cfg: CfgNode, model_cfg: CfgNode, num_classes: int, **kwargs: Any) -> None:
        """Build the parts that a configuration names.

        Args:
            cfg: the configuration.
            model_cfg: its node `MODEL`, or another like it.
            num_classes: size of the output; 0 leaves the classifier out.
            kwargs: passed on to backbone and head.
        """
        super().__init__()
        self.backbone = build_backbone(
            model_cfg.BACKBONE.NAME,
            verbose=cfg.VERBOSE,
            pretrained=model_cfg.BACKBONE.PRETRAINED,
            **kwargs,
        )
        self._fdim: int = self.backbone.out_features
        self.head = None
        if model_cfg.HEAD.NAME and model_cfg.HEAD.HIDDEN_LAYERS:
            self.head = build_head(
                model_cfg.HEAD.NAME,
                verbose=cfg.VERBOSE,
                in_features=self._fdim,
                hidden_layers=model_cfg.HEAD.HIDDEN_LAYERS,
                activation=model_cfg.HEAD.ACTIVATION,
                bn=model_cfg.HEAD.BN,
                dropout=model_cfg.HEAD.DROPOUT,
                **kwargs,
            )
            self._fdim = self.head.out_features
        self.classifier = nn.Linear(self._fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self) -> int:
        """Size of the features."""
        return self._fdim

    def forward(self, x: Tensor, return_feature: bool = False) -> Any:
        """Return logits [B, C], with features [B, D] if wanted; features if no classifier."""
        features = self.backbone(x)
        if self.head is not None:
            features = self.head(features)
        if self.classifier is None:
            return features
        logits = self.classifier(features)
        return (logits, features) if return_feature else logits


class TrainerBase:
    """Registered models with their optimisers and schedulers, and the loop over epochs."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: SummaryWriter | None = None
        self._log_dir = ""  # of event files that are yet to be opened

    def register_model(
        self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None
    ) -> None:
        """Hand over a model to be trained, switched between modes, saved and loaded.

        Args:
            name: also the name of the folder with its checkpoints; may contain dots.
            model: a module.
            optim: its optimiser, or None.
            sched: its scheduler, or None.

        Raises:
            AttributeError: if called before `super().__init__()`.
            ValueError: if the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f"expected a new model name, got {name!r} twice")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """Return the given names, or all.

        Raises:
            ValueError: if a name is not registered.
        """
        known = list(self._models)
        if names is None:
            return known
        wanted = tolist_if_not(names)
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"expected models among {known}, got {unknown}")
        return wanted

    def _model_states(self) -> dict[str, dict[str, Any]]:
        """Return weights, optimiser and scheduler states by model name."""

        def state(part: Any) -> Any:
            return None if part is None else part.state_dict()

        return {
            name: {
                "state_dict": model.state_dict(),
                "optimizer": state(self._optims[name]),
                "scheduler": state(self._scheds[name]),
            }
            for name, model in self._models.items()
        }

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Save a checkpoint of every registered model in its own sub-folder.

        Args:
            epoch: number of the epoch that is done, from 0; the file says one more.
            directory: parent of the sub-folders.
            is_best: save it as `model-best.pth.tar` too.
            val_result: metric to note in the file.
            model_name: file name instead of `model.pth.tar-<epoch + 1>`.
        """
        result = None if val_result is None else float(val_result)
        for name, state in self._model_states().items():
            save_checkpoint(
                {**state, "epoch": epoch + 1, "val_result": result},
                os.path.join(directory, name),
                is_best=is_best,
                model_name=model_name,
            )

    def resume_model_if_exist(self, directory: str) -> int:
        """Load the checkpoints saved last in a folder, if every model has one.

        Returns:
            Number of epochs completed; 0 without checkpoints.
        """
        folders = {name: os.path.join(directory, name) for name in self._models}
        if not all(os.path.exists(os.path.join(f, "checkpoint")) for f in folders.values()):
            logger.info("No checkpoint found, train from scratch")
            return 0
        logger.info("Found checkpoint at %s (will resume training)", directory)
        epoch = 0
        for name, folder in folders.items():
            epoch = resume_from_checkpoint(
                folder, self._models[name], self._optims[name], self._scheds[name]
            )
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the weights of every registered model.

        Args:
            directory: parent of the models' sub-folders; empty skips loading.
            epoch: which checkpoint; None means the best.

        Raises:
            FileNotFoundError: if a file is missing.
        """
        if not directory:
            logger.info("load_model() is skipped: no folder of a trained model is given")
            return
        file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = os.path.join(directory, name, file)
            if not os.path.exists(path):
                raise FileNotFoundError(f"No model at {path}")
            checkpoint = load_checkpoint(path)
            result = checkpoint.get("val_result")
            logger.info(
                "Load %s to %s (epoch=%d%s)",
                path,
                name,
                checkpoint["epoch"],
                "" if result is None else f", val_result={result:.1f}",
            )
            self._models[name].load_state_dict(checkpoint["state_dict"])

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Switch registered models to `train`, or to `test` or `eval`.

        Raises:
            KeyError: if the mode is another.
        """
        training = {"train": True, "test": False, "eval": False}[mode]
        for name in self.get_model_names(names):
            self._models[name].train(training)

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedulers."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss: Tensor) -> None:
        """Stop at a loss that is no number.

        Raises:
            FloatingPointError: if it is infinite or NaN.
        """
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def init_writer(self, log_dir: str) -> None:
        """Have numbers written to TensorBoard's event file, from the first one on.

        Not before: importing TensorBoard takes longer than many a step.
        """
        if self._writer is None:
            self._log_dir = log_dir

    def _open_writer(self, log_dir: str) -> None:
        self._log_dir = ""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("tensorboard is not installed: no event files are written")
            return
        logger.info("Initialize tensorboard (log_dir=%s)", log_dir)
        # With the queue of 10 that is usual, a quick loop waits for whatever writes it
        self._writer = SummaryWriter(log_dir=log_dir, max_queue=1000)

    def close_writer(self) -> None:
        """Close TensorBoard's event file."""
        self._log_dir = ""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a number to TensorBoard, between `init_writer` and `close_writer`."""
        if self._log_dir:
            self._open_writer(self._log_dir)
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def _write_scalars(self, values: Mapping[str, float], global_step: int) -> None:
        """Write several numbers of one step as a single event, at a third of the cost of three.

        TensorBoard shows them as if they had been written by `write_scalar`, which is called for
        each of them if a trainer has one of its own, or another writer.
        """
        own = getattr(self.write_scalar, "__func__", None) is not TrainerBase.write_scalar
        if self._log_dir and not own:
            self._open_writer(self._log_dir)
        file = getattr(self._writer, "file_writer", None)
        if own or file is None:
            for tag, value in values.items():
                self.write_scalar(tag, value, global_step)
            return
        from torch.utils.tensorboard.summary import scalar

        whole, *others = (scalar(tag, value) for tag, value in values.items())
        for other in others:
            whole.MergeFrom(other)
        file.add_summary(whole, global_step)

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Train from an epoch, counted from 0, up to and without another."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Prepare; may move `self.start_epoch`."""

    def after_train(self) -> None:
        """Finish."""

    def before_epoch(self) -> None:
        """Prepare an epoch."""

    def after_epoch(self) -> None:
        """Finish an epoch."""

    def run_epoch(self) -> None:
        """Go once through the training data."""
        raise NotImplementedError

    def test(self) -> Any:
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `forward_backward` needs of a batch, on the device."""
        raise NotImplementedError

    def parse_batch_test(self, *args: Any, **kwargs: Any) -> Any:
        """Return images and labels of a batch, on the device."""
        raise NotImplementedError

    def forward_backward(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step on a batch (TrainerXU: two batches); return a dict of metrics."""
        raise NotImplementedError

    def model_inference(self, *args: Any, **kwargs: Any) -> Any:
        """Return logits for images."""
        raise NotImplementedError

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Clear the gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        """Compute gradients of a loss that is a number."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        """Step the optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: str | list[str] | None = None) -> None:
        """Clear gradients, compute them, step the optimisers."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)


class SimpleTrainer(TrainerBase):
    """Data, a classifier, testing, checkpoints and exact resume around the loop."""

    def __init__(self, cfg: CfgNode) -> None:
        """Check the configuration, load the data, build the model: in this order."""
        super().__init__()
        self.check_cfg(cfg)
        self.device = _device(cfg)
        self.start_epoch = self.epoch = 0
        self.max_epoch: int = cfg.OPTIM.MAX_EPOCH
        self.output_dir: str = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -math.inf
        self._random_state: dict[str, Any] | None = None
        self._cut_epoch: dict[str, Any] | None = None

    def check_cfg(self, cfg: CfgNode) -> None:
        """Refuse a configuration that the method cannot use."""

    def build_data_loader(self) -> None:
        """Set the loaders (`train_loader_u` and `val_loader` may be None) and class names."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Build and register a SimpleNet; methods override this."""
        cfg = self.cfg
        logger.info("Building model")
        model = SimpleNet(cfg, cfg.MODEL, self.num_classes)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(model, cfg.MODEL.INIT_WEIGHTS)
        model.to(self.device)
        logger.info("# params: %s", f"{count_num_param(model):,}")
        self.optim = build_optimizer(model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("model", model, self.optim, self.sched)
        self.model: nn.Module = model
        if torch.cuda.device_count() > 1 and self.device.type == "cuda":
            logger.info("Detected %d GPUs (use nn.DataParallel)", torch.cuda.device_count())
            self.model = nn.DataParallel(model)

    def extra_state(self) -> dict[str, Any]:
        """Return what a method accumulates besides its registered models, for exact resume.

        Tensors, numbers, strings, lists and dictionaries; read back by `load_extra_state`.
        """
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `extra_state` returned; tensors are on the CPU."""

    def _save_resume(self, within: dict[str, Any] | None = None) -> None:
        """Write the file for resuming after this epoch, or within it: from what `within` says."""
        scaler = getattr(self, "scaler", None)
        resume.write(
            {
                "epoch": self.epoch if within else self.epoch + 1,
                "within": within,
                "models": self._model_states(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "best_result": float(self.best_result),
                "random": resume.random_state(),
                "extra": self.extra_state(),
            },
            self.output_dir,
        )

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue exactly where the run in this folder stopped, else from its checkpoints.

        Returns:
            Number of epochs completed; 0 if there is nothing to continue from.

        Raises:
            ValueError: if the folder belongs to a run with other models.
            RuntimeError: if all its files for exact resume are damaged.
        """
        state = resume.read(directory)
        if state is None:
            return super().resume_model_if_exist(directory)
        if set(state["models"]) != set(self._models):
            raise ValueError(
                f"{directory} holds a run of the models {sorted(state['models'])}, "
                f"expected {sorted(self._models)}"
            )
        for name, saved in state["models"].items():
            self._models[name].load_state_dict(saved["state_dict"])
            for part, key in (self._optims[name], "optimizer"), (self._scheds[name], "scheduler"):
                if part is not None:
                    part.load_state_dict(saved[key])
        scaler = getattr(self, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        if os.path.abspath(directory) == os.path.abspath(self.output_dir):
            # Elsewhere the best checkpoint would be missing from this run's folder.
            self.best_result = state["best_result"]
        self.load_extra_state(state["extra"])
        # Put back before the epoch, not now: until then a method prepares itself with the same
        # random numbers as in the run that was stopped.
        if within := state.get("within"):  # earlier files have none
            self._cut_epoch = {**within, "random": state["random"]}
        else:
            self._random_state = state["random"]
        self.epoch = state["epoch"] - 1
        return int(state["epoch"])

    def train(self) -> None:  # type: ignore[override]
        """Train for the configured epochs, resuming if there is something to resume."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resume if the folder holds a run, open TensorBoard, start the clock."""
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def before_epoch(self) -> None:
        """Put back the random states of a resumed run."""
        if self._random_state is not None:
            resume.set_random_state(self._random_state)
            self._random_state = None

    def after_train(self) -> None:
        """Test the last or the best model."""
        logger.info("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                logger.info("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                logger.info("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.time() - self.time_start))
        logger.info("Elapsed: %s", elapsed)
        self.close_writer()

    def after_epoch(self) -> None:
        """Validate if models are selected by it; save checkpoints and the file for resuming."""
        cfg, done = self.cfg, self.epoch + 1
        if not cfg.TEST.NO_TEST and cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(
                    self.epoch,
                    self.output_dir,
                    val_result=result,
                    model_name="model-best.pth.tar",
                )
        frequency = cfg.TRAIN.CHECKPOINT_FREQ
        if done == self.max_epoch or (frequency > 0 and done % frequency == 0):
            self.save_model(self.epoch, self.output_dir)
        self._save_resume()

    @torch.no_grad()
    def test(self, split: str | None = None) -> Any:
        """Evaluate on `val`, if there is such data, or `test`.

        Args:
            split: which; by default `TEST.SPLIT`.

        Returns:
            The evaluator's first metric: accuracy in percent.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        loader = self.test_loader
        if (split or self.cfg.TEST.SPLIT) == "val" and self.val_loader is not None:
            split, loader = "val", self.val_loader
        else:
            split = "test"
        logger.info("Evaluate on the *%s* set", split)
        for batch in tqdm(loader, disable=None):
            image, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(image), label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: Any) -> Any:
        """Return logits for images."""
        return self.model(input)

    def parse_batch_test(self, batch: Mapping[str, Any]) -> Any:
        """Return images and labels of a batch, on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Return the learning rate of the first model's first parameter group."""
        name = self.get_model_names(names)[0]
        lr: float = self._optims[name].param_groups[0]["lr"]
        return lr


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled batches, side by side."""

    def run_epoch(self) -> None:
        """Go through as many batches as `TRAIN.COUNT_ITER` says, starting over where needed.

        Raises:
            ValueError: if `TRAIN.COUNT_ITER` is unknown or there is no unlabelled data.
        """
        loader_x, loader_u = self.train_loader_x, self.train_loader_u
        if loader_u is None:
            raise ValueError("expected a data set with unlabelled pictures, got none")
        lengths = {
            "train_x": len(loader_x),
            "train_u": len(loader_u),
            "smaller_one": min(len(loader_x), len(loader_u)),
        }
        if self.cfg.TRAIN.COUNT_ITER not in lengths:
            raise ValueError(
                f"TRAIN.COUNT_ITER must be in {list(lengths)}, got {self.cfg.TRAIN.COUNT_ITER!r}"
            )
        self.set_model_mode("train")
        self.num_batches = lengths[self.cfg.TRAIN.COUNT_ITER]
        progress = _Progress(self)
        endless_x, endless_u = (
            _endless(loader_x, iter(loader_x)),
            _endless(loader_u, iter(loader_u)),
        )
        pairs = islice(zip(endless_x, endless_u, strict=False), self.num_batches)
        for self.batch_idx, batches in enumerate(pairs):
            progress.batch_arrived()
            progress.step_done(self.forward_backward(*batches))

    def parse_batch_train(self, batch_x: Mapping[str, Any], batch_u: Mapping[str, Any]) -> Any:
        """Return labelled images, labels and unlabelled images, on the device."""
        return (
            batch_x["img"].to(self.device),
            batch_x["label"].to(self.device),
            batch_u["img"].to(self.device),
        )


class TrainerX(SimpleTrainer):
    """Trains on labelled batches."""

    def run_epoch(self) -> None:
        """Go once through the labelled training data, or through what is left of it.

        A stop (ctrl-C, and every signal for which there is a handler) waits for the end of a step,
        after which, as after every `TRAIN.CHECKPOINT_STEPS` steps, the file for resuming is
        written. It is also written before a validation, which may take longer than the epoch.
        """
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        every = self.cfg.TRAIN.CHECKPOINT_STEPS
        validates = not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val"
        with PutOff() as stop:
            at_start, number, batches = self._batches_left()
            progress = _Progress(self)
            for self.batch_idx, batch in enumerate(batches, number):
                progress.batch_arrived()
                progress.step_done(self.forward_backward(batch))
                done = self.batch_idx + 1
                last = done == self.num_batches
                if stop.waiting or (validates if last else every and done % every == 0):
                    self._save_resume({"batches": done, "random_at_start": at_start})
                    if stop.waiting:
                        logger.info("Stopped after batch %d; start again to go on", done)
                stop.deliver()

    def _batches_left(self) -> tuple[dict[str, Any], int, Iterator[Any]]:
        """The random state at the start of the epoch, how many batches are done, and the others.

        Batches that are done are read once more and let go. So the loader, its sampler and its
        workers draw what they drew, and then come to what they would have drawn.
        """
        cut, self._cut_epoch = self._cut_epoch, None
        if cut is None:
            return resume.random_state(), 0, iter(self.train_loader_x)
        number, at_start = cut["batches"], cut["random_at_start"]
        resume.set_random_state(at_start)
        all_done = number == self.num_batches
        batches = iter(()) if all_done else iter(self.train_loader_x)
        for _ in islice(batches, number):
            pass
        resume.set_random_state(cut["random"])
        return at_start, number, batches

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Any:
        """Return images, labels and domains, on the device."""
        return (
            batch["img"].to(self.device),
            batch["label"].to(self.device),
            batch["domain"].to(self.device),
        )


class _Progress:
    """Times and metrics of an epoch: a line every `TRAIN.PRINT_FREQ` batches, and scalars."""

    def __init__(self, trainer: TrainerX | TrainerXU) -> None:
        self.trainer = trainer
        self.losses = MetricMeter()
        self.batch_time = AverageMeter()
        self.data_time = AverageMeter()
        self.since = time.perf_counter()

    def batch_arrived(self) -> None:
        self.data_time.update(time.perf_counter() - self.since)

    def step_done(self, metrics: dict[str, Any] | None) -> None:
        trainer = self.trainer
        self.batch_time.update(time.perf_counter() - self.since)
        self.losses.update(metrics)
        frequency = trainer.cfg.TRAIN.PRINT_FREQ
        if (trainer.batch_idx + 1) % frequency == 0 or trainer.num_batches < frequency:
            self._log()
        step = trainer.epoch * trainer.num_batches + trainer.batch_idx
        averages = {f"train/{name}": meter.avg for name, meter in self.losses.meters.items()}
        trainer._write_scalars({**averages, "train/lr": trainer.get_current_lr()}, step)
        self.since = time.perf_counter()

    def _log(self) -> None:
        trainer, batch_time, data_time = self.trainer, self.batch_time, self.data_time
        epochs_left = trainer.max_epoch - trainer.epoch - 1
        batches_left = trainer.num_batches * (epochs_left + 1) - trainer.batch_idx - 1
        logger.info(
            "epoch [%d/%d] batch [%d/%d] time %.3f (%.3f) data %.3f (%.3f) %s lr %.4e eta %s",
            trainer.epoch + 1,
            trainer.max_epoch,
            trainer.batch_idx + 1,
            trainer.num_batches,
            batch_time.val,
            batch_time.avg,
            data_time.val,
            data_time.avg,
            self.losses,
            trainer.get_current_lr(),
            datetime.timedelta(seconds=int(batch_time.avg * batches_left)),
        )


def _endless(loader: Iterable[Any], first: Iterator[Any]) -> Iterator[Any]:
    """Yield batches for ever; the first pass has begun already."""
    yield from first
    while True:
        yield from loader


def _device(cfg: CfgNode) -> torch.device:
    if cfg.USE_CUDA and torch.cuda.is_available():
        return torch.device("cuda")
    if cfg.USE_CUDA and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
