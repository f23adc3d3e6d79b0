"""Benchmarks: from a folder of pictures and a split file to Dassl's data sets.

A benchmark is a subclass of `Benchmark` with a few class attributes, registered with Dassl's
`DATASET_REGISTRY`; one without a split file overrides `read_split`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dassl.data.data_manager import DatasetWrapper
from dassl.data.datasets import DatasetBase, Datum
from PIL import Image
from torch.utils.data import get_worker_info

from promptclip import bad_pictures, imbalance, plugins, splits
from promptclip import pictures as picture_files
from promptclip.errors import UserError
from promptclip.few_shot import Picture, sample, split_hash
from promptclip.files import DamagedError, read_record, write_record
from promptclip.pictures import UnreadableError
from promptclip.progress.screen import counted

if TYPE_CHECKING:
    from typing_extensions import Self
    from yacs.config import CfgNode

log = logging.getLogger(__name__)

# Two classes each are called so in the list that CLIP, and after it CoOp, uses.
IMAGENET_SHARED_NAMES = ("missile", "sunglasses")

CACHE_BYTES = 2**30  # decoded training pictures kept in memory; 1,600 of 500 x 400 pixels fit


class Sizes(NamedTuple):
    """What a benchmark holds: classes, and the pictures of its parts.

    Those of the public benchmarks are the ones of CoOp's splits: the table of data sets in the
    appendix of Zhou et al., IJCV 2022 (arXiv 2109.01134). A part that has no pictures of its own
    is None.
    """

    classes: int
    train: int | None
    val: int | None
    test: int

    @classmethod
    def of(cls, *parts: Sequence[Picture] | None) -> Sizes:
        """Count the training, validation and test parts."""
        classes = len({picture.label for part in parts for picture in part or ()})
        train, val, test = (None if part is None else len(part) for part in parts)
        return cls(classes, train, val, test or 0)

    def __str__(self) -> str:
        counts = zip(self[1:], ("training", "validation", "test"), strict=True)
        parts = [f"{count:,} {purpose}" for count, purpose in counts if count is not None]
        return f"{self.classes:,} classes; {', '.join(parts)} pictures"


class Benchmark(DatasetBase):
    """A benchmark of CoOp's layout: `<root>/<dataset_dir>/` with pictures and a split file.

    The few-shot sample is drawn first and the classes are chosen second, so that the base and
    the new half share one sample. `dataset_dir` and `image_dir` are absolute in an instance.

    Attributes:
        dataset_dir: folder below the data root.
        image_dir: folder of the pictures below `dataset_dir`; empty if that folder itself.
        split_file: name of CoOp's split file in `dataset_dir`.
        template: hand-written prompt, `{}` stands for the class name.
        folder_names: class names that are not their folders' names; None for what is no class.
        needs: what `dataset_dir` must hold, paths below it.
        raw: files of the original download, below `dataset_dir`, that say which picture is what;
            they are needed only to build a split where there is no split file.
        sizes: what the published benchmark holds, for `promptclip data check`; None if nothing
            is published, or all the folder has is the benchmark.
        shared_names: names that several classes bear in the published list.
        test_only: a variant of another benchmark: no sample is drawn and all classes stay.
        sample_dir: folder of the few-shot samples.
        split_hash: hash of the training and validation pictures, before the classes are chosen.
        split_origin: where the whole split is from: "coop" is CoOp's split file, "data set" the
            data set's own lists or folders; a file that is marked says something else.
        split_file_hash: hash of the whole split; None where there is no split file.
        class_order: labels in the order in which classes get rare; see `promptclip.imbalance`.
        skipped: pictures that were left out, see `promptclip.bad_pictures`; None if none may be.
    """

    dataset_dir: str = ""
    image_dir: str = ""
    split_file: str = ""
    template: str = "a photo of a {}."
    folder_names: Mapping[str, str | None] = {}
    raw: tuple[str, ...] = ()
    sizes: Sizes | None = None
    shared_names: tuple[str, ...] = ()
    test_only: bool = False
    sample_dir: str
    split_hash: str
    split_origin: str = "coop"
    split_file_hash: str | None = None
    class_order: list[int]
    skipped: bad_pictures.Skipped | None = None

    def __init__(self, cfg: CfgNode) -> None:
        """Read the split, draw the sample, make classes rare if that is asked for, choose some.

        Args:
            cfg: reads DATASET.ROOT, .NUM_SHOTS, .SUBSAMPLE_CLASSES, .IMBALANCE,
                .IMBALANCE_PROFILE, .BAD_IMAGES and SEED; with "skip" also OUTPUT_DIR.

        Raises:
            UserError: if something is missing, or is not what the benchmark must hold.
        """
        self.locate(cfg)
        if domains := [*cfg.DATASET.SOURCE_DOMAINS, *cfg.DATASET.TARGET_DOMAINS]:
            raise UserError(
                f"{type(self).__name__} is one domain, and has none called {domains[0]!r}; leave "
                "DATASET.SOURCE_DOMAINS and DATASET.TARGET_DOMAINS empty, and see `promptclip dg`"
            )
        self.check_layout()
        train, val, test = self.read_split()
        self._check_classes(train, val or [], test)
        if not self.test_only:
            for fault in shared_pictures((train, val, test)):
                log.warning("%s: %s; the split is damaged", self.split_path, fault)
        drawn, drawn_val = sample(
            Path(self.sample_dir),
            train,
            val or [],
            benchmark=type(self).__name__,
            shots=-1 if self.test_only else cfg.DATASET.NUM_SHOTS,
            seed=cfg.SEED,
        )
        drawn = self._imbalanced(drawn, cfg)
        self.split_hash = split_hash(drawn, drawn_val)
        parts = subsample_classes(
            drawn,
            test if val is None else drawn_val,
            test,
            subsample="all" if self.test_only else cfg.DATASET.SUBSAMPLE_CLASSES,
        )
        if bad_pictures.wanted(cfg):
            parts, self.skipped = bad_pictures.leave_out(parts, self.impath, cfg.OUTPUT_DIR)
        self._check_pictures(parts)
        train_x, val_x, test_x = ([self._datum(p) for p in part] for part in parts)
        super().__init__(train_x=train_x, val=val_x, test=test_x)

    @classmethod
    def at(cls, cfg: CfgNode) -> Self:
        """The benchmark's place, for a look at its split: no sample is drawn."""
        benchmark = cls.__new__(cls)
        benchmark.locate(cfg)
        return benchmark

    def locate(self, cfg: CfgNode) -> None:
        """Set the folders."""
        self.dataset_dir = os.path.join(self.find_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, self.image_dir)
        self.sample_dir = os.path.join(self.dataset_dir, "split_fewshot")

    def _imbalanced(self, drawn: list[Picture], cfg: CfgNode) -> list[Picture]:
        """The sample with rare classes; sets `class_order`.

        Of base and new classes each half has its own profile, so the half that a run trains on has
        the ratio that was asked for, and both halves still share one sample.
        """
        name, half = type(self).__name__, cfg.DATASET.SUBSAMPLE_CLASSES
        generator = imbalance.generator_of(name, cfg.SEED)
        order = imbalance.class_order((picture.label for picture in drawn), generator)
        whole = self.test_only or half == "all"
        parts = {half: order} if whole else halve(order)
        orders = {part: [x for x in order if x in labels] for part, labels in parts.items()}
        chosen = orders.get(half, [])
        label = {old: new for new, old in enumerate(sorted(chosen))}
        self.class_order = [label[old] for old in chosen]
        # Dassl's own defaults do not know the key.
        ratio = 1.0 if self.test_only else cfg.DATASET.get("IMBALANCE", 1.0)
        if ratio == 1:
            return drawn
        profile = cfg.DATASET.IMBALANCE_PROFILE
        how = {"ratio": ratio, "profile": profile, "generator": generator}
        kept = imbalance.thin(drawn, list(orders.values()), **how)
        log.info("%s, imbalance %g: %s", name, ratio, imbalance.told(kept, len(drawn)))
        return kept

    @property
    def needs(self) -> tuple[str, ...]:
        """What `dataset_dir` must hold."""
        return tuple(filter(None, (self.split_file, type(self).image_dir)))

    @property
    def needs_split(self) -> bool:
        """Whether the parts stand in a split file."""
        return bool(self.split_file)

    @property
    def our_split_path(self) -> Path:
        """Where `promptclip data split` puts a split: under another name than CoOp's."""
        return Path(self.dataset_dir, f"split_promptclip_{type(self).__name__}.json")

    @property
    def split_path(self) -> Path:
        """The split file that counts: CoOp's, or where that is absent, ours."""
        published = Path(self.dataset_dir, self.split_file)
        ours = self.our_split_path
        return ours if ours.is_file() and not published.is_file() else published

    def missing(self) -> Iterator[str]:
        """Paths of what is needed and not there, outer folders first."""
        for folder in (os.path.dirname(self.dataset_dir), self.dataset_dir):
            if not os.path.isdir(folder):
                yield folder
        for need in self.needs:
            path = os.path.join(self.dataset_dir, need)
            is_split = bool(self.split_file) and os.path.basename(path) == self.split_file
            if not (os.path.exists(path) or (is_split and self.our_split_path.is_file())):
                yield path

    def impath(self, picture: Picture) -> str:
        """Where a picture of the split lies."""
        return os.path.join(self.image_dir, picture.path)

    def find_root(self, cfg: CfgNode) -> str:
        """The absolute path of the folder that holds `dataset_dir`."""
        root: str = cfg.DATASET.ROOT
        if not root:
            raise UserError(f"{type(self).__name__}: no data root is set; {self._layout()}")
        return os.path.abspath(os.path.expanduser(root))

    def read_split(self) -> tuple[list[Picture], list[Picture] | None, list[Picture]]:
        """The whole training, validation and test parts, paths relative to `image_dir`.

        A benchmark without validation pictures gives None for them: then the test part stands
        in, as CoOp has it for ImageNet.
        """
        split = splits.read(self.split_path)
        self.split_origin = str(split.get("origin", self.split_origin))
        self.split_file_hash = splits.parts_hash(split)
        return split["train"], split["val"], split["test"]

    def make_split(self, seed: int) -> splits.Split:
        """A split by our rule, from what the data set itself comes with.

        Here: one folder for each class. A benchmark that has lists of its own overrides this.

        Raises:
            UserError: if something is missing.
        """
        ignored = [folder for folder, name in self.folder_names.items() if name is None]
        listing = list_class_folders(Path(self.image_dir), ignored=ignored)
        pictures = (
            Picture(f"{folder}/{name}", label, self.folder_names.get(folder) or folder)
            for label, (folder, names) in enumerate(listing.items())
            for name in names
        )
        return splits.three_parts(pictures, seed)

    def check_split(self, parts: Sequence[Sequence[Picture]], source: str | Path) -> None:
        """Check that classes and pictures of the three parts are whole.

        Args:
            parts: training, validation and test.
            source: the file or folder that they were read from, for errors.

        Raises:
            UserError: if something is missing.
        """
        self._check_classes(*parts, source=source)
        self._check_pictures(parts)

    def check_known(self, found: Iterable[Any], known: Container[Any], file: str) -> None:
        """Raise `UserError` if a file of the data set names a class that is none."""
        for name in found:
            if name not in known:
                raise UserError(
                    f"{self.dataset_dir}/{file}: {name!r} is no class of this data set; the file "
                    "is damaged or belongs to another version"
                )

    def rows(self, file: str, columns: int) -> list[list[str]]:
        """Words of each line of a text file of the data set; empty lines are left out.

        Raises:
            UserError: if the file cannot be read, or a line has fewer words than `columns`.
        """
        path = Path(self.dataset_dir, file)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        rows = [line.split() for line in lines if line.strip()]
        for row in rows:
            if len(row) < columns:
                raise UserError(f"{path}: expected {columns} words in a line, got {row!r:.200}")
        return rows

    def _layout(self) -> str:
        *most, last = self.needs
        needs = f"{', '.join(most)} and {last}" if most else last
        folder = type(self).dataset_dir
        name = plugins.short_name(type(self).__name__)
        return (
            f"{folder}/ must hold {needs} (`promptclip data get {name}` says where to get them); "
            f"give the folder that holds {folder}/ with --root (in scripts: DATA=...)"
        )

    def check_layout(self) -> None:
        """Check that everything is there that is read.

        Raises:
            UserError: if something is missing.
        """
        for path in self.missing():
            what = "is no folder" if os.path.exists(path) else "is missing"
            message = f"{type(self).__name__}: {path} {what}; {self._layout()}"
            if self.split_file and os.path.basename(path) == self.split_file:
                message += (
                    f". `promptclip data split {plugins.short_name(type(self).__name__)} --root "
                    f"{os.path.dirname(self.dataset_dir)}` makes another split, with which numbers "
                    "cannot be compared with published ones"
                )
            raise UserError(message)

    def _check_classes(self, *parts: Sequence[Picture], source: str | Path = "") -> None:
        for fault in class_faults(*parts):
            raise UserError(
                f"{source or self.dataset_dir}: {fault}; correct the split or the folders"
            )

    def _check_pictures(self, parts: Sequence[Sequence[Picture]]) -> None:
        paths = dict.fromkeys(self.impath(picture) for part in parts for picture in part)
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise UserError(
                f"{type(self).__name__}: {len(missing)} of {len(paths)} pictures are missing or no "
                f"files, the first is {missing[0]}; copy them there, or delete an old split file"
            )

    def _datum(self, picture: Picture) -> Datum:
        return Datum(self.impath(picture), picture.label, classname=picture.classname)


