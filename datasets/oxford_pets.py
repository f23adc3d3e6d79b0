"""Oxford-IIIT Pet (Parkhi et al. 2012): breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark


@DATASET_REGISTRY.register()
class OxfordPets(Benchmark):
    """37 classes."""

    dataset_dir = "oxford_pets"
    image_dir = "images"
    split_file = "split_zhou_OxfordPets.json"
    template = "a photo of a {}, a type of pet."
