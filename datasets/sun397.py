"""SUN397 (Xiao et al. 2010): scenes."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import splits
from promptclip.benchmark import Benchmark, Sizes
from promptclip.few_shot import Picture


@DATASET_REGISTRY.register()
class SUN397(Benchmark):
    """397 classes."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
    raw = ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
    sizes = Sizes(397, train=15_880, val=3_970, test=19_850)

    def make_split(self, seed: int) -> splits.Split:
        """The first of the data set's ten partitions, and validation pictures out of its training.

        Classes are `/a/abbey` or `/a/athletic_field/outdoor`, which is an "outdoor athletic_field".
        """
        classes = [row[0].strip("/") for row in self.rows("ClassName.txt", 1)]
        labels = {name: label for label, name in enumerate(classes)}

        def pictures(file: str) -> list[Picture]:
            paths = [row[0].strip("/") for row in self.rows(file, 1)]
            folders = [path.rpartition("/")[0] for path in paths]
            self.check_known(folders, labels, file)
            return [
                Picture(path, labels[folder], " ".join(reversed(folder.split("/")[1:])))
                for path, folder in zip(paths, folders, strict=True)
            ]

        return splits.with_validation(pictures("Training_01.txt"), pictures("Testing_01.txt"), seed)