class ImageNetVariant(Benchmark):
    """Pictures of ImageNet's classes for tests alone: a folder per class, and `classnames.txt`.

    As in CoOp, the test pictures stand in for the training pictures, which give the class names,
    and all classes stay whatever half is asked for.
    """

    test_only = True
    shared_names = IMAGENET_SHARED_NAMES
    split_origin = "data set"

    @property
    def needs(self) -> tuple[str, ...]:
        """What `dataset_dir` must hold."""
        return "classnames.txt", type(self).image_dir

    def read_split(self) -> tuple[list[Picture], list[Picture], list[Picture]]:
        """List the class folders."""
        names = read_classnames(Path(self.dataset_dir, "classnames.txt"))
        listing = list_class_folders(Path(self.image_dir))
        folders = self.order(list(names), list(listing))
        unknown = set(listing).symmetric_difference(folders) or set(folders.values()) - set(names)
        if unknown:
            raise UserError(
                f"{self.image_dir}: the class folders do not match "
                f"{self.dataset_dir}/classnames.txt, for example {min(unknown)!r}"
            )
        pictures = [
            Picture(f"{folder}/{name}", label, names[key])
            for label, (folder, key) in enumerate(folders.items())
            for name in listing[folder]
        ]
        return pictures, [], pictures

    def order(self, names: list[str], listing: list[str]) -> dict[str, str]:
        """Folders in the order of labels, each with its entry in `classnames.txt`.

        Args:
            names: entries of `classnames.txt` in the order of the file.
            listing: the class folders, sorted.
        """
        return {folder: folder for folder in listing}


