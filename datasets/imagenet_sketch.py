"""ImageNet-Sketch (Wang et al. 2019): drawings of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import ImageNetVariant, Sizes


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    """1,000 classes, tests alone."""

    dataset_dir = "imagenet-sketch"
    image_dir = "images"
    sizes = Sizes(1_000, train=None, val=None, test=50_889)
