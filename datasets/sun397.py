"""SUN397 (Xiao et al. 2010): scenes."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class SUN397(Benchmark):
    """397 classes."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
    raw = ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
    sizes = Sizes(397, train=15_880, val=3_970, test=19_850)