def class_faults(*parts: Sequence[Picture]) -> Iterator[str]:
    """Labels with two names or gaps, and classes without a training or a test picture.

    Args:
        parts: the training, validation and test parts.
    """
    names: dict[int, str] = {}
    conflicts: dict[int, str] = {}
    for label, classname in ((p.label, p.classname) for part in parts for p in part):
        if names.setdefault(label, classname) != classname:
            conflicts.setdefault(label, classname)
    for label, classname in conflicts.items():
        yield f"label {label} has two class names, {names[label]!r} and {classname!r}"
    if len(names) < 2:
        found = ", ".join(map(repr, names.values())) or "none"
        yield f"expected at least two classes, got {found}"
    if names and max(names) >= len(names):
        gap = next(label for label in range(len(names)) if label not in names)
        yield (
            f"labels must run from 0 to {len(names) - 1}, as there are {len(names)} classes; there "
            f"is no label {gap}, and the largest is {max(names)}"
        )
    train, _, test = ({picture.label for picture in part} for part in parts)
    for purpose, present in (("training", train), ("test", test)):
        for label, name in sorted(names.items()):
            if label not in present:
                yield f"class {name!r} (label {label}) has no {purpose} pictures"


def shared_pictures(parts: Sequence[Sequence[Picture] | None]) -> Iterator[str]:
    """Pictures that stand in two parts, or twice in one.

    Args:
        parts: the training, validation and test parts.
    """
    seen: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for purpose, part in zip(("training", "validation", "test"), parts, strict=True):
        for picture in part or ():
            if picture.path in seen:
                shared.setdefault((seen[picture.path], purpose), []).append(picture.path)
            seen.setdefault(picture.path, purpose)
    for (one, other), paths in shared.items():
        where = f"twice in the {one} part" if one == other else f"in the {one} and {other} part"
        yield f"{len(paths)} pictures stand {where}, the first is {paths[0]}"


