"""ImageNet-R (Hendrycks et al. 2021): art, toys, sculptures and more."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import ImageNetVariant, Sizes


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetVariant):
    """200 classes, tests alone."""

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    sizes = Sizes(200, train=None, val=None, test=30_000)
