"""`promptclip data get`: downloads from a server on this machine, and what can go wrong."""

from __future__ import annotations

import dataclasses
import inspect
import io
import os
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import file_server
import miniatures
import pytest
from file_server import Server
from torchvision import datasets

from promptclip import data_get, data_sources
from promptclip.cli import main
from promptclip.data_sources import SOURCES

FETCHED = [name for name, source in SOURCES.items() if source.download]
BY_HAND = [name for name, source in SOURCES.items() if not source.download]
needs_care = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"),
    reason="this Python has no safe way to unpack archives (PEP 706), so nothing is fetched",
)


@pytest.fixture
def server() -> Iterator[Server]:
    with file_server.running() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder on a disk with room for every benchmark, however full the real one is."""
    monkeypatch.delenv("DATA", raising=False)
    (tmp_path / "data").mkdir()
    roomy = shutil.disk_usage(tmp_path)._replace(free=10**12)
    monkeypatch.setattr(data_get.shutil, "disk_usage", lambda path: roomy)
    return tmp_path / "data"


def tar(files: dict[str, Path], mode: str = "w:gz") -> bytes:
    """An archive: name in it -> file or folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, path in files.items():
            archive.add(path, name)
    return buffer.getvalue()


def zipped(files: dict[str, Path | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            if isinstance(content, bytes):
                archive.writestr(name, content)
                continue
            for path in sorted(content.rglob("*")):
                archive.write(path, f"{name}/{path.relative_to(content)}")
    return buffer.getvalue()


class Place:
    """A miniature that was taken apart into the archives that torchvision fetches.

    `split_file` is kept outside; `archives` are the server's paths.
    """

    def __init__(
        self, name: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.kind = miniatures.kind_of(name)
        self.folder = miniatures.make(tmp_path / "origin", name)
        self.split_file = self.folder / self.kind.split_file
        OFFERS[name](self.folder, server, monkeypatch)
        self.archives = list(server.files)


def _inline(module: Any, offered: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For classes of torchvision that hold URL and checksum in the middle of their code."""
    real = module.download_and_extract_archive

    def local(url: str, *arguments: Any, **keywords: Any) -> None:
        real(offered[0], *arguments, **keywords | {"md5": offered[1]})

    monkeypatch.setattr(module, "download_and_extract_archive", local)


def _offer_caltech(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import caltech

    if "caltech-101.zip" not in inspect.getsource(caltech):
        pytest.skip("this torchvision asks for Caltech101 as it was offered until 2025")
    pictures = tar({"101_ObjectCategories": folder / "101_ObjectCategories"})
    content: dict[str, Path | bytes] = {
        "caltech-101/101_ObjectCategories.tar.gz": pictures,
        "caltech-101/show_annotation.m": b"%",
    }
    _inline(caltech, server.put("caltech-101.zip", zipped(content)), monkeypatch)


def _offer_pets(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = [
        server.put(f"{part}.tar.gz", tar({part: folder / part}))
        for part in ("images", "annotations")
    ]
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", resources)


def _offer_flowers(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "image": ("102flowers.tgz", tar({"jpg": folder / "jpg"})),
        "label": ("imagelabels.mat", (folder / "imagelabels.mat").read_bytes()),
        "setid": ("setid.mat", (folder / "setid.mat").read_bytes()),
    }
    offered = {key: (name, *server.put(name, content)) for key, (name, content) in files.items()}
    prefix = offered["image"][1].removesuffix("102flowers.tgz")
    monkeypatch.setattr(datasets.Flowers102, "_download_url_prefix", prefix)
    sums = {key: (name, md5) for key, (name, _, md5) in offered.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", sums)


def _offer(kind: Any, archive: str, content: bytes, server: Server, monkeypatch: Any) -> None:
    url, md5 = server.put(archive, content)
    monkeypatch.setattr(kind, "_URL", url)
    monkeypatch.setattr(kind, "_MD5", md5)


def _offer_archive(
    name: str, archive: str, content: bytes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what is fetched from an address of ours."""
    source = SOURCES[name]
    assert source.download
    download = dataclasses.replace(source.download, archive=server.put(archive, content))
    monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, download=download))


def _offer_food(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    split = folder / miniatures.kind_of("Food101").split_file
    split.rename(folder.parent / "split.json")
    content = tar({"food-101": folder})
    _offer_archive("Food101", "food-101.tar.gz", content, server, monkeypatch)
    (folder.parent / "split.json").rename(split)


def _offer_aircraft(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tar({"fgvc-aircraft-2013b/data": folder})
    archive = "fgvc-aircraft-2013b.tar.gz"
    _offer_archive("FGVCAircraft", archive, content, server, monkeypatch)


def _offer_textures(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"dtd/{part}": folder / part for part in ("images", "imdb", "labels")}
    _offer(datasets.DTD, "dtd-r1.0.1.tar.gz", tar(parts), server, monkeypatch)


def _offer_eurosat(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import eurosat

    offered = server.put("EuroSAT.zip", zipped({"2750": folder / "2750"}))
    _inline(eurosat, offered, monkeypatch)


OFFERS: dict[str, Callable[[Path, Server, pytest.MonkeyPatch], None]] = {
    "Caltech101": _offer_caltech,
    "OxfordPets": _offer_pets,
    "OxfordFlowers": _offer_flowers,
    "Food101": _offer_food,
    "FGVCAircraft": _offer_aircraft,
    "DescribableTextures": _offer_textures,
    "EuroSAT": _offer_eurosat,
}


@pytest.fixture
def offer(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Place]:
    """Offers a benchmark on the server and points torchvision there."""
    return lambda name: Place(name, tmp_path, server, monkeypatch)


def get(root: Path, name: str, *arguments: str) -> int:
    return main(["data", "get", name, "--root", str(root), *arguments])


def test_every_public_benchmark_has_a_source() -> None:
    assert set(SOURCES) == set(miniatures.NAMES)
    assert set(FETCHED) == set(OFFERS)
    for name, source in SOURCES.items():
        assert bool(source.split) == bool(miniatures.kind_of(name).split_file)
        assert bool(source.download) != bool(source.steps)


@needs_care
@pytest.mark.parametrize("name", FETCHED)
def test_it_is_fetched_and_laid_out_as_coops(
    root: Path, offer: Callable[[str], Place], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = offer(name)
    assert get(root, name, "--yes") == 0
    output = capsys.readouterr().out
    assert "about" in output.splitlines()[0]
    folder = root / place.kind.dataset_dir
    assert [path.name for path in root.iterdir()] == [folder.name]
    assert not [path for path in folder.rglob("*") if path.name.endswith(data_sources.ARCHIVES)]
    if place.kind.split_file:
        assert SOURCES[name].split in output
        shutil.copy(place.split_file, folder)
    data = miniatures.load(root, name)
    assert data.classnames == miniatures.classnames(name)
    assert len(data.train_x) == miniatures.sizes(name).train


@needs_care
def test_a_split_file_that_is_there_stays(root: Path, offer: Callable[[str], Place]) -> None:
    place = offer("OxfordPets")
    elsewhere = root.parent / "another disk"
    elsewhere.mkdir()
    (root / "oxford_pets").symlink_to(elsewhere)
    shutil.copy(place.split_file, elsewhere)
    assert get(root, "oxford_pets", "--yes") == 0
    assert sorted(os.listdir(elsewhere)) == ["annotations", "images", place.split_file.name]
    assert miniatures.load(root, "OxfordPets").num_classes == 4


@needs_care
@pytest.mark.parametrize("name", FETCHED)
@pytest.mark.parametrize("trouble", ["broken", "changed", "gone"])
def test_a_failed_download_leaves_nothing(
    root: Path,
    server: Server,
    offer: Callable[[str], Place],
    name: str,
    trouble: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = offer(name)
    last = place.archives[-1]  # what came before it has been unpacked by then
    if trouble == "broken":
        server.broken.add(last)
    elif trouble == "changed":
        server.files[last] += b"more"
    else:
        del server.files[last]
    assert get(root, name, "--yes") == 2
    error = capsys.readouterr().err.splitlines()[-1]  # below torchvision's progress
    assert error.startswith(f"error: {miniatures.short(name)}: the download failed")
    assert "nothing of it was kept" in error
    assert not list(root.iterdir())


def test_a_python_that_unpacks_without_care_fetches_nothing(
    root: Path,
    offer: Callable[[str], Place],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("DescribableTextures")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    assert get(root, "dtd", "--yes") == 2
    assert "PEP 706" in capsys.readouterr().err
    assert not list(root.iterdir())
    assert not server.asked


@needs_care
def test_ctrl_c_leaves_nothing(
    root: Path, offer: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("OxfordPets")
    from torchvision.datasets import utils

    real = utils.extract_archive

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        assert list(root.glob(".oxford_pets-*/oxford-iiit-pet/images/*.jpg"))
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "extract_archive", interrupted)
    assert get(root, "oxford_pets", "--yes") == 130
    assert not list(root.iterdir())


@needs_care
def test_no_server_at_all(
    root: Path,
    offer: Callable[[str], Place],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("DescribableTextures")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = datasets.DTD._URL.replace(str(server.server_address[1]), str(port))
    monkeypatch.setattr(datasets.DTD, "_URL", url)
    assert get(root, "dtd", "--yes") == 2
    assert "the download failed (ConnectionRefusedError" in capsys.readouterr().err
    assert not list(root.iterdir())


@needs_care
def test_nothing_is_fetched_before_a_yes(
    root: Path,
    offer: Callable[[str], Place],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("EuroSAT")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert get(root, "eurosat") == 2
    assert "give --yes" in capsys.readouterr().err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer in ("", "\n", "n\n", "what\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert get(root, "eurosat") == 1
        output = capsys.readouterr().out
        assert "about 94 MB" in output
        assert "nothing was fetched" in output
    assert not server.asked
    monkeypatch.setattr("sys.stdin", Terminal("Yes\n"))
    assert get(root, "eurosat") == 0
    assert server.asked


def test_what_is_there_is_not_touched(
    root: Path, server: Server, offer: Callable[[str], Place], capsys: pytest.CaptureFixture[str]
) -> None:
    offer("EuroSAT")
    mine = root / "eurosat" / "2750" / "mine.jpg"
    miniatures.picture(mine)
    assert get(root, "eurosat", "--yes") == 2
    assert "2750 is there already" in capsys.readouterr().err
    shutil.rmtree(root / "eurosat")
    (root / "eurosat").symlink_to(root / "gone")
    assert get(root, "eurosat", "--yes") == 2
    assert "eurosat is there already" in capsys.readouterr().err
    assert not server.asked


def test_no_room(
    root: Path,
    server: Server,
    offer: Callable[[str], Place],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("EuroSAT")
    usage, full = shutil.disk_usage(root), {root}
    small = usage._replace(free=100 * 10**6)
    large = usage._replace(free=200 * 10**6)
    monkeypatch.setattr(
        data_get.shutil, "disk_usage", lambda path: small if path in full else large
    )
    assert get(root, "eurosat", "--yes") == 2
    error = capsys.readouterr().err
    assert "takes about 188 MB" in error
    assert "make room" in error
    assert not server.asked
    # What counts is the disk that it will lie on.
    elsewhere = root.parent / "another disk"
    elsewhere.mkdir()
    (root / "eurosat").symlink_to(elsewhere)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert get(root, "eurosat") == 2
    assert "200 MB are free" in capsys.readouterr().out
    full.add(root / "eurosat")
    assert get(root, "eurosat", "--yes") == 2
    assert "100 MB are free" in capsys.readouterr().err


def _member(name: str, content: bytes = b"x", **changes: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 0 if changes else len(content)
        for key, value in changes.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@needs_care
@pytest.mark.parametrize(
    "archive",
    [
        _member("../../../../outside.txt"),
        _member("dtd/images", type=tarfile.SYMTYPE, linkname="../../../../../outside"),
        _member("dtd/link", type=tarfile.LNKTYPE, linkname="../../../../outside"),
        _member("dtd/device", type=tarfile.CHRTYPE),
    ],
    ids=["path", "symbolic link", "hard link", "device"],
)
def test_an_archive_cannot_write_outside_its_folder(
    root: Path,
    server: Server,
    archive: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _offer(datasets.DTD, "dtd-r1.0.1.tar.gz", archive, server, monkeypatch)
    before = tarfile.TarFile.extraction_filter, socket.getdefaulttimeout()
    assert get(root, "dtd", "--yes") == 2
    assert "nothing of it was kept" in capsys.readouterr().err
    assert not list(root.parent.rglob("outside*"))
    assert not list(root.iterdir())
    assert (tarfile.TarFile.extraction_filter, socket.getdefaulttimeout()) == before


@needs_care
def test_a_zip_cannot_write_outside_its_folder(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision.datasets import eurosat

    miniatures.picture(tmp_path / "a/a.jpg")
    files: dict[str, Path | bytes] = {
        "../../../outside.txt": b"x",
        "2750/A/a.jpg": (tmp_path / "a/a.jpg").read_bytes(),
    }
    _inline(eurosat, server.put("EuroSAT.zip", zipped(files)), monkeypatch)
    assert get(root, "eurosat", "--yes") == 0
    assert [path.parent.name for path in tmp_path.rglob("outside.txt")] == ["eurosat"]


@needs_care
def test_an_archive_that_holds_something_else(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = _member("fgvc-aircraft-2013b/data/a.txt")
    _offer_archive("FGVCAircraft", "fgvc-aircraft-2013b.tar.gz", archive, server, monkeypatch)
    assert get(root, "fgvc_aircraft", "--yes") == 2
    assert "nothing of it was kept" in capsys.readouterr().err
    assert not list(root.iterdir())


@pytest.mark.parametrize("name", BY_HAND)
def test_the_others_are_told_how(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", name]) == 1
    output = capsys.readouterr().out
    source = SOURCES[name]
    assert all(step in output for step in source.steps)
    assert source.split in output
    assert source.links in output
    assert data_sources.DATED in output
    assert f"promptclip data check {miniatures.short(name)}" in output
    assert ("prompt_learning_dataset" in output) == (name != "ImageNet")


def test_unusable_input(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["emoji"], "Emoji is none of the public benchmarks"),
        (["dttd"], "did you mean"),
        (["dtd"], "--root, or set DATA"),
        (["dtd", "--yes", "--root", str(root / "none")], "there is none"),
    ):
        assert main(["data", "get", *arguments]) == 2
        assert message in capsys.readouterr().err
