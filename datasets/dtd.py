"""Describable Textures (Cimpoi et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark


@DATASET_REGISTRY.register()
class DescribableTextures(Benchmark):
    """47 classes."""

    dataset_dir = "dtd"
    image_dir = "images"
    split_file = "split_zhou_DescribableTextures.json"
    template = "{} texture."
