"""Pictures of every kind that people have, and files that only look like pictures."""

from __future__ import annotations

import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.utils import read_image
from PIL import Image
from torch.utils.data import DataLoader

from promptclip import pictures
from promptclip.benchmark import PictureError, PictureSet, read_picture
from promptclip.errors import UserError, printable

GREY = np.linspace(0, 255, 12 * 10).astype(np.uint8).reshape(12, 10)
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(read_picture(str(path)))


def saved(path: Path, array: np.ndarray[Any, Any], mode: str = "RGB", **how: Any) -> Path:
    Image.fromarray(array).convert(mode).save(path, **how)
    return path


def coops(path: Path) -> np.ndarray[Any, Any]:
    """What CoOp makes of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# Pictures that can be used


@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("a.jpg", "RGB", {}),
        ("a.jpg", "L", {}),
        ("a.jpg", "CMYK", {}),
        ("a.png", "RGB", {}),
        ("a.png", "L", {}),
        ("a.png", "1", {}),
        ("a.png", "P", {}),
        ("a.png", "LA", {}),
        ("a.png", "RGBA", {}),
        ("a.png", "P", {"transparency": 3}),
        ("a.png", "RGB", {"format": "JPEG"}),  # by another name
        ("a.jpg", "RGB", {"format": "PNG"}),
        ("a.gif", "P", {}),
        ("a.bmp", "RGB", {}),
        ("a.ppm", "RGB", {}),
        ("a.tif", "RGB", {}),
        ("a.tif", "CMYK", {}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.jfif", "RGB", {"format": "JPEG"}),
    ],
)
def test_pixels_are_those_that_coop_sees(name: str, mode: str, how: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / name, COLOURS, mode, **how)
    assert pixels(path).shape == (12, 10, 3)
    assert np.array_equal(pixels(path), coops(path))
    assert np.array_equal(pixels(path), np.asarray(read_image(str(path))))


def test_transparent_pixels_have_the_colour_below(tmp_path: Path) -> None:
    alpha = np.zeros((12, 10, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], 2)).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), COLOURS)


def test_a_palette_with_degrees_of_transparency_does_not_warn(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS).quantize(8)
    picture.save(tmp_path / "a.png", transparency=bytes(range(0, 256, 32)))
    with Image.open(tmp_path / "a.png") as opened:
        assert isinstance(opened.info["transparency"], bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(pixels(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_of_grey_are_scaled(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257  # 0 ... 65,535
    expected = np.repeat(GREY[..., None], 3, axis=2)
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert np.array_equal(pixels(tmp_path / name), expected)
    head = f"P5 {GREY.shape[1]} {GREY.shape[0]} 65535\n".encode()
    (tmp_path / "a.pgm").write_bytes(head + deep.astype(">u2").tobytes())
    assert np.array_equal(pixels(tmp_path / "a.pgm"), expected)
    # the order of bytes of another machine
    tiff = bytearray((tmp_path / "a.tif").read_bytes())
    swapped = Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes())
    swapped.save(tmp_path / "b.tif")
    assert (tmp_path / "b.tif").read_bytes()[:2] != tiff[:2]
    assert np.array_equal(pixels(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_thirty_two_bits_have_no_white(kind: Any, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(PictureError, match="32 bits, and nothing says which number is white"):
        pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_of_several_frames_counts(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (10, 12), colour) for colour in ("red", "blue"))
    lossless = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **lossless)
    with Image.open(tmp_path / name) as picture:
        assert picture.n_frames == 2
    assert np.array_equal(pixels(tmp_path / name), np.asarray(first))


def test_the_orientation_in_exif_does_not_count(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    saved(tmp_path / "turned.jpg", COLOURS, exif=exif)
    saved(tmp_path / "plain.jpg", COLOURS)
    assert np.array_equal(pixels(tmp_path / "turned.jpg"), pixels(tmp_path / "plain.jpg"))


def test_broken_metadata_is_no_fault(tmp_path: Path) -> None:
    saved(tmp_path / "a.jpg", COLOURS, exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(tmp_path / "a.jpg").shape == (12, 10, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_small_and_thin_ones_become_the_size_that_clip_takes(
    size: tuple[int, int], tmp_path: Path
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    for is_train in (True, False):
        item = picture_set(tmp_path / "a.png", is_train=is_train)[0]
        assert item["img"].shape == (3, 32, 32)


# Files that cannot be used


def png(width: int, height: int, *, bits: int = 1) -> bytes:
    """A PNG whose head tells a size, with next to nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def truncated(path: Path) -> None:
    saved(path, np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-900])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"

UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "image file is truncated"),
    "only a head": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF"), "Truncated"),
    "empty": (lambda path: path.touch(), "it is empty"),
    "missing": (lambda path: None, "No such file or directory"),
    "HTML": (
        lambda path: path.write_text("<!DOCTYPE html><p>404"),
        "begins with b'<!DOCTYPE html>",
    ),
    "SVG": (lambda path: path.write_text('<svg xmlns="http"/>'), "begins with b'<svg xmlns"),
    "PostScript": (lambda path: path.write_bytes(POSTSCRIPT), "begins with b'%!PS-Adobe"),
    "a bomb": (lambda path: path.write_bytes(png(20_000, 20_000)), "more than 89,478,485 pixels"),
    "a small bomb": (lambda path: path.write_bytes(png(9_000, 10_000)), "more than 89,478,485"),
    "a hair": (
        lambda path: path.write_bytes(png(1, 501)),
        "1 x 501 pixels, one side more than 500",
    ),
    "a folder": (lambda path: path.mkdir(), "it is no file"),
    "a pipe": (fifo, "it is no file"),
    "a socket": (unix_socket, "it is no file"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "a loop of links": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}


def picture_set(*paths: Path, is_train: bool = False) -> PictureSet:
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (32, 32)
    datums = []
    for path in paths:
        datum = Datum.__new__(Datum)  # its constructor wants a file that is there
        datum._impath, datum._label, datum._domain, datum._classname = str(path), 0, 0, "a"
        datums.append(datum)
    return PictureSet(cfg, datums, build_transform(cfg, is_train=is_train), is_train)


@pytest.mark.parametrize("strict", [False, True], ids=["", "with warnings as errors"])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_used_is_named(kind: str, strict: bool, tmp_path: Path) -> None:
    make, why = UNUSABLE[kind]
    path = tmp_path / "x.jpg"
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(PictureError) as caught:
            read_picture(str(path))
        with pytest.raises(OSError, match="x.jpg"):
            read_image(str(path))  # the engine's own, for plugins of others
    message = str(caught.value)
    assert message.startswith(f"{path}: the picture cannot be read (")
    assert why in message
    assert message.endswith("); replace it, or leave it out with DATASET.BAD_IMAGES skip")
    assert str(path) not in message.removeprefix(str(path))
    decoded = pictures.read([str(path)], decode=True)
    assert [trouble.path for trouble in decoded] == [str(path)]


@pytest.mark.slow  # PyTorch waits five seconds for the workers of each
def test_a_message_comes_whole_out_of_a_loader_worker(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", COLOURS)
    for number, (kind, (make, why)) in enumerate(UNUSABLE.items()):
        path = tmp_path / f"{number}.jpg"
        make(path)
        loader = DataLoader(picture_set(good, path), 1, num_workers=1)
        with pytest.raises(PictureError) as caught:
            list(loader)
        message = str(caught.value)
        assert message.startswith(f"{path}: the picture cannot be read"), kind
        assert why in message
        assert "Traceback" not in message
        assert "\n" not in message


@pytest.mark.parametrize("name", [b"two\nlines.png", b"caf\xe9.png", b"\x1b[31mred.png"])
def test_names_that_are_no_text(name: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    saved(path, COLOURS, format="PNG")
    assert np.array_equal(pixels(path), COLOURS)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        list(DataLoader(picture_set(path), 1, num_workers=1))
    line = printable(str(caught.value))
    assert line.isprintable()
    assert line.encode().startswith(printable(str(path)).encode())


def test_an_error_of_the_disk_is_not_one_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", COLOURS)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(PictureError, match="Input/output error.*see to the disk"):
        read_picture(str(path))
    with pytest.raises(pictures.UnreadableError) as caught:
        pictures.rgb(str(path))
    assert not caught.value.lasting


def test_no_memory_is_not_the_fault_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", COLOURS)

    def fails(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(MemoryError):
        read_picture(str(path))


def test_a_training_set_reads_deep_pictures_too(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    data = picture_set(tmp_path / "a.png", is_train=True)
    data.decode()
    assert torch.is_tensor(data[0]["img"])
    assert 0.2 < data[0]["img"].mean() < 0.8  # all white before
