"""Oxford-IIIT Pet (Parkhi et al. 2012): breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes


@DATASET_REGISTRY.register()
class OxfordPets(Benchmark):
    """37 classes."""

    dataset_dir = "oxford_pets"
    image_dir = "images"
    split_file = "split_zhou_OxfordPets.json"
    template = "a photo of a {}, a type of pet."
    raw = ("annotations/trainval.txt", "annotations/test.txt")
    sizes = Sizes(37, train=2_944, val=736, test=3_669)
