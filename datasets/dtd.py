"""Describable Textures (Cimpoi et al. 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class DescribableTextures(Benchmark):
    """47 classes."""

    dataset_dir = "dtd"
    image_dir = "images"
    split_file = "split_zhou_DescribableTextures.json"
    template = "{} texture."
    sizes = Sizes(47, train=2_820, val=1_128, test=1_692)
