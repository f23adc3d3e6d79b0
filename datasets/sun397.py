"""SUN397 (Xiao et al. 2010): scenes."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark


@DATASET_REGISTRY.register()
class SUN397(Benchmark):
    """397 classes."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
