"""Stanford Cars (Krause et al. 2013): makes and models."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import splits
from promptclip.benchmark import Benchmark, Sizes
from promptclip.few_shot import Picture


@DATASET_REGISTRY.register()
class StanfordCars(Benchmark):
    """196 classes; the paths in the split file begin with the name of the picture folder."""

    dataset_dir = "stanford_cars"
    split_file = "split_zhou_StanfordCars.json"
    needs = ("split_zhou_StanfordCars.json", "cars_train", "cars_test")
    raw = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
    sizes = Sizes(196, train=6_509, val=1_635, test=8_041)

    def make_split(self, seed: int) -> splits.Split:
        """The data set's own test part; the labels of it are a file of their own."""
        folder = Path(self.dataset_dir)
        meta = splits.read_mat(folder / "devkit/cars_meta.mat", "class_names").ravel()
        names = {label: _year_first(str(name[0])) for label, name in enumerate(meta)}

        def pictures(part: str, file: str) -> list[Picture]:
            cars = splits.read_mat(folder / file, "annotations").ravel()
            labels = [int(car["class"].item()) - 1 for car in cars]
            self.check_known(labels, names, file)
            return [
                Picture(f"{part}/{car['fname'].item()}", label, names[label])
                for car, label in zip(cars, labels, strict=True)
            ]

        trainval = pictures("cars_train", "devkit/cars_train_annos.mat")
        test = pictures("cars_test", "cars_test_annos_withlabels.mat")
        return splits.with_validation(trainval, test, seed)


def _year_first(name: str) -> str:
    """CoOp's form of a name: "AM General Hummer SUV 2000" is "2000 AM General Hummer SUV"."""
    rest, _, year = name.rpartition(" ")
    return f"{year} {rest}".strip()
