"""EuroSAT (Helber et al. 2019): land use from satellites."""

from collections.abc import Mapping

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class EuroSAT(Benchmark):
    """10 classes."""

    dataset_dir = "eurosat"
    image_dir = "2750"
    split_file = "split_zhou_EuroSAT.json"
    template = "a centered satellite photo of {}."
    sizes = Sizes(10, train=13_500, val=5_400, test=8_100)
    folder_names: Mapping[str, str | None] = {
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    }
