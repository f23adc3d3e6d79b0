"""The network: over TLS alone, checked, and never where the environment forbids it."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import dassl.utils
import file_server
import pytest
from dassl.data.datasets import DatasetBase
from dassl.modeling import backbone
from file_server import Server

from promptclip import network
from promptclip.cli import main
from promptclip.clip import hub, openclip
from promptclip.clip.download import OPENAI, download
from promptclip.clip.load import read_clip
from promptclip.errors import UserError

REPOSITORY = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
TAG = "ViT-B-32/laion2b_s34b_b79k"


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError(f"a socket was asked for: {arguments}")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, forbidden)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, no_sockets: None) -> None:
    monkeypatch.setenv(network.OFFLINE, "1")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server.running() as server:
        yield server


@pytest.mark.parametrize(
    "address",
    [
        *("http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "data:,x", "x", ""),
        *("http://localhost/x", "http://127.0.0.1.example.org/x", "http://[::2]/x"),
        *("ftp://127.0.0.1/x", "HTTP://example.org/x", "http:///x", "//example.org/x"),
    ],
)
def test_a_plain_address_is_refused(address: str, tmp_path: Path, no_sockets: None) -> None:
    with pytest.raises(URLError, match="not over TLS"):
        network.refuse_plain(address)
    with pytest.raises((UserError, ValueError)):
        download(address, tmp_path / "file", "0" * 64)
    with network.tls_alone(), pytest.raises((URLError, ValueError)):
        urllib.request.urlopen(address)
    with pytest.raises(ValueError, match="expected an https address"):
        dassl.utils.download_url(address, str(tmp_path / "file"))
    assert not list(tmp_path.iterdir())


def test_addresses_over_tls_and_of_this_machine_are_not() -> None:
    for address in ("https://example.org/x", "http://127.0.0.1:80/x", "http://[::1]/x"):
        network.refuse_plain(address)
    with pytest.raises(URLError):  # nobody outside may send us to a program of this machine
        network.refuse_plain("http://127.0.0.1/x", "example.org")


@pytest.mark.parametrize(
    "target", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "data:,x"]
)
def test_a_redirection_to_a_plain_address_is_refused(
    target: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.moved["/file"] = target
    asked = []
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a[0]) or real(*a, **k))
    with pytest.raises(UserError, match="could not be downloaded"):
        download(server.url("file"), tmp_path / "file", "0" * 64)
    with network.tls_alone(), pytest.raises(URLError):
        urllib.request.urlopen(server.url("file"))
    assert set(asked) == {"127.0.0.1"}
    assert not list(tmp_path.iterdir())


def test_a_redirection_within_this_machine_is_followed(server: Server, tmp_path: Path) -> None:
    server.put("there", b"content")
    server.moved["/file"] = server.url("there")
    download(server.url("file"), tmp_path / "file", hashlib.sha256(b"content").hexdigest())
    assert (tmp_path / "file").read_bytes() == b"content"
    assert {headers["User-Agent"].split("/")[0] for headers in server.headers} == {"Python-urllib"}


def test_a_redirection_of_dassls_download_is_looked_at() -> None:
    handler = dassl.utils.tools._TLSAlone()
    request = urllib.request.Request("https://example.org/x")
    with pytest.raises(ValueError, match="expected an https address, got 'http://"):
        handler.redirect_request(request, None, 302, "", {}, "http://example.org/x")
    followed = handler.redirect_request(request, None, 302, "", {}, "https://example.org/y")
    assert followed.full_url == "https://example.org/y"


def test_the_usual_opener_is_back_afterwards() -> None:
    before = getattr(urllib.request, "_opener", None)
    with network.tls_alone():
        assert urllib.request._opener is not before
    assert urllib.request._opener is before


# --------------------------------------------------------------------------- offline


@pytest.mark.parametrize(
    ("value", "forbidden"),
    [("", False), ("0", False), ("no", False), ("False", False), ("1", True), ("yes", True)],
)
def test_what_forbids_the_network(value: str, forbidden: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv(network.OFFLINE, value)
    assert network.is_offline() == forbidden


def test_openais_weights_offline(offline: None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path))
    sha256 = OPENAI["RN50"].split("/")[0]
    with pytest.raises(UserError, match=f"RN50.pt .https://.*{tmp_path}/RN50.pt.*{sha256}"):
        read_clip("RN50")


def test_the_hubs_weights_offline(offline: None, empty_hub: Path) -> None:
    message = f"open_clip_model.safetensors or .*bin of https://huggingface.co/{REPOSITORY} is not"
    with pytest.raises(UserError, match=message) as caught:
        read_clip(f"open_clip:{TAG}")
    assert network.OFFLINE in str(caught.value)


def test_a_data_set_offline(offline: None, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    assert main(["data", "get", "dtd", "--root", str(tmp_path), "--yes"]) == 2
    error = capsys.readouterr().err
    assert (
        "dtd (about 625 MB, https://www.robots.ox.ac.uk/~vgg/data/dtd/) is not downloaded" in error
    )
    assert str(tmp_path / "dtd") in error
    assert not list(tmp_path.iterdir())


def test_dassls_downloads_offline(offline: None, tmp_path: Path, monkeypatch: Any) -> None:
    address = "https://example.org/a.zip"
    with pytest.raises(RuntimeError, match=f"{address} is not downloaded.*{tmp_path}"):
        dassl.utils.download_url(address, str(tmp_path / "a.zip"))
    for from_gdrive in (False, True):
        with pytest.raises(RuntimeError, match=f"{address} is not downloaded"):
            DatasetBase.download_data(None, address, str(tmp_path / "a.zip"), from_gdrive)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match=r"resnet18-\w+.pth is not downloaded"):
        backbone.build_backbone("resnet18")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- the hub's cache


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def _keep(folder: Path, name: str, content: bytes, blob: str = "") -> Path:
    """Put a file where the hub's client keeps it."""
    place = folder / f"models--{REPOSITORY.replace('/', '--')}"
    file = place / "snapshots" / "c0ffee" / name
    blob_file = place / "blobs" / (blob or hashlib.sha256(content).hexdigest())
    for path in (file, blob_file, place / "refs/main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (place / "refs/main").write_text("c0ffee")
    blob_file.write_bytes(content)
    file.symlink_to(os.path.relpath(blob_file, file.parent))
    return file


def test_what_is_there_is_used_and_nobody_asked(empty_hub: Path, no_sockets: None) -> None:
    pickled = _keep(empty_hub, "open_clip_pytorch_model.bin", b"weights")
    assert openclip.find(TAG)[0] == pickled
    safe = _keep(empty_hub, "open_clip_model.safetensors", b"other weights")
    assert openclip.find(TAG)[0] == safe
    assert hub.weights(f"{REPOSITORY}/open_clip_pytorch_model.bin") == pickled


def test_a_damaged_file_is_noticed(empty_hub: Path, no_sockets: None) -> None:
    file = _keep(empty_hub, "open_clip_model.safetensors", b"weights")
    file.write_bytes(b"others")
    with pytest.raises(UserError, match=r"is damaged: its SHA-256 is \w{64}, the hub's is \w{64}"):
        openclip.find(TAG)


def test_what_cannot_be_checked_is_told(empty_hub: Path, no_sockets: None, caplog: Any) -> None:
    _keep(empty_hub, "open_clip_model.safetensors", b"weights", blob="a" * 40)
    with caplog.at_level(logging.WARNING, "promptclip"):
        openclip.find(TAG)
    assert "is not checked" in caplog.text


def test_what_the_hub_is_asked(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def fetch(repository: str, name: str, **how: Any) -> str:
        asked.append((repository, name, how))
        if name.endswith(".safetensors"):
            raise EntryNotFoundError("no such file")
        return str(_keep(empty_hub, name, b"weights"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert openclip.find(TAG)[0].read_bytes() == b"weights"
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    assert asked == [(REPOSITORY, name, {"token": False}) for name in names]
    assert constants.HF_HUB_DISABLE_TELEMETRY

    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example.org")
    monkeypatch.setattr(hub, "_cached", lambda *arguments: None)
    with pytest.raises(UserError, match="not over TLS"):
        openclip.find(TAG)


def test_weights_without_a_checksum_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, no_sockets: None
) -> None:
    import open_clip

    trained = {"url": "https://example.org/b32.pt", "hf_hub": "", "mean": (0,) * 3, "std": (1,) * 3}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: trained)
    with pytest.raises(UserError, match=r"https://example.org/b32.pt.*open_clip:ViT-B-32/PATH"):
        openclip.find(TAG)
