"""Food-101 (Bossard et al. 2014): dishes."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class Food101(Benchmark):
    """101 classes."""

    dataset_dir = "food-101"
    image_dir = "images"
    split_file = "split_zhou_Food101.json"
    template = "a photo of {}, a type of food."
    sizes = Sizes(101, train=50_500, val=20_200, test=30_300)