def list_class_folders(
    folder: Path, cache: Path | None = None, ignored: Collection[str] = ()
) -> dict[str, list[str]]:
    """List the pictures of a folder that has one sub-folder per class, everything sorted by name.

    Dassl takes the file system's order, which differs from machine to machine.

    Args:
        folder: holds the class folders; hidden names and plain files beside them are left out.
        cache: JSON file that keeps the listing between runs; a class folder that has changed
            since is listed again. A million pictures take minutes on a network disk.
        ignored: names of folders that are no classes.

    Raises:
        UserError: if there is no class folder, or one without pictures.
    """
    known = _read_listing(cache) if cache else {}
    listing, empty, files = {}, [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in ignored:
            continue
        if not entry.is_dir():
            files.append(entry.name)
            continue
        changed = os.stat(entry.path).st_mtime_ns
        seen = known.get(entry.name)
        if not seen or seen["changed"] != changed:
            names = sorted(name for name in os.listdir(entry.path) if not name.startswith("."))
            seen = {"changed": changed, "names": names}
        if not seen["names"]:
            empty.append(entry.path)
        listing[entry.name] = seen
    if empty:
        raise UserError(
            f"{empty[0]}: expected the pictures of a class, the folder is empty "
            f"(of {len(listing)} class folders, {len(empty)} are)"
        )
    if not listing:
        instead = (
            f", but {len(files)} files such as {files[0]}: unpack or sort them" if files else ""
        )
        raise UserError(f"{folder}: expected one sub-folder per class, there is none{instead}")
    if cache and listing != known:
        try:
            write_record({"folders": listing}, cache, indent=None)
        except OSError as error:
            log.info("The list of pictures is not kept for the next run: %s", error)
    return {name: seen["names"] for name, seen in listing.items()}


def _read_listing(cache: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = read_record(cache, sealed=True)["folders"]
    except (OSError, DamagedError, KeyError):
        return {}  # absent or damaged: the folders are listed again
    return known


def read_classnames(path: Path) -> dict[str, str]:
    """Read CoOp's `classnames.txt`: one class per line, folder name, space, class name.

    Raises:
        UserError: if the file cannot be read or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    rows = [line.strip().partition(" ") for line in lines if line.strip()]
    for folder, _, classname in rows:
        if not classname:
            raise UserError(f'{path}: expected "<folder> <class name>" per line, got {folder!r}')
    return {folder: classname for folder, _, classname in rows}


def halve(labels: Iterable[int]) -> dict[str, list[int]]:
    """Base and new classes by CoOp's rule: of labels in ascending order, the first ceil(n / 2)."""
    labels = sorted(set(labels))
    middle = (len(labels) + 1) // 2
    return {"base": labels[:middle], "new": labels[middle:]}


def subsample_classes(*parts: Sequence[Picture], subsample: str) -> list[list[Picture]]:
    """Keep the base or the new half of the classes, labelled from 0 again.

    Args:
        parts: lists of pictures; the first decides which classes there are.
        subsample: "all", "base" or "new"; see `halve`.

    Raises:
        UserError: if `subsample` is not one of all, base, new, or the new half would be empty.
    """
    if subsample == "all":
        return [list(part) for part in parts]
    halves = halve(picture.label for picture in parts[0])
    if subsample not in halves:
        raise UserError(
            f'DATASET.SUBSAMPLE_CLASSES must be "all", "base" or "new", got {subsample!r}'
        )
    if not halves[subsample]:
        count = sum(map(len, halves.values()))
        raise UserError(f"{count} class(es) cannot be halved into base and new classes")
    relabel = {label: index for index, label in enumerate(halves[subsample])}
    return [
        [p._replace(label=relabel[p.label]) for p in part if p.label in relabel] for part in parts
    ]


class PictureError(UserError):
    """A picture that cannot be read."""

    def __init__(self, message: str) -> None:
        """A data loader rebuilds a worker's exception from its whole traceback: keep the line."""
        super().__init__(message.strip().rpartition("PictureError: ")[2])


class PictureSet(DatasetWrapper):
    """Dassl's `DatasetWrapper`, with training pictures decoded once and errors that name a path.

    The few-shot sample is small and read in every epoch. Its decoded pictures are kept until they
    fill `CACHE_BYTES`; items are the same as without. Loader workers are new processes in
    each epoch: call `decode` before the first one, so that they inherit the pictures.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Any = None,
        is_train: bool = False,
    ) -> None:
        """As `DatasetWrapper`."""
        super().__init__(cfg, data_source, transform=transform, is_train=is_train)
        self._decoded: dict[str, Image.Image] = {}
        self._room = CACHE_BYTES if is_train else 0

    def decode(self) -> None:
        """Read all pictures that fit into memory.

        Raises:
            PictureError: if one cannot be read.
        """
        for item in counted(self.data_source, "pictures to decode", len(self.data_source)):
            if self._room:
                self._picture(item.impath)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """One item of the batch dictionary, as `DatasetWrapper` makes it."""
        item = self.data_source[idx]
        picture = self._picture(item.impath)
        output: dict[str, Any] = {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
        }
        if self.transform is None:
            output["img"] = picture
        else:
            several = isinstance(self.transform, list | tuple)
            for i, transform in enumerate(self.transform if several else [self.transform]):
                images = [transform(picture) for _ in range(self.k_tfm)]
                output[f"img{i + 1}" if i else "img"] = images if len(images) > 1 else images[0]
        if self.return_img0:
            output["img0"] = self.to_tensor(picture)
        return output

    def _picture(self, path: str) -> Image.Image:
        picture = self._decoded.get(path)
        if picture is None:
            picture = read_picture(path)
            if self._room and get_worker_info() is None:
                self._room = max(0, self._room - 3 * picture.width * picture.height)
                self._decoded[path] = picture
        # A transform may work in place, and must not find its own traces in the next epoch.
        return picture.copy() if path in self._decoded else picture


def read_picture(path: str) -> Image.Image:
    """Read a picture as RGB.

    Raises:
        PictureError: if the file is missing, truncated or no picture.
    """
    try:
        with picture_files.quiet():
            return picture_files.rgb(path)
    except UnreadableError as error:
        remedy = "replace it, or leave it out with DATASET.BAD_IMAGES skip"
        if not error.lasting:
            remedy = "see to the disk or the permissions, and start again"
        raise PictureError(f"{path}: the picture cannot be read ({error}); {remedy}") from error
