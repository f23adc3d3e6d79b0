"""Loaders of batches for training, validation and testing."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from dassl.data.datasets import build_dataset
from dassl.data.datasets.base_dataset import Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.data.transforms.usual import RESAMPLING, Compose, Normalize, Resize, ToTensor
from dassl.utils import read_image

logger = logging.getLogger(__name__)


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Dataset[Any]] | None = None,
) -> DataLoader[Any]:
    """Build a loader.

    Args:
        cfg: the configuration.
        sampler_type: name of a sampler.
        data_source: pictures.
        batch_size: pictures in a batch. Training drops an incomplete last batch, unless it is
            the only one.
        n_domain: domains in a batch (RandomDomainSampler).
        n_ins: pictures per class in a batch (RandomClassSampler).
        tfm: a transform, or several for several views.
        is_train: for training.
        dataset_wrapper: class to use instead of DatasetWrapper.

    Returns:
        A loader of dictionaries (see DatasetWrapper).

    Raises:
        ValueError: if there are no pictures.
    """
    if not data_source:
        raise ValueError("expected pictures to load, got none")
    sampler = build_sampler(
        sampler_type,
        cfg=cfg,
        data_source=data_source,
        batch_size=batch_size,
        n_domain=n_domain,
        n_ins=n_ins,
    )
    wrapper = dataset_wrapper or DatasetWrapper
    return DataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """The data set of a configuration and its loaders."""

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Callable[..., Dataset[Any]] | None = None,
    ) -> None:
        """Load the data set and build the loaders.

        Args:
            cfg: the configuration.
            custom_tfm_train: transform for training instead of the configured one.
            custom_tfm_test: transform for testing instead of the configured one.
            dataset_wrapper: class to use instead of DatasetWrapper.
        """
        dataset = build_dataset(cfg)
        tfm_train = self._transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = self._transform(cfg, custom_tfm_test, is_train=False)

        def training_loader(source: Sequence[Datum], options: CfgNode) -> DataLoader[Any]:
            return build_data_loader(
                cfg,
                sampler_type=options.SAMPLER,
                data_source=source,
                batch_size=options.BATCH_SIZE,
                n_domain=options.N_DOMAIN,
                n_ins=options.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def testing_loader(source: Sequence[Datum] | None) -> DataLoader[Any]:
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=source,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        train_x, train_u = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TRAIN_U
        self.dataset = dataset
        self.train_loader_x = training_loader(dataset.train_x, train_x)
        self.train_loader_u: DataLoader[Any] | None = None
        if dataset.train_u:
            options = train_x if train_u.SAME_AS_X else train_u
            self.train_loader_u = training_loader(dataset.train_u, options)
        self.val_loader = testing_loader(dataset.val) if dataset.val else None
        self.test_loader = testing_loader(dataset.test)
        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @staticmethod
    def _transform(cfg: CfgNode, custom: Any, *, is_train: bool) -> Any:
        if custom is None:
            return build_transform(cfg, is_train=is_train)
        logger.info("* Using custom transform for %s", "training" if is_train else "testing")
        return custom

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @property
    def num_source_domains(self) -> int:
        """Number of domains to learn from."""
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class names by label."""
        return self._lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Log a small table of names and counts."""
        dataset = self.dataset
        rows = {
            "Dataset": cfg.DATASET.NAME,
            "Source": cfg.DATASET.SOURCE_DOMAINS,
            "Target": cfg.DATASET.TARGET_DOMAINS,
            "# classes": f"{self.num_classes:,}",
            "# train_x": f"{len(dataset.train_x):,}",
            "# train_u": dataset.train_u and f"{len(dataset.train_u):,}",
            "# val": dataset.val and f"{len(dataset.val):,}",
            "# test": f"{len(dataset.test or []):,}",
        }
        lines = [f"{name:<9}  {value}" for name, value in rows.items() if value]
        rule = f"{'-' * 9}  {'-' * (max(map(len, lines)) - 11)}"
        logger.info("%s", "\n".join([rule, *lines, rule]))


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Reads and transforms pictures."""

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Any = None,
        is_train: bool = False,
    ) -> None:
        """Wrap a list of pictures.

        Args:
            cfg: the configuration.
            data_source: pictures.
            transform: a transform; several give several views; None leaves PIL images.
            is_train: apply the transform `DATALOADER.K_TRANSFORMS` times.

        Raises:
            ValueError: if several copies are wanted without a transform.
        """
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"cannot make {self.k_tfm} copies of an image without a transform")
        mode = RESAMPLING[cfg.INPUT.INTERPOLATION]
        steps: list[Callable[[Any], Any]] = [Resize(cfg.INPUT.SIZE, mode), ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD))
        self.to_tensor = Compose(steps)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return `label`, `domain`, `impath`, `index`, `img` (`img2`, ...) and maybe `img0`."""
        item = self.data_source[idx]
        output = {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
        }
        image = read_image(item.impath)
        views = self.transform if isinstance(self.transform, list | tuple) else [self.transform]
        for number, transform in enumerate(views, start=1):
            output["img" if number == 1 else f"img{number}"] = self._view(transform, image)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _view(self, transform: Any, image: Any) -> Any:
        if transform is None:
            return image
        copies = [transform(image) for _ in range(self.k_tfm)]
        return copies[0] if self.k_tfm == 1 else copies
