"""Whom we talk to: pinned keys, known_hosts files, and what is said when the key is another."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.ssh import known_hosts
from provision.ssh.connection import Connection
from provision.ssh.errors import HostKeyMismatch, HostKeyUnknown
from provision.ssh.keys import ensure_key
from tests.sshd import Server, missing, sshd

needs_sshd = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sshd")
    made = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(folder / "host_rsa")]
    subprocess.run(made, check=True)
    # RSA first, so that a client which does not say what it knows would be shown that one
    with sshd(folder, config=[f"HostKey {folder}/host_rsa"]) as started:
        yield started


@pytest.fixture
def other(tmp_path: Path) -> str:
    return " ".join(ensure_key(tmp_path / "other").split()[:2])


def rsa(server: Server) -> str:
    return " ".join((server.folder / "host_rsa.pub").read_text().split()[:2])


@needs_sshd
def test_a_pinned_key_of_any_type(server: Server, other: str) -> None:
    for key in (server.host_key, rsa(server)):
        with Connection.open(server.endpoint(host_keys=(key,))) as connection:
            assert connection.host_key == key
    Connection.open(server.endpoint(host_keys=(other, server.host_key))).close()


@needs_sshd
def test_another_key_than_the_pinned_one(server: Server, other: str) -> None:
    with pytest.raises(HostKeyMismatch) as caught:
        Connection.open(server.endpoint(host_keys=(other,)))
    offered = known_hosts.parse(server.host_key)
    assert caught.value.found == f"ssh-ed25519 {offered.fingerprint}"
    assert known_hosts.parse(other).fingerprint in caught.value.wanted
    assert caught.value.offered == server.host_key
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in caught.value.mend
    assert "Accepted" not in server.log.rpartition("Server listening")[2].rpartition("Connection from")[2]


@needs_sshd
def test_an_unknown_key_is_shown_and_not_taken(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        Connection.open(server.endpoint(host_keys=(), known_hosts=(tmp_path / "absent",)))
    assert caught.value.offered.split()[0] in caught.value.found
    assert f'ktool_ssh_host_key: "{caught.value.offered}"' in caught.value.mend
    assert not (tmp_path / "absent").exists()
    # what the error proposes does it
    line = caught.value.mend.partition("echo '")[2].partition("'")[0]
    (tmp_path / "known").write_text(line + "\n")
    Connection.open(server.endpoint(host_keys=(), known_hosts=(tmp_path / "known",))).close()


@needs_sshd
def test_a_labs_own_file_is_openssh_s_as_well(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    known_hosts.pin(file, "machine", [server.host_key])
    endpoint = server.endpoint(host_keys=(), known_hosts=(file,))
    Connection.open(endpoint).close()
    options = [f"UserKnownHostsFile={file}", "HostKeyAlias=machine", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    command = ["ssh", "-F", "none", "-i", str(server.identity), "-p", str(server.port)]
    command += [part for option in options for part in ("-o", option)]
    subprocess.run([*command, "root@127.0.0.1", "true"], check=True, capture_output=True)


@needs_sshd
@pytest.mark.parametrize("hashed", [False, True])
def test_a_file_by_ssh_keyscan(server: Server, tmp_path: Path, hashed: bool) -> None:
    scan = ["ssh-keyscan", *(["-H"] if hashed else []), "-p", str(server.port), "127.0.0.1"]
    file = tmp_path / "known"
    file.write_bytes(subprocess.run(scan, check=True, capture_output=True).stdout)
    Connection.open(server.endpoint(host_keys=(), known_hosts=(file,))).close()


@needs_sshd
def test_a_revoked_key(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "known"
    where = f"[127.0.0.1]:{server.port}"
    file.write_text(f"{where} {server.host_key}\n@revoked * {server.host_key}\n")
    with pytest.raises(HostKeyMismatch, match="revoked"):
        Connection.open(server.endpoint(host_keys=(), known_hosts=(file,)))


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+pbtdUkJ5UYPkXkIcQ0ZtHNmGrJzTjz3oMLLs0Tw0Z"
KEY2 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGgYvYkFwEXAMPLEyMBqgDGZ2YF5mX2jlmYbDYzjlGSh"


@pytest.mark.parametrize(
    ("patterns", "name", "known"),
    [
        ("one", "one", True),
        ("ONE", "one", True),
        ("one", "two", False),
        ("two,one", "one", True),
        ("*.lab", "one.lab", True),
        ("*.lab,!one.lab", "one.lab", False),
        ("192.0.2.?", "192.0.2.7", True),
        ("[192.0.2.7]:2222", "[192.0.2.7]:2222", True),
        ("[192.0.2.7]:2222", "192.0.2.7", False),
        ("192.0.2.7", "[192.0.2.7]:2222", False),
        # ssh-keygen -H of "one"
        ("|1|bm90IGEgc2FsdCBhdCBhbGwhIQ==|AAAA", "one", False),
        ("|1|broken", "one", False),
    ],
)
def test_names_in_known_hosts(tmp_path: Path, patterns: str, name: str, known: bool) -> None:
    file = tmp_path / "known"
    file.write_text(f"# a comment\n\n{patterns} {KEY} root@one\nnonsense\n@cert-authority * {KEY2}\n")
    assert bool(known_hosts.lookup([file, tmp_path / "absent"], [name]).keys) is known


def test_pins(tmp_path: Path) -> None:
    file = tmp_path / "ssh" / "known_hosts"
    assert known_hosts.pinned(file, "one") == ()
    known_hosts.unpin(file, "one")
    assert not file.exists()
    known_hosts.pin(file, "one", [f"{KEY} comment"])
    known_hosts.pin(file, "two", [f"192.0.2.1 {KEY2}"])
    assert file.read_text() == f"one {KEY}\ntwo {KEY2}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.stat().st_ino
    known_hosts.pin(file, "one", [KEY])
    assert file.stat().st_ino == before, "nothing to change"
    known_hosts.pin(file, "one", [KEY2])
    assert known_hosts.pinned(file, "one") == (KEY2,)
    known_hosts.unpin(file, "one")
    assert file.read_text() == f"two {KEY2}\n"


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa " + KEY.split()[1], "one two three"])
def test_no_host_key(text: str) -> None:
    with pytest.raises(KtoolError, match="no host key"):
        known_hosts.parse(text)


def test_fingerprint_is_ssh_keygen_s(tmp_path: Path) -> None:
    public = ensure_key(tmp_path / "key")
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key")], check=True, capture_output=True)
    assert known_hosts.parse(public).fingerprint == shown.stdout.decode().split()[1]


def test_the_labs_key(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "id_ed25519"
    public = ensure_key(path, comment="lab one")
    assert public.startswith("ssh-ed25519 AAAA")
    assert public.endswith(" lab one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("id_ed25519.pub").read_text() == public + "\n"
    private = path.read_bytes()
    path.with_name("id_ed25519.pub").unlink()
    assert ensure_key(path, comment="lab one") == public
    assert path.read_bytes() == private
    path.write_text("no key")
    with pytest.raises(KtoolError, match="cannot be read"):
        ensure_key(path)
