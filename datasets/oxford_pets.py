"""Oxford-IIIT Pet (Parkhi et al. 2012): breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import splits
from promptclip.benchmark import Benchmark, Sizes
from promptclip.few_shot import Picture


@DATASET_REGISTRY.register()
class OxfordPets(Benchmark):
    """37 classes."""

    dataset_dir = "oxford_pets"
    image_dir = "images"
    split_file = "split_zhou_OxfordPets.json"
    template = "a photo of a {}, a type of pet."
    raw = ("annotations/trainval.txt", "annotations/test.txt")
    sizes = Sizes(37, train=2_944, val=736, test=3_669)

    def make_split(self, seed: int) -> splits.Split:
        """The data set's own test list, and validation pictures out of the other one."""
        return splits.with_validation(self._list("trainval"), self._list("test"), seed)

    def _list(self, part: str) -> list[Picture]:
        """A line is `<breed>_<number> <label from 1> <species> <breed of the species>`."""
        rows = self.rows(f"annotations/{part}.txt", 2)
        return [
            Picture(f"{name}.jpg", int(label) - 1, name.rpartition("_")[0].lower())
            for name, label, *_ in rows
        ]
