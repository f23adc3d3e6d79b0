"""Where the public benchmarks come from: what can be fetched, and what has to be got by hand.

Layouts, and the places of CoOp's own files, are those of CoOp's DATASETS.md.
"""

from __future__ import annotations

from dataclasses import dataclass

# When what is said of links was true. No page could be opened where this was written: it comes from
# torchvision 0.29, from the authors' pages as archived, and from the issue threads that are named.
# Where the sizes are from stands in docs/data.md.
DATED = "November 2026"

ARCHIVES = (".tar", ".tgz", ".tar.gz", ".zip")

MIRROR = (
    "A copy by the authors of PromptKD has all benchmarks but ImageNet, with their split files: "
    "https://huggingface.co/datasets/zhengli97/prompt_learning_dataset. It is a third party's, "
    "without published checksums: see what `promptclip data check --deep` says of it."
)
CLASSNAMES = "https://drive.google.com/file/d/1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF/view"


@dataclass(frozen=True)
class Download:
    """A benchmark that torchvision can fetch.

    Attributes:
        torchvision: its class in `torchvision.datasets`.
        folder: what the class leaves, below its root, that CoOp calls the benchmark's folder.
        megabytes: of the archives.
        archive: URL and MD5 of the archive, where the class itself has no checksum or no TLS.
    """

    torchvision: str
    folder: str
    megabytes: int
    archive: tuple[str, str] | None = None


@dataclass(frozen=True)
class Source:
    """Where a benchmark comes from.

    Attributes:
        page: of its authors.
        split: the place of CoOp's split file; empty if the benchmark needs none.
        download: how torchvision fetches the pictures; None if that has to be done by hand.
        steps: what to do by hand, in the benchmark's folder.
        links: what is known of the links.
        also_called: folders in which others keep it.
    """

    page: str
    split: str = ""
    download: Download | None = None
    steps: tuple[str, ...] = ()
    links: str = ""
    also_called: tuple[str, ...] = ()


def _drive(file: str) -> str:
    return f"https://drive.google.com/file/d/{file}/view"


_NAMES_OF_IMAGENET = f"Copy classnames.txt from imagenet/, or get CoOp's: {CLASSNAMES}"

