"""ImageNet-A (Hendrycks et al. 2021): pictures that networks get wrong."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    """200 classes, tests alone."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
