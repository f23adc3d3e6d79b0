"""Oxford 102 Flower (Nilsback and Zisserman 2008)."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark


@DATASET_REGISTRY.register()
class OxfordFlowers(Benchmark):
    """102 classes."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    template = "a photo of a {}, a type of flower."
