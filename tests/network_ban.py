"""Processes that are told of by what they try of the network, and stopped from doing it."""

from __future__ import annotations

import os
from pathlib import Path

# Read by Python before anything else, in the workers of a grid, too. Sockets between processes of
# one machine (AF_UNIX) are none of the network.
_BAN = """
import socket, sys

def ban(event, arguments):
    asked = event == "socket.getaddrinfo" or event in ("socket.connect", "socket.sendto")
    if asked and event != "socket.getaddrinfo":
        asked = isinstance(arguments[1], tuple)
    if event == "socket.__new__":
        asked = arguments[1] in (socket.AF_INET, socket.AF_INET6)
    if asked:
        with open({record!r}, "a") as file:
            file.write(f"{{event}} {{sys.argv}}\\n")
        raise RuntimeError("the network is forbidden here")

sys.addaudithook(ban)
"""


def forbid_network(environment: dict[str, str], folder: Path, record: Path) -> None:
    """Have Pythons of this environment open no socket, and write down in `record` what they try.

    Args:
        environment: which is changed.
        folder: of the code that they read first; made if need be.
        record: there only after something was tried.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_BAN.format(record=str(record)))
    paths = [str(folder), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