SOURCES: dict[str, Source] = {
    "Caltech101": Source(
        "https://data.caltech.edu/records/mzrjq-6wc02",
        split=_drive("1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
        download=Download("Caltech101", "caltech101", 137),
        links="CoOp's link to www.vision.caltech.edu is an old one; torchvision has the new place.",
        also_called=("caltech101",),
    ),
    "OxfordPets": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        split=_drive("1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
        download=Download("OxfordIIITPet", "oxford-iiit-pet", 811),
        links="If the link fails, the same files have been at thor.robots.ox.ac.uk/~vgg/data/pets/ "
        "(keras-io issue 1200).",
        also_called=("oxford-iiit-pet", "pets"),
    ),
    "OxfordFlowers": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        split=_drive("1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
        download=Download("Flowers102", "flowers-102", 345),
        links="cat_to_name.json is needed to build a split alone: "
        + _drive("1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0"),
        also_called=("flowers-102", "flowers102", "flowers"),
    ),
    "Food101": Source(
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        split=_drive("1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
        download=Download(
            "Food101",
            "food-101",
            4996,
            archive=(
                "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "85eeb15f3717b99a5da872d97d918f87",
            ),
        ),
        links="torchvision has the same address without TLS, which is not used.",
        also_called=("food101",),
    ),
    "FGVCAircraft": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        download=Download(
            "FGVCAircraft",
            "fgvc-aircraft-2013b/data",
            2753,
            archive=(
                "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/"
                "fgvc-aircraft-2013b.tar.gz",
                "d4acdd33327262359767eeaa97a4f732",
            ),
        ),
        links="torchvision has no checksum for it. The one used here is the one on which the "
        "downloaders of several public projects agree.",
        also_called=("fgvc-aircraft-2013b", "aircraft"),
    ),
    "DescribableTextures": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        split=_drive("1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
        download=Download("DTD", "dtd/dtd", 625),
        also_called=("dtd-r1.0.1",),
    ),
    "EuroSAT": Source(
        "https://github.com/phelber/EuroSAT",
        split=_drive("1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
        download=Download("EuroSAT", "eurosat", 94),
        links="CoOp's link to madm.dfki.de is an old one; torchvision has a copy of the same file.",
        also_called=("EuroSAT_RGB",),
    ),
    "StanfordCars": Source(
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        split=_drive("1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
        steps=(
            "Get the pictures, 2.0 GB: cars_train/00001.jpg ... 08144.jpg and "
            "cars_test/00001.jpg ... 08041.jpg. Copies nest them: move cars_train/cars_train/ up.",
            "To build a split without CoOp's file, also get devkit/ and "
            "cars_test_annos_withlabels.mat; the devkit's own cars_test_annos.mat has no labels.",
        ),
        links="The official links have been dead since 2023, and torchvision cannot fetch it. Its "
        "issue 7545 names copies of the pictures, the devkit and the test labels.",
        also_called=("cars",),
    ),
    "SUN397": Source(
        "https://vision.princeton.edu/projects/2010/SUN/",
        split=_drive("1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
        steps=(
            "Get SUN397.tar.gz, 39 GB, MD5 8ca2778205c41d23104230ba66911c7a as torchvision has "
            "it, and unpack it here: SUN397/a/abbey/sun_*.jpg and so on.",
            "A copy with other folders (train/ and test/, or classes without the first letter) "
            "must be brought into that form.",
            "To build a split without CoOp's file, also unpack Partitions.zip here: ClassName.txt, "
            "Training_01.txt, Testing_01.txt.",
        ),
        links="The official links of pictures and partitions were reported dead in 2025 (CoOp "
        "issue 90, Tip-Adapter issue 36). torchvision still names the same dead link.",
    ),
    "UCF101": Source(
        "https://www.crcv.ucf.edu/data/UCF101.php",
        split=_drive("1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
        steps=(
            "Get UCF-101-midframes.zip, the middle frames that CoOp's authors took out of the "
            f"videos, and unpack it here: {_drive('10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O')}",
            "To build a split without CoOp's file, also unpack UCF101TrainTestSplits-Recognition"
            "Task.zip of the authors' page here: ucfTrainTestlist/.",
        ),
        links="Google Drive has no published checksum for the file.",
    ),
    "ImageNet": Source(
        "https://image-net.org/download.php",
        steps=(
            "Log in at image-net.org (an account of a university or company is asked for) and get, "
            "for ILSVRC 2012, ILSVRC2012_img_train.tar (138 GB, MD5 1d675b47d978889d74fa0da5fadfb"
            "00e), ILSVRC2012_img_val.tar (6.3 GB, MD5 29b22e2961454d5413ddabcf34fc5622) and "
            "ILSVRC2012_devkit_t12.tar.gz into images/ here.",
            "Unpack them with torchvision, which checks the sums and sorts the validation pictures "
            'into class folders: python -c "from torchvision.datasets import ImageNet as I; '
            "I('images', 'train'); I('images', 'val')\"",
            f"Put CoOp's classnames.txt here: {CLASSNAMES}. Another list changes the results.",
        ),
        links="ImageNet may not be passed on, so there is no other place to point to. A copy that "
        "you have can be linked: images/train and images/val.",
        also_called=("ILSVRC2012", "imagenet1k", "imagenet-1k"),
    ),
    "ImageNetV2": Source(
        "https://github.com/modestyachts/ImageNetV2",
        steps=(
            "Get imagenetv2-matched-frequency.tar.gz from its authors' "
            "https://huggingface.co/datasets/vaishaal/ImageNetV2 and unpack it here: "
            "imagenetv2-matched-frequency-format-val/0 ... 999. One with n* folders is another "
            "version.",
            _NAMES_OF_IMAGENET,
        ),
        links="CoOp's link to Amazon S3 has been forbidden since 2023 (ImageNetV2 issue 12).",
        also_called=("imagenet-v2",),
    ),
    "ImageNetSketch": Source(
        "https://github.com/HaohanWang/ImageNet-Sketch",
        steps=(
            "Get the zip, 7.8 GB, from the link on the authors' page (Google Drive) and unpack it "
            "here; its folder of 1,000 n* folders must be called images/.",
            _NAMES_OF_IMAGENET,
        ),
        links="It has 50,889 pictures, not the 50,000 of its page (ImageNet-Sketch issue 1).",
        also_called=("sketch",),
    ),
    "ImageNetA": Source(
        "https://github.com/hendrycks/natural-adv-examples",
        steps=(
            "Get https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar and unpack it here: "
            "imagenet-a/n*/.",
            _NAMES_OF_IMAGENET,
        ),
        also_called=("imagenet-a",),
    ),
    "ImageNetR": Source(
        "https://github.com/hendrycks/imagenet-r",
        steps=(
            "Get https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar and unpack it here: "
            "imagenet-r/n*/.",
            _NAMES_OF_IMAGENET,
        ),
        also_called=("imagenet-r",),
    ),
}
