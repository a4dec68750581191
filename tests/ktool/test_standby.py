"""Commands in a process that has ktool loaded, called as a node runtime calls them."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import ktool
from ktool import standby
from provision.bundle.archive import ArchiveRole, Manifest
from provision.bundle.runtime import command_script

CLIENT = Path(ktool.__file__).with_name("standby_client.py")
SECONDS = 60


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


@dataclass
class Standby:
    """The process, and its socket."""

    process: subprocess.Popen[bytes]
    path: Path


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standby]:
    path = tmp_path_factory.mktemp("standby") / "run" / "KEY"
    process = subprocess.Popen([sys.executable, "-m", "ktool.standby", str(path)])
    try:
        until(lambda: path.exists() or process.poll() is not None)
        yield Standby(process, path)
    finally:
        process.kill()
        process.wait()


def by_standby(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(CLIENT), str(path), sys.executable, *arguments]


def run(argv: list[str], *, stdin: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KUBECONFIG": ""}
    return subprocess.run(
        argv, input=stdin, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_only_root_may_connect(there: Standby) -> None:
    assert there.path.stat().st_mode & 0o777 == 0o700
    assert there.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "stdin", "status"),
    [
        (["version", "--client"], "", 0),
        (["up", "--no-such"], "", 2),
        # of the caller's folder
        (["--data-dir", "below", "kubeconfig"], "", 1),
        # of the caller's standard input
        (["join", "-"], "{no join file", 1),
    ],
)
def test_a_command_does_the_same_as_by_itself(
    there: Standby, tmp_path: Path, arguments: list[str], stdin: str, status: int
) -> None:
    alone = run([sys.executable, "-m", "ktool", *arguments], stdin=stdin, folder=tmp_path)
    done = run(by_standby(there.path, *arguments), stdin=stdin, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert done.returncode == status


def test_a_command_is_interrupted(there: Standby) -> None:
    server = psutil.Process(there.process.pid)
    # It waits for the rest of its standard input.
    process = subprocess.Popen(by_standby(there.path, "join", "-"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until(lambda: [child for child in server.children() if child.status() == psutil.STATUS_SLEEPING])
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, said
        until(lambda: not server.children())
    finally:
        process.kill()
        process.wait()


def waiting_command(there: Standby, *before: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """A client whose command waits for the rest of its standard input, and that command."""
    server = psutil.Process(there.process.pid)
    known = {child.pid for child in server.children()}
    argv = [*before, *by_standby(there.path, "join", "-")]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: [child for child in server.children() if child.pid not in known])
    (command,) = (child for child in server.children() if child.pid not in known)
    # It reads from a pipe: the file is there once it has taken the caller's place.
    assert process.stdin is not None
    mine = os.fstat(process.stdin.fileno()).st_ino
    until(lambda: os.stat(f"/proc/{command.pid}/fd/0").st_ino == mine)
    return process, command


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_a_command_ends_with_its_client_and_others_are_served_on(there: Standby) -> None:
    process, command = waiting_command(there)
    end(process)
    until(lambda: not command.is_running())
    assert there.path.exists()
    assert run(by_standby(there.path, "version", "--client")).returncode == 0
    assert there.process.poll() is None


def test_a_client_that_asks_and_goes_leaves_the_socket_where_it_is(there: Standby) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(there.path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(there.path))
        socket.send_fds(client, [b"\0".join([b"/", b"18", b"1", b"--version"])], [0, 1, 2])
    until(lambda: not psutil.Process(there.process.pid).children())
    assert there.path.exists()


def test_a_command_that_a_signal_ends_says_so_as_in_a_shell(there: Standby) -> None:
    process, command = waiting_command(there)
    try:
        process.terminate()
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
        until(lambda: not command.is_running())
    finally:
        end(process)


def test_what_the_caller_ignores_is_not_passed_on(there: Standby) -> None:
    process, command = waiting_command(there, "nohup")
    try:
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(b"{no join file", timeout=SECONDS)
        assert process.returncode == 1, said
        assert b"join" in said
        until(lambda: not command.is_running())
    finally:
        end(process)


@pytest.mark.parametrize("size", [150_000, 300_000])
def test_with_more_to_say_than_fits_a_command_runs_by_itself(there: Standby, size: int) -> None:
    many = {f"MUCH_{number}": "x" * 50_000 for number in range(size // 50_000)}
    argv = by_standby(there.path, "version", "--client")
    done = subprocess.run(argv, env={**os.environ, **many}, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout[:5]) == (0, "ktool"), done.stderr


def test_where_the_other_side_ends_before_it_has_begun_a_command_runs_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "KEY"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ending:
        ending.bind(str(path))
        ending.listen()
        argv = by_standby(path, "version", "--client")
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "KUBECONFIG": ""})
        select.select([ending], [], [], SECONDS)
    said, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, said[:5]) == (0, b"ktool")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_files_are_no_hindrance(there: Standby, closed: str) -> None:
    line = shlex.join(by_standby(there.path, "version", "--client")) + " " + closed
    alone = shlex.join([sys.executable, "-m", "ktool", "version", "--client"]) + " " + closed
    assert run(["sh", "-c", line]).returncode == run(["sh", "-c", alone]).returncode


def test_bytes_that_are_no_text_arrive(there: Standby, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    argv = [*by_standby(there.path), b"--data-dir", folder + b"/\xfe", b"kubeconfig"]
    for latin in ({}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}):
        env = {**os.environb, **{os.fsencode(n): os.fsencode(v) for n, v in latin.items()}, b"ODD": b"\xff"}
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, timeout=SECONDS)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("leftover", [True, False])
def test_where_nobody_stands_by_it_runs_by_itself(tmp_path: Path, leftover: bool) -> None:
    path = tmp_path / "KEY"
    if leftover:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
            gone.bind(str(path))
    assert run(by_standby(path, "version", "--client")).stdout.startswith("ktool")


def test_it_ends_some_time_after_its_first_command(tmp_path: Path) -> None:
    path = tmp_path / "run" / "KEY"
    script = (
        "import sys; from pathlib import Path; from ktool import standby\n"
        "standby.SERVES_SECONDS = 1; standby.main(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        until(path.exists)
        time.sleep(1.5)
        assert process.poll() is None, "until the first it waits as long as it takes"
        assert run(by_standby(path, "--help")).returncode == 0
        assert process.wait(SECONDS) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.wait()


def test_it_ends_when_another_runtime_has_come(tmp_path: Path) -> None:
    path, current = tmp_path / "run" / "KEY", tmp_path / "current"
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    current.symlink_to("old")
    script = (
        "import sys; from pathlib import Path; from ktool import standby\n"
        "standby.LOOKS_SECONDS = 0.1; sys.prefix = sys.argv[2]; standby.main(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path), str(current)])
    try:
        until(path.exists)
        time.sleep(0.5)
        assert process.poll() is None
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").rename(current)
        assert process.wait(SECONDS) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.wait()


def test_what_a_machine_needs_on_its_way_into_a_cluster_is_loaded() -> None:
    script = (
        "import importlib, json, sys\n"
        f"for name in {standby.MODULES!r}: importlib.import_module(name)\n"
        "print(json.dumps([*sys.modules]))"
    )
    loaded = json.loads(run([sys.executable, "-c", script]).stdout)
    assert {"aiohttp", "cryptography.x509", "provision.local_cluster.waiting", "ktool.commands.token"} <= {*loaded}


@pytest.mark.parametrize(
    ("somebody", "terminal", "asks"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_runtimes_command_asks_where_somebody_stands_by_but_not_at_a_terminal(
    tmp_path: Path, somebody: bool, terminal: bool, asks: bool
) -> None:
    manifest = Manifest(key="0123", role=ArchiveRole.AGENT, version="1", python_tag="cp311", arch="x86_64")
    text = command_script(manifest).replace("/run/ktool-standby", str(tmp_path))
    python, script = tmp_path / "python", tmp_path / "ktool"
    python.write_text('#!/bin/sh\necho "$1"\n')
    script.write_text(text.replace("/opt/ktool/current/bin/python", str(python)))
    python.chmod(0o755)
    script.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        if somebody:
            listener.bind(str(tmp_path / "0123"))
        ends = os.openpty() if terminal else os.pipe()
        stdin = ends[1] if terminal else ends[0]
        try:
            done = subprocess.run([script, "up"], stdin=stdin, capture_output=True, text=True, timeout=SECONDS)
        finally:
            for one in ends:
                os.close(one)
    assert done.stdout == ("-I\n" if asks else "-c\n"), done.stderr


def test_a_runtimes_command_asks_its_own_process_only() -> None:
    manifest = Manifest(key="0123", role=ArchiveRole.AGENT, version="1", python_tag="cp311", arch="x86_64")
    text = command_script(manifest)
    assert "/run/ktool-standby/0123 " in text
    assert "/opt/ktool/current/lib/python3.11/site-packages/ktool/standby_client.py " in text
    assert run(["sh", "-n"], stdin=text).returncode == 0
