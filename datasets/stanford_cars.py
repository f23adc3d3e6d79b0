"""Stanford Cars (Krause et al. 2013): makes and models."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class StanfordCars(Benchmark):
    """196 classes; the paths in the split file begin with the name of the picture folder."""

    dataset_dir = "stanford_cars"
    split_file = "split_zhou_StanfordCars.json"
    needs = ("split_zhou_StanfordCars.json", "cars_train", "cars_test")
    raw = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")
    sizes = Sizes(196, train=6_509, val=1_635, test=8_041)
