"""FGVC-Aircraft (Maji et al. 2013): variants of aircraft."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from promptclip.benchmark import Benchmark, Sizes
from promptclip.errors import UserError
from promptclip.few_shot import Picture


@DATASET_REGISTRY.register()
class FGVCAircraft(Benchmark):
    """100 classes; split and labels come with the data set."""

    dataset_dir = "fgvc_aircraft"
    image_dir = "images"
    split_origin = "data set"
    template = "a photo of a {}, a type of aircraft."
    needs = (
        "images",
        "variants.txt",
        *(f"images_variant_{p}.txt" for p in ("train", "val", "test")),
    )
    sizes = Sizes(100, train=3_334, val=3_333, test=3_333)

    def read_split(self) -> tuple[list[Picture], list[Picture], list[Picture]]:
        """A line of a part's list is `<picture number> <variant>`."""
        labels = {name: label for label, name in enumerate(self._lines("variants.txt"))}
        return self._part("train", labels), self._part("val", labels), self._part("test", labels)

    def _part(self, part: str, labels: dict[str, int]) -> list[Picture]:
        rows = [line.partition(" ") for line in self._lines(f"images_variant_{part}.txt")]
        for number, _, variant in rows:
            if variant not in labels or not number.isdigit():
                raise UserError(
                    f"{self.dataset_dir}/images_variant_{part}.txt: expected a picture number and "
                    f"a name of variants.txt, got {number!r} {variant!r}"
                )
        return [Picture(f"{number}.jpg", labels[name], name) for number, _, name in rows]

    def _lines(self, file: str) -> list[str]:
        path = Path(self.dataset_dir, file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); get it anew") from error
        return [line.strip() for line in lines if line.strip()]
