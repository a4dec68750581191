"""Programs that wait for their arguments, as real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kube.late_arguments import waiting_file

# Notes each time that it is loaded, and what it is then. OpenSSL's random numbers are drawn before, as by any program
# that imports TLS; Python's `random` likewise.
PROGRAM = """
import os, random, ssl, sys
from pathlib import Path
from kube import late_arguments

late_arguments.MACHINE_ID = Path(sys.argv[1])
out = open(sys.argv[2], "a", buffering=1)

def load():
    ssl.RAND_bytes(8)
    random.random()
    print("loaded", file=out)

late_arguments.wait(sys.argv[3:], load)
print("pid", os.getpid(), file=out)
print("manager", os.environ.get("NOTIFY_SOCKET"), file=out)
print("drawn", ssl.RAND_bytes(16).hex(), random.random(), file=out)
"""
SECONDS = 30


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


def read_by_manager(manager: socket.socket) -> Iterator[bytes]:
    """What it is told of a new process; descriptors are closed as systemd does."""
    for _ in range(2):
        message, files, _, _ = socket.recv_fds(manager, 100, 1)
        for file in files:
            os.close(file)
        yield message


class Waiting:
    """The program, waiting; `lines` of what it notes, and datagrams to its service manager."""

    def __init__(self, folder: Path, *, managed: bool) -> None:
        self.arguments, self.machine_id, self.notes = folder / "x.args", folder / "machine-id", folder / "notes"
        self.machine_id.write_text("this\n")
        self.notes.touch()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(SECONDS)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        env.pop("NOTIFY_SOCKET", None)
        if managed:
            env["NOTIFY_SOCKET"] = str(folder / "notify")
        argv = [sys.executable, "-c", PROGRAM, str(self.machine_id), str(self.notes), f"@{self.arguments}"]
        self.process = subprocess.Popen(argv, env=env)
        until(waiting_file(self.arguments).exists)

    def lines(self, word: str) -> list[str]:
        return [line for line in self.notes.read_text().splitlines() if line.startswith(word)]

    def go_on(self) -> int:
        """Let it; the pid of who draws numbers then."""
        self.arguments.touch()
        until(lambda: len(self.lines("drawn")) == 1)
        assert self.lines("manager") == ["manager None"], "its own children are not the service"
        assert not waiting_file(self.arguments).exists()
        return int(self.lines("pid")[0].split()[1])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.manager.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[bool], Waiting]]:
    started: list[Waiting] = []

    def one(managed: bool) -> Waiting:
        started.append(Waiting(tmp_path, managed=managed))
        return started[-1]

    yield one
    for waiting in started:
        waiting.close()


def test_it_loads_waits_and_goes_on(start: Callable[[bool], Waiting]) -> None:
    waiting = start(True)
    assert waiting.lines("") == ["loaded"]
    assert waiting.go_on() == waiting.process.pid
    assert waiting.process.wait(SECONDS) == 0


def test_in_another_machine_it_goes_on_as_a_new_process(start: Callable[[bool], Waiting]) -> None:
    waiting = start(True)
    waiting.machine_id.write_text("another\n")
    told: list[bytes] = []
    reading = threading.Thread(target=lambda: told.extend(read_by_manager(waiting.manager)))
    reading.start()
    pid = waiting.go_on()
    reading.join()
    assert told == [f"MAINPID={pid}".encode(), b"BARRIER=1"]
    assert pid != waiting.process.pid
    assert waiting.process.wait(SECONDS) == 0
    assert waiting.lines("loaded") == ["loaded"], "once for all machines"


def test_stopped_before_its_manager_knows_of_the_new_process_none_is_left(start: Callable[[bool], Waiting]) -> None:
    waiting = start(True)
    waiting.machine_id.write_text("another\n")
    waiting.arguments.touch()
    child = int(waiting.manager.recv(100).removeprefix(b"MAINPID="))
    # A manager that has not read it takes the first one for the service.
    waiting.process.terminate()
    waiting.process.wait(SECONDS)
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert waiting.lines("pid") == []


def test_where_its_manager_cannot_be_told_it_ends(start: Callable[[bool], Waiting]) -> None:
    waiting = start(True)
    waiting.manager.close()
    waiting.machine_id.write_text("another\n")
    waiting.arguments.touch()
    assert waiting.process.wait(SECONDS) == 1, "to be started anew"
    assert waiting.lines("pid") == []


def test_without_a_service_manager_that_could_be_told_it_loads_again(start: Callable[[bool], Waiting]) -> None:
    waiting = start(False)
    waiting.machine_id.write_text("another\n")
    assert waiting.go_on() == waiting.process.pid
    assert waiting.process.wait(SECONDS) == 0


def test_a_process_that_was_copied_draws_other_numbers(tmp_path: Path) -> None:
    # What a kept memory does to one process, fork does to it here: two go on from the same state.
    twice = PROGRAM.replace(
        "late_arguments.wait(sys.argv[3:], load)",
        "late_arguments.BARRIER_SECONDS = 0.1\nload()\n"
        "for _ in range(2):\n    if os.fork() == 0:\n        late_arguments._begin_anew(sys.argv[4])\n        break\n"
        "else:\n    [os.wait() for _ in range(2)]\n    sys.exit()",
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        argv = [
            sys.executable,
            "-c",
            twice,
            str(tmp_path / "id"),
            str(tmp_path / "notes"),
            "",
            str(tmp_path / "notify"),
        ]
        subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True, timeout=SECONDS)
        until(lambda: (tmp_path / "notes").read_text().count("drawn") == 2)
    drawn = [line.split()[1:] for line in (tmp_path / "notes").read_text().splitlines() if line.startswith("drawn")]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


@pytest.mark.parametrize("there", [True, False])
def test_with_its_file_or_without_its_folder_it_does_not_wait(tmp_path: Path, there: bool) -> None:
    from kube import late_arguments

    file = tmp_path / "x.args" if there else tmp_path / "missing" / "x.args"
    if there:
        file.touch()
    late_arguments.wait(["run", f"@{file}"], lambda: pytest.fail("it has nothing to wait for"))
