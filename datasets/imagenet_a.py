"""ImageNet-A (Hendrycks et al. 2021): pictures that networks get wrong."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import ImageNetVariant, Sizes


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    """200 classes, tests alone."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    sizes = Sizes(200, train=None, val=None, test=7_500)
