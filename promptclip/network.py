"""The network: used only where something is asked for, over TLS alone, and not at all offline.

Nothing is sent but the request for a file. `PROMPTCLIP_OFFLINE=1` forbids even that: what would
have been fetched is named in an error, and no socket is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from promptclip.errors import UserError

OFFLINE = "PROMPTCLIP_OFFLINE"
_NO = frozenset({"", "0", "false", "no", "off"})
_CHUNK = 1 << 20  # bytes


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    return os.environ.get(OFFLINE, "").strip().lower() not in _NO


def refuse_offline(what: str, remedy: str) -> None:
    """Raise `UserError` where the network is forbidden.

    Args:
        what: would be downloaded, and from where.
        remedy: how to do without.
    """
    if is_offline():
        raise UserError(f"{what} is not downloaded, because {OFFLINE} is set; {remedy}")


def refuse_plain(address: str, asked_first: str | None = None) -> None:
    """Refuse an address that is not over TLS, but between programs of this machine.

    Args:
        address: an URL.
        asked_first: the host whose answer has led there; None if the address is the first.

    Raises:
        URLError: if it is refused.
    """
    parts = urlsplit(address)
    within = all(_is_this_machine(host) for host in (parts.hostname, asked_first or parts.hostname))
    if parts.scheme != "https" and not (parts.scheme == "http" and within):
        raise URLError(f"{address} is not over TLS, so it is not asked")


def opener() -> urllib.request.OpenerDirector:
    """What opens addresses over TLS, follows them to such alone, and knows no other protocol."""
    director = urllib.request.OpenerDirector()
    for handler in (
        _TLSAlone,
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        director.add_handler(handler())
    return director


@contextlib.contextmanager
def tls_alone() -> Iterator[None]:
    """Have `urllib.request.urlopen`, which libraries call, open what `opener` opens and no more."""
    before = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(opener())
    try:
        yield
    finally:
        urllib.request.install_opener(before)


def sha256_of(path: Path) -> str:
    """The checksum of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class _TLSAlone(urllib.request.BaseHandler):
    """Looks at each request before it is sent, those that redirections lead to as well."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        refuse_plain(request.full_url, request.origin_req_host)
        return request


def _is_this_machine(host: str | None) -> bool:
    """Whether a host is a numeric address of this machine; a name may be answered by others."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
