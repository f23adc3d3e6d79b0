"""Oxford 102 Flower (Nilsback and Zisserman 2008)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import splits
from promptclip.benchmark import Benchmark, Sizes
from promptclip.few_shot import Picture
from promptclip.files import read_json_mapping


@DATASET_REGISTRY.register()
class OxfordFlowers(Benchmark):
    """102 classes."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    template = "a photo of a {}, a type of flower."
    raw = ("imagelabels.mat", "cat_to_name.json")
    sizes = Sizes(102, train=4_093, val=1_633, test=2_463)

    def make_split(self, seed: int) -> splits.Split:
        """`imagelabels.mat` has the labels of the pictures in their order, both from 1."""
        names = read_json_mapping(Path(self.dataset_dir, "cat_to_name.json"))
        labels = splits.read_mat(Path(self.dataset_dir, "imagelabels.mat"), "labels").ravel()
        self.check_known(map(str, labels), names, "imagelabels.mat")
        pictures = (
            Picture(f"image_{number:05}.jpg", int(label) - 1, names[str(label)])
            for number, label in enumerate(labels, 1)
        )
        return splits.three_parts(pictures, seed)
