"""This machine with the face of one that is reached over SSH."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from provision.facts.gather import gather
from provision.ssh.endpoint import Endpoint
from provision.ssh.errors import ForwardRefused
from provision.ssh.local import LocalConnection
from provision.ssh.reach import reach
from provision.ssh.shell import RemoteCommandFailed, Shell
from tests.sshd import alive


@pytest.fixture
def local() -> LocalConnection:
    return LocalConnection(Endpoint(name="here", address="127.0.0.1", local=True))


def test_reach_gives_it_at_once() -> None:
    with reach(Endpoint(name="here", address="127.0.0.1", local=True), timeout=1) as shell:
        assert isinstance(shell, LocalConnection)
        assert isinstance(shell, Shell)
        assert shell.forward_local("127.0.0.1", 6443) == ("127.0.0.1", 6443)


def test_commands(local: LocalConnection) -> None:
    lines: list[str] = []
    result = local.run(
        "cat; echo bad >&2; echo $A; exit 3", stdin=b"in\n", check=False, env={"A": "b c"}, on_line=lines.append
    )
    assert (result.status, result.stdout, result.stderr) == (3, "in\nb c\n", "bad\n")
    assert sorted(lines) == ["b c", "bad", "in"]
    with pytest.raises(RemoteCommandFailed, match="here: the command"):
        local.run(["false"])
    data = os.urandom(3_000_000)
    assert local.run(["sha256sum"], stdin=data, sudo=False).stdout.endswith("-\n")
    assert local.run(["true"], stdin=data).status == 0
    assert local.run(["no-such-command"], check=False).status == 127


def test_a_time_limit(local: LocalConnection, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(RemoteCommandFailed, match="did not end"):
        local.run(f"echo $$ > {tmp_path}/pid; sleep 30; true", timeout=0.5)
    assert time.monotonic() - begun < 15
    assert not alive(int((tmp_path / "pid").read_text()))


def test_input_that_nobody_reads(local: LocalConnection) -> None:
    """A command that left a child behind which holds the pipe: the writer ends with the channel, and never later."""
    begun = time.monotonic()
    assert local.run("sleep 3 <&0 >/dev/null 2>&1 & exit 4", stdin=b"x" * 3_000_000, check=False).status == 4
    assert time.monotonic() - begun < 3
    assert not [t for t in threading.enumerate() if t.name == "ssh-stdin"]


def test_files(local: LocalConnection, tmp_path: Path) -> None:
    local.put(b"x" * 1_000_000, str(tmp_path / "a b" / "c"), mode=0o600)
    assert local.get(str(tmp_path / "a b" / "c")) == b"x" * 1_000_000
    assert (tmp_path / "a b" / "c").stat().st_mode & 0o777 == 0o600


def test_channels(local: LocalConnection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        local.open_channel("127.0.0.1", listener.getsockname()[1]).close()
        port = listener.getsockname()[1]
    with pytest.raises(ForwardRefused):
        local.open_channel("127.0.0.1", port)


def test_facts(local: LocalConnection) -> None:
    facts = gather(local)
    assert facts.hostname == socket.gethostname()
    assert facts.reached_at == "127.0.0.1"
