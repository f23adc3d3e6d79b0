"""ImageNetV2 (Recht et al. 2019), matched frequency: a second test set."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import ImageNetVariant, Sizes


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """1,000 classes, tests alone; a folder is called by the label."""

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    sizes = Sizes(1_000, train=None, val=None, test=10_000)

    def order(self, names: list[str], listing: list[str]) -> dict[str, str]:
        """Folder 0 is the first line of `classnames.txt`, and so on."""
        return {str(label): name for label, name in enumerate(names)}
