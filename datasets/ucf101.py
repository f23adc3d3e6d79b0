"""UCF101 (Soomro et al. 2012): the middle frames of videos of actions."""

import re

from dassl.data.datasets import DATASET_REGISTRY

from promptclip import splits
from promptclip.benchmark import Benchmark, Sizes
from promptclip.few_shot import Picture


@DATASET_REGISTRY.register()
class UCF101(Benchmark):
    """101 classes."""

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    template = "a photo of a person doing {}."
    raw = (
        "ucfTrainTestlist/classInd.txt",
        "ucfTrainTestlist/trainlist01.txt",
        "ucfTrainTestlist/testlist01.txt",
    )
    sizes = Sizes(101, train=7_639, val=1_898, test=3_783)

    def make_split(self, seed: int) -> splits.Split:
        """The first of the data set's three partitions; "ApplyLipstick" is "Apply_Lipstick"."""
        lists = "ucfTrainTestlist"
        labels = {name: int(label) - 1 for label, name in self.rows(f"{lists}/classInd.txt", 2)}

        def pictures(part: str) -> list[Picture]:
            file = f"{lists}/{part}list01.txt"
            videos = [row[0].partition("/") for row in self.rows(file, 1)]
            self.check_known([action for action, *_ in videos], labels, file)
            return [
                Picture(f"{name}/{video.replace('.avi', '.jpg')}", labels[action], name)
                for action, _, video in videos
                for name in ["_".join(re.findall("[A-Z][^A-Z]*", action))]
            ]

        return splits.with_validation(pictures("train"), pictures("test"), seed)
