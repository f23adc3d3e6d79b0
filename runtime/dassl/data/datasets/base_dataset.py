"""What a data set is: lists of pictures with labels."""

import logging
import random
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dassl.utils import check_isfile, download_url, mkdir_if_missing
from dassl.utils.tools import refuse_offline

logger = logging.getLogger(__name__)


class Datum:
    """One picture: where it is, and what is in it.

    The private names are part of the interface: few-shot pickles of the field store them.
    """

    def __init__(
        self, impath: str = "", label: int = 0, domain: int = 0, classname: str = ""
    ) -> None:
        """Describe a picture that is on the disk.

        Raises:
            AssertionError: if the path is no string or no file, as in Dassl; the path is named.
        """
        if not isinstance(impath, str):
            raise AssertionError(f"expected a path as a string, got {impath!r}")
        if not check_isfile(impath):
            raise AssertionError(f'expected a picture, found no file at "{impath}"')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """Path of the picture."""
        return self._impath

    @property
    def label(self) -> int:
        """Class index."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain index."""
        return self._domain

    @property
    def classname(self) -> str:
        """Class name."""
        return self._classname


class DatasetBase:
    """Training, unlabelled, validation and test pictures; classes are those of `train_x`."""

    dataset_dir = ""
    domains: Sequence[str] = []

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        """Keep the lists and derive the classes from the labelled training pictures.

        Raises:
            ValueError: if there are no labelled training pictures.
        """
        if not train_x:
            raise ValueError(f"{type(self).__name__}: expected training pictures, got none")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self) -> list[Datum]:
        """Labelled training pictures."""
        return self._train_x

    @property
    def train_u(self) -> list[Datum] | None:
        """Unlabelled training pictures."""
        return self._train_u

    @property
    def val(self) -> list[Datum] | None:
        """Validation pictures."""
        return self._val

    @property
    def test(self) -> list[Datum] | None:
        """Test pictures."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class names by label."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in the order of labels."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum]) -> int:
        """Return the largest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """Return class names by label, and as a list in the order of labels."""
        names = dict(sorted({item.label: item.classname for item in data_source}.items()))
        return names, list(names.values())

    def check_input_domains(
        self, source_domains: Sequence[str], target_domains: Sequence[str]
    ) -> None:
        """Check that both lists name domains of this data set.

        Raises:
            ValueError: if one is empty or names another domain.
        """
        for kind, domains in ("source", source_domains), ("target", target_domains):
            if not domains:
                raise ValueError(f"expected {kind} domains among {self.domains}, got none")
            self.is_input_domain_valid(domains)

    def is_input_domain_valid(self, input_domains: Iterable[str]) -> None:
        """Check domain names.

        Raises:
            ValueError: if one is not a domain of this data set.
        """
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"expected a domain among {self.domains}, got {domain!r}")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Download an archive over TLS and unpack it where it lies; nobody tells its checksum.

        Args:
            url: address.
            dst: path for the archive: `.zip`, `.tar` or `.tar.gz`.
            from_gdrive: fetch with the package `gdown`, which follows Google Drive's pages.
        """
        refuse_offline(url, dst)
        folder = str(Path(dst).parent)
        mkdir_if_missing(folder)
        if from_gdrive:
            import gdown  # type: ignore[import-not-found]

            gdown.download(url, dst, quiet=False)
        else:
            download_url(url, dst)
        logger.info("Extracting file ...")
        if dst.endswith(".zip"):
            shutil.unpack_archive(dst, folder)
        else:
            with tarfile.open(dst) as archive:
                archive.extractall(folder, filter="data")
        logger.info("File extracted to %s", folder)

    def generate_fewshot_dataset(
        self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False
    ) -> Any:
        """Draw a few pictures of each class with Python's global random generator.

        Args:
            data_sources: lists of pictures.
            num_shots: pictures per class; less than 1 returns the lists as they are.
            repeat: draw with replacement from a class that has fewer; else it gives all it has.

        Returns:
            A list for one source, else a list of lists. Classes come in the order in which they
            first appear.
        """
        outputs: Sequence[list[Datum]] = data_sources
        if num_shots >= 1:
            logger.info("Creating a %d-shot dataset", num_shots)
            outputs = [self._few_shots(source, num_shots, repeat) for source in data_sources]
        return outputs[0] if len(outputs) == 1 else outputs

    def _few_shots(self, source: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        chosen: list[Datum] = []
        for items in self.split_dataset_by_label(source).values():
            if len(items) >= num_shots:
                chosen += random.sample(items, num_shots)
            else:
                chosen += random.choices(items, k=num_shots) if repeat else items
        return chosen

    def split_dataset_by_label(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group pictures by label, in the order in which labels first appear."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups

    def split_dataset_by_domain(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group pictures by domain, in the order in which domains first appear."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups
