"""ImageNet (Deng et al. 2009) as CoOp uses it: the validation set is the test set."""

from __future__ import annotations

import logging
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import (
    IMAGENET_SHARED_NAMES,
    Benchmark,
    Sizes,
    list_class_folders,
    read_classnames,
)
from promptclip.errors import UserError
from promptclip.few_shot import Picture

log = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class ImageNet(Benchmark):
    """1,000 classes; a class is a folder of `images/train`, its name stands in `classnames.txt`."""

    dataset_dir = "imagenet"
    image_dir = "images"
    split_origin = "data set"
    needs = ("classnames.txt", "images/train", "images/val")
    shared_names = IMAGENET_SHARED_NAMES
    sizes = Sizes(1_000, train=1_281_167, val=None, test=50_000)

    def read_split(self) -> tuple[list[Picture], None, list[Picture]]:
        """List the folders; labels follow the sorted names of the training folders."""
        if Path(self.dataset_dir, "preprocessed.pkl").exists():
            log.info(
                "preprocessed.pkl is not read: its order is that of the disk it was made on, and "
                "a pickle can run code. CoOp's few-shot pickles are used where there are any"
            )
        classnames = read_classnames(Path(self.dataset_dir, "classnames.txt"))
        train, val = (
            list_class_folders(
                Path(self.image_dir, part), Path(self.dataset_dir, f"listing_{part}.json")
            )
            for part in ("train", "val")
        )
        for folder in [*train, *val]:
            if folder not in classnames or folder not in train:
                raise UserError(
                    f"{self.image_dir}: the class folder {folder!r} must be in images/train and "
                    "have a line in classnames.txt"
                )
        if absent := [folder for folder in classnames if folder not in train]:
            raise UserError(
                f"{self.image_dir}/train: {len(absent)} of the {len(classnames)} classes of "
                f"classnames.txt have no folder, the first is {absent[0]!r}; copy them there, or "
                "take their lines out of classnames.txt if you mean to do without"
            )
        labels = {folder: label for label, folder in enumerate(train)}

        def pictures(part: str, listing: dict[str, list[str]]) -> list[Picture]:
            return [
                Picture(f"{part}/{folder}/{name}", labels[folder], classnames[folder])
                for folder, names in listing.items()
                for name in names
            ]

        return pictures("train", train), None, pictures("val", val)
