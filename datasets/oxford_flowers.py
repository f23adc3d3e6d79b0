"""Oxford 102 Flower (Nilsback and Zisserman 2008)."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class OxfordFlowers(Benchmark):
    """102 classes."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    template = "a photo of a {}, a type of flower."
    raw = ("imagelabels.mat", "cat_to_name.json")
    sizes = Sizes(102, train=4_093, val=1_633, test=2_463)
