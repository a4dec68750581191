"""Where a host is and how to get in, from what is written down: SSH addresses and the user's configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.ssh import config
from provision.ssh.destination import Destination
from provision.ssh.known_hosts import USERS_FILES

CONFIG = """
Include conf.d/*.conf
Host web1
  HostName 192.0.2.11
  Port 2222
  User alice
  IdentityFile ~/.ssh/work
  IdentitiesOnly yes
Host inner far
  HostName 10.0.0.5
  ProxyJump gate,bob@192.0.2.2:2200
Host gate
  HostName 192.0.2.1
  ProxyJump first
Host first
  User carol
Host old
  ProxyCommand nc %h %p
Host known
  UserKnownHostsFile ~/.ssh/known_work
Host *
  ServerAliveInterval 5
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    monkeypatch.setenv("HOME", "/home/dave")
    monkeypatch.setattr("getpass.getuser", lambda: "dave")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("Host included\n  Port 77\nHost *\n")
    (tmp_path / "config").write_text(CONFIG)
    return (tmp_path / "config", tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://alice@host:2222", Destination("host", "alice", 2222)),
        ("ssh://host/", Destination("host")),
        ("host", Destination("host")),
        ("alice@host", Destination("host", "alice")),
        ("host:22", Destination("host", "", 22)),
        ("a%40b@host", Destination("host", "a@b")),
        ("alice@[2001:db8::1]:2222", Destination("2001:db8::1", "alice", 2222)),
    ],
)
def test_destinations(text: str, expected: Destination) -> None:
    assert Destination.parse(text) == expected
    assert Destination.parse(str(expected)).host == expected.host


@pytest.mark.parametrize(
    "text", ["", "ssh://", "host:port", "ssh://host:99999", "ssh://host/path", "-oProxyCommand=x", "ssh://a:b@host"]
)
def test_no_destinations(text: str) -> None:
    with pytest.raises(KtoolError) as caught:
        Destination.parse(text)
    assert ":b@" not in str(caught.value)


def test_a_configured_host(files: tuple[Path, ...]) -> None:
    found = config.endpoint("web", Destination("web1"), user="root", files=files)
    assert (found.name, found.address, found.port, found.user) == ("web", "192.0.2.11", 2222, "alice")
    assert found.identity_files == (Path("/home/dave/.ssh/work"),)
    assert not found.agent
    assert found.known_hosts == ()
    said = config.endpoint("web", Destination("web1", "zoe", 22), user="root", files=files)
    assert (said.user, said.port) == ("zoe", 22)
    assert config.endpoint("x", Destination("included"), files=files).port == 77


def test_an_unknown_host(files: tuple[Path, ...]) -> None:
    found = config.endpoint("x", Destination("192.0.2.3"), files=files)
    assert (found.address, found.port, found.user, found.agent, found.jump) == ("192.0.2.3", 22, "dave", True, None)
    assert config.endpoint("x", Destination("192.0.2.3"), user="root", files=files).user == "root"
    known = config.endpoint("x", Destination("known"), files=files)
    assert known.known_hosts == (Path("/home/dave/.ssh/known_work"), *USERS_FILES)


def hops(files: tuple[Path, ...], host: str, jump: tuple[str, ...] | None = None) -> list[tuple[str, str, int]]:
    found = config.endpoint("x", Destination(host), jump=jump, files=files).jump
    chain = []
    while found is not None:
        chain.append((found.user, found.address, found.port))
        found = found.jump
    return chain[::-1]


def test_jump_hosts_in_the_order_in_which_they_are_passed(files: tuple[Path, ...]) -> None:
    """`gate` itself is behind `first`; the second hop is reached from the first, whatever its own entry says."""
    assert hops(files, "inner") == [("carol", "first", 22), ("dave", "192.0.2.1", 22), ("bob", "192.0.2.2", 2200)]
    assert hops(files, "inner", ("192.0.2.9",)) == [("dave", "192.0.2.9", 22)]
    assert hops(files, "inner", ()) == []
    assert hops(files, "web1", ("a", "gate")) == [("dave", "a", 22), ("dave", "192.0.2.1", 22)]


def test_openssh_reads_it_the_same_way(files: tuple[Path, ...]) -> None:
    for host in ("web1", "inner", "192.0.2.3"):
        shown = subprocess.run(["ssh", "-G", "-F", str(files[0]), host], capture_output=True, text=True, check=True)
        theirs = dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)
        ours = config.endpoint("x", Destination(host), user=theirs["user"], files=files)
        assert (ours.address, str(ours.port), ours.user) == (theirs["hostname"], theirs["port"], theirs["user"])


def test_a_proxy_command_is_refused_by_name(files: tuple[Path, ...]) -> None:
    with pytest.raises(KtoolError, match="ProxyJump"):
        config.endpoint("x", Destination("old"), files=files)
