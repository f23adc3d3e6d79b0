"""Caltech-101 (Fei-Fei et al. 2004): objects."""

from collections.abc import Mapping

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class Caltech101(Benchmark):
    """100 classes; the background and the easy faces are left out, as in CoOp."""

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    sizes = Sizes(100, train=4_128, val=1_649, test=2_465)
    folder_names: Mapping[str, str | None] = {
        "BACKGROUND_Google": None,
        "Faces_easy": None,
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
    }
