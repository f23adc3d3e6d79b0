"""A lock lives exactly as long as its process, wherever the file says that it is held."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.processes import go, ready, started
from mini_benchmark import cfg_of

from promptclip import lock
from promptclip.errors import UserError
from promptclip.lock import LEASE_FILE, LOCK_FILE, InUseError, alone, locked
from promptclip.run import run

HOLD = """
from promptclip import lock
if sys.argv[2] == "nothing can be locked":
    import errno, fcntl
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.lockf = lockf
with lock.locked(Path(sys.argv[1])):
    wait()
"""


@contextlib.contextmanager
def held(folder: Path, how: str = "locked") -> Iterator[subprocess.Popen[str]]:
    with started(HOLD, folder, how) as process:
        ready(process)
        yield process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_dead_process_holds_nothing(mini, tmp_path, count):
    with held(tmp_path / "run") as process:
        kill(process)
    assert json.loads((tmp_path / "run" / LOCK_FILE).read_text())["pid"] == process.pid
    assert run(cfg_of("ZeroshotCLIP", mini, tmp_path / "run"))["metrics"]
    count("kills survived")


def test_a_live_process_is_respected_and_so_is_one_that_is_stopped(mini, tmp_path, count):
    cfg = cfg_of("ZeroshotCLIP", mini, tmp_path / "run")
    with held(tmp_path / "run") as process:
        for number in (signal.SIGCONT, signal.SIGSTOP):
            process.send_signal(number)
            with pytest.raises(UserError, match=f"in use by process {process.pid} on .* since 20"):
                run(cfg)
            count("faults injected")
        process.send_signal(signal.SIGCONT)
        go(process)
        assert process.wait() == 0
    assert run(cfg)["metrics"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 50,
        b"\xff\xfe garbage",
        b"[1, 2]",
        b'"text"',
        b'{"pid": []}',
        b'{"host": "another.example", "pid": 1, "start": "2020-01-01 00:00:00"}',
    ],
)
def test_what_a_lock_file_says_means_nothing(content, tmp_path, count):
    """Neither garbage nor the name of another machine keeps anybody out."""
    (tmp_path / LOCK_FILE).write_bytes(content)
    with locked(tmp_path):
        holder = json.loads((tmp_path / LOCK_FILE).read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    with held(tmp_path) as process:
        (tmp_path / LOCK_FILE).write_bytes(content)
        with pytest.raises(InUseError, match="in use by "), locked(tmp_path):
            pass
        go(process)
        process.wait()
    count("faults injected")


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_where_nothing_can_be_locked_a_file_takes_the_place(without_locks, mini, tmp_path, count):
    folder = tmp_path / "run"
    cfg = cfg_of("ZeroshotCLIP", mini, folder)
    with held(folder, "nothing can be locked") as process:
        with pytest.raises(
            InUseError, match=f"process {process.pid} on .* has died, delete .*lease"
        ):
            run(cfg)
        go(process)
        process.wait()
        assert not (folder / LEASE_FILE).exists()
    with held(folder, "nothing can be locked") as process:
        kill(process)
    assert (folder / LEASE_FILE).exists()
    assert run(cfg)["metrics"]  # a dead process of this machine is seen to be dead
    assert {file.name for file in folder.iterdir() if "lease" in file.name} == set()
    count("kills survived")
    count("faults injected")


@pytest.mark.parametrize("content", ["", "garbage", "[]", '{"host": "another.example", "pid": 1}'])
def test_a_lease_that_nobody_here_can_judge_is_respected(without_locks, content, tmp_path, count):
    (tmp_path / LEASE_FILE).write_text(content)
    with pytest.raises(InUseError, match=r"delete .*\.lease"), locked(tmp_path):
        pass
    assert (tmp_path / LEASE_FILE).read_text() == content
    count("faults injected")


def test_a_lease_of_a_process_whose_number_another_has_now(without_locks, tmp_path, count):
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "start": "2020", "born": "1"}
    (tmp_path / LEASE_FILE).write_text(json.dumps(holder))
    with locked(tmp_path):
        assert json.loads((tmp_path / LEASE_FILE).read_text())["born"] != "1"
    assert not (tmp_path / LEASE_FILE).exists()
    count("faults injected")


def test_a_lease_that_was_taken_over_in_between_is_left(tmp_path, monkeypatch, count):
    """Two see the same dead process; the slower one does not take the faster one's lease."""
    file = tmp_path / LEASE_FILE
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "start": "2020", "born": "1"}
    file.write_text(json.dumps(dead))
    alive = lock._alive

    def faster(pid, born):
        file.write_text("of another process")
        return alive(pid, born)

    monkeypatch.setattr(lock, "_alive", faster)
    assert not lock._taken_away(file)
    assert file.read_text() == "of another process"
    assert list(tmp_path.iterdir()) == [file]
    count("faults injected")


def test_a_place_for_one_is_let_in_where_nothing_can_be_locked(without_locks, tmp_path):
    with alone(tmp_path / "place"), alone(tmp_path / "place"):
        pass
    (tmp_path / "file").write_text("no folder")
    with alone(tmp_path / "file" / "place"):
        pass


WAITS = """
from promptclip.lock import alone
with alone(Path(sys.argv[1])):
    number = int(Path(sys.argv[2]).read_text())
    time.sleep(0.02)
    Path(sys.argv[2]).write_text(str(number + 1))
    if sys.argv[3] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_many_at_a_place_for_one(tmp_path, count):
    """One after another, also behind those who are killed inside."""
    place, counter = tmp_path / "place", tmp_path / "counter"
    counter.write_text("0")
    ways = ["lives", "dies"] * 6
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(WAITS, place, counter, way)) for way in ways]
        ends = [process.communicate() and process.returncode for process in processes]
    assert ends == [-signal.SIGKILL if way == "dies" else 0 for way in ways]
    assert counter.read_text() == "12"
    count("kills survived", 6)


def test_a_lock_file_that_was_taken_away_is_made_anew(tmp_path, monkeypatch, count):
    """Whoever leaves no trace removes it: it may be just then that another has opened it."""
    opened, of_file = [], lock._opened

    def open_too_early(folder: Path):
        opened.append(of_file(folder))
        if len(opened) == 1:
            (folder / LOCK_FILE).unlink()
        return opened[-1]

    monkeypatch.setattr(lock, "_opened", open_too_early)
    with locked(tmp_path):
        holder = json.loads((tmp_path / LOCK_FILE).read_text())
        assert holder["pid"] == os.getpid()
    assert len(opened) == 2
    count("faults injected")
