"""Being let in by a real sshd: keys, agent, passphrases, passwords, several of them, jump hosts."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.ssh import parallel
from provision.ssh.connection import Connection
from provision.ssh.errors import AuthenticationFailed, ForwardRefused, HostKeyMismatch
from provision.ssh.jump_hosts import JumpHosts
from provision.ssh.keys import ensure_key
from provision.ssh.reach import reach
from tests.ports import free_port
from tests.sshd import Server, User, missing, public_folder, sshd

pytestmark = pytest.mark.skipif(bool(missing(users=True)), reason=missing(users=True) or "-")

PASSWORD = "right word"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """alice by password or keyboard-interactive, carol by the latter only, bob by key and then password."""
    config = ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"]
    users = {name: User(PASSWORD) for name in ("alice", "bob", "carol")}
    with public_folder() as folder, sshd(folder, users=users, config=config) as started:
        text = (folder / "sshd_config").read_text()
        text += "Match User bob\n  AuthenticationMethods publickey,password\n"
        text += "Match User carol\n  PasswordAuthentication no\n"
        (folder / "sshd_config").write_text(text)
        os.kill(started.process.pid, 1)  # sshd reads it again
        deadline = time.monotonic() + 5
        while started.log.count("Server listening") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        yield started


@pytest.fixture(autouse=True)
def no_keys_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


class Asked:
    """Answers, and remembers the questions."""

    def __init__(self, *answers: str | None) -> None:
        self.questions: list[str] = []
        self._answers = list(answers)

    def __call__(self, question: str) -> str | None:
        self.questions.append(question)
        return self._answers.pop(0) if self._answers else None


def locked_key(server: Server, path: Path, *, kind: str = "ed25519") -> Path:
    """A key with the passphrase "open it", which the server lets in."""
    name, _, form = kind.partition("-")
    made = ["ssh-keygen", "-q", "-t", name, *(["-m", form] if form else []), "-N", "open it", "-f", str(path)]
    subprocess.run(made, check=True)
    with (server.folder / "authorized_keys").open("a") as file:
        file.write(path.with_name(path.name + ".pub").read_text())
    return path


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa", "rsa-PEM"])
def test_a_key_with_a_passphrase(server: Server, tmp_path: Path, kind: str) -> None:
    path = locked_key(server, tmp_path / "locked", kind=kind)
    ask = Asked("wrong", "open it")
    Connection.open(server.endpoint(identity_files=(path,)), ask=ask).close()
    assert ask.questions == [f"Passphrase for {path}: "] * 2


def test_nobody_is_asked_when_a_key_without_passphrase_does(server: Server, tmp_path: Path) -> None:
    path = locked_key(server, tmp_path / "locked")
    ask = Asked()
    Connection.open(server.endpoint(identity_files=(path, server.identity)), ask=ask).close()
    assert ask.questions == []


def test_a_passphrase_that_is_not_given(server: Server, tmp_path: Path) -> None:
    path = locked_key(server, tmp_path / "locked")
    for ask in (None, Asked(None)):
        with pytest.raises(AuthenticationFailed) as caught:
            Connection.open(server.endpoint(identity_files=(path, tmp_path / "absent")), ask=ask)
        assert f"key {path} (its passphrase was not given)" in caught.value.found
        assert f"key {tmp_path}/absent (No such file or directory)" in caught.value.found


def test_the_agent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named key's half in the agent goes first: sshd would hang up after six that it does not know."""
    path = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    with (server.folder / "authorized_keys").open("a") as file:
        file.write(path.with_name("locked.pub").read_text())
    started = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    settings = dict(re.findall(r"(SSH_\w+)=([^;]+);", started))
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", settings["SSH_AUTH_SOCK"])
        for number in range(7):
            ensure_key(tmp_path / str(number))
            subprocess.run(["ssh-add", "-q", str(tmp_path / str(number))], check=True)
        subprocess.run(["ssh-add", "-q", str(path)], check=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open it", "-f", str(path)], check=True)
        ask = Asked()
        Connection.open(server.endpoint(identity_files=(path,), agent=True), ask=ask).close()
        assert ask.questions == []
        with pytest.raises(AuthenticationFailed, match="tried agent's key"):
            Connection.open(server.endpoint(identity_files=(), agent=True))
        with pytest.raises(AuthenticationFailed, match="nothing to try"):
            Connection.open(server.endpoint(identity_files=(), agent=False))
    finally:
        os.kill(int(settings["SSH_AGENT_PID"]), 15)


def test_the_users_own_key(server: Server, tmp_path: Path) -> None:
    own = tmp_path / "home" / ".ssh" / "id_ed25519"
    own.parent.mkdir(parents=True)
    own.write_bytes(server.identity.read_bytes())
    Connection.open(server.endpoint(identity_files=(), agent=True)).close()


@pytest.mark.parametrize("user", ["alice", "carol"])
def test_a_password(server: Server, user: str) -> None:
    Connection.open(server.endpoint(user=user, identity_files=(), password=PASSWORD)).close()
    ask = Asked("wrong word", PASSWORD)
    if user == "alice":
        Connection.open(server.endpoint(user=user, identity_files=()), ask=ask).close()
        assert ask.questions == ["Password for alice@machine: "] * 2


def test_a_wrong_password_is_sent_once(server: Server) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        Connection.open(server.endpoint(user="alice", identity_files=(), password="wrong word"))
    assert "tried password; the server accepts" in caught.value.found
    assert "wrong word" not in str(caught.value)
    assert caught.value.what == "machine: does not let alice in"


def test_a_key_and_a_password(server: Server) -> None:
    Connection.open(server.endpoint(user="bob", password=PASSWORD)).close()
    with pytest.raises(AuthenticationFailed, match="the server accepts password"):
        Connection.open(server.endpoint(user="bob"))


def test_a_jump_host(server: Server, tmp_path: Path) -> None:
    with sshd(tmp_path / "inner") as inner:
        jump = server.endpoint("jump", user="alice", password=PASSWORD)
        with Connection.open(inner.endpoint("inner", jump=jump)) as connection:
            assert connection.run(["echo", "through"]).stdout == "through\n"
            assert connection.host_key == inner.host_key
            address = connection.forward_local("127.0.0.1", inner.port)
            with Connection.open(inner.endpoint(address=address[0], port=address[1])) as again:
                assert again.run(["cat"], stdin=b"x" * 1_000_000).stdout == "x" * 1_000_000
        # the host key behind is checked as well, and so is the one in front
        with pytest.raises(HostKeyMismatch, match="inner: "):
            Connection.open(inner.endpoint("inner", jump=jump, host_keys=(server.host_key,)))
        with pytest.raises(HostKeyMismatch, match="jump: "):
            Connection.open(inner.endpoint("inner", jump=server.endpoint("jump", host_keys=(inner.host_key,))))
        with pytest.raises(ForwardRefused, match="jump: "):
            Connection.open(inner.endpoint("inner", jump=jump, port=free_port()))


def test_a_jump_host_for_several_machines(server: Server, tmp_path: Path) -> None:
    """Asked once, one connection, also for those that come at the same time; and anew once it is lost."""
    ask = Asked(PASSWORD, PASSWORD)
    jumps = JumpHosts()
    jump = server.endpoint("jump", user="alice", identity_files=())
    with sshd(tmp_path / "inner") as inner:
        machines = {name: inner.endpoint(name, jump=jump) for name in ("one", "two", "three")}
        before = server.log.count("Accepted")
        found = parallel.each(machines, lambda name, at: reach(at, timeout=20, ask=ask, jumps=jumps), limit=3)
        assert found.failures == {}
        assert server.log.count("Accepted") == before + 1
        assert ask.questions == ["Password for alice@jump: "]
        found.results["one"].close()
        assert found.results["two"].run(["echo", "still"]).stdout == "still\n"
        for connection in found.results.values():
            connection.close()
        jumps.connection(jump, ask=ask).close()
        reach(machines["one"], timeout=20, ask=ask, jumps=jumps).close()
        assert len(ask.questions) == 2
        jumps.close()
