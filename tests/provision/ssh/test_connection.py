"""Connections to a real sshd: commands, files, forwards, and how they end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.ssh.connection import Connection
from provision.ssh.errors import BecomeFailed, ConnectionLost, ForwardRefused
from provision.ssh.shell import RemoteCommandFailed, Shell
from tests.sshd import Server, User, alive, missing, public_folder, sshd

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[Connection]:
    with Connection.open(server.endpoint()) as opened:
        yield opened


def test_commands(connection: Connection) -> None:
    assert isinstance(connection, Shell)
    quoted = connection.run(["printf", "%s|", "a b", "$HOME", "'", ""])
    assert (quoted.status, quoted.stdout, quoted.stderr) == (0, "a b|$HOME|'||", "")
    script = connection.run("cd /; for i in 1 2; do echo $i; done; echo bad >&2; exit 3", check=False)
    assert (script.status, script.stdout, script.stderr) == (3, "1\n2\n", "bad\n")
    assert connection.run(["cat"], stdin=b"\x00in").stdout == "\x00in"
    assert connection.run("echo $GREETING", env={"GREETING": "a 'b' $c"}).stdout == "a 'b' $c\n"
    assert connection.host_key.startswith("ssh-ed25519 AAAA")
    assert connection.local_address == "127.0.0.1"


def test_a_failed_command_is_told_with_the_machine(connection: Connection) -> None:
    with pytest.raises(RemoteCommandFailed) as caught:
        connection.run(["sh", "-c", "echo no such thing >&2; exit 4"])
    assert caught.value.status == 4
    assert caught.value.machine == "machine"
    assert caught.value.what.startswith("machine: the command `sh -c")
    assert caught.value.found == "exit status 4; no such thing"


def test_lines_come_as_they_are_written(connection: Connection) -> None:
    heard: list[tuple[str, float]] = []
    begun = time.monotonic()
    connection.run(
        "echo one; sleep 0.4; echo two >&2; printf three",
        on_line=lambda line: heard.append((line, time.monotonic() - begun)),
    )
    assert [line for line, _ in heard] == ["one", "two", "three"]
    assert heard[1][1] - heard[0][1] > 0.3


def test_big_input_and_outputs(connection: Connection) -> None:
    """Both outputs and the input, more than any window holds, at the same time."""
    data = os.urandom(1024) * 6000
    text = connection.run("cat | od -An -tx1 -v | tee /dev/stderr | wc -c; exit 0", stdin=data, timeout=60)
    assert int(text.stdout) == len(text.stderr) > 3 * len(data)


def test_a_command_that_does_not_read_its_input(connection: Connection) -> None:
    assert connection.run(["true"], stdin=b"x" * 8_000_000).status == 0


def test_time_limit_ends_the_command_there_too(connection: Connection, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(RemoteCommandFailed) as caught:
        connection.run(f"echo $$ > {tmp_path}/pid; echo begun; sleep 60", timeout=1)
    assert time.monotonic() - begun < 15
    assert caught.value.status is None
    assert "did not end" in caught.value.found
    deadline = time.monotonic() + 20
    pid = int((tmp_path / "pid").read_text())
    while alive(pid):
        assert time.monotonic() < deadline, "still runs"
        time.sleep(0.1)


def test_a_daemon_left_behind_does_not_hold_the_command(connection: Connection, tmp_path: Path) -> None:
    begun = time.monotonic()
    connection.run(f"sleep 20 & echo $! > {tmp_path}/pid; echo started")
    assert time.monotonic() - begun < 15
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_files(connection: Connection, tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "it's $here"
    connection.put(b"secret", str(target), mode=0o600)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"secret", 0o600)
    assert connection.get(str(target)) == b"secret"
    big = tmp_path / "big"
    big.write_bytes(os.urandom(5_000_000))
    connection.put(big, str(target), mode=0o644, owner="1:1")
    assert target.read_bytes() == big.read_bytes()
    assert (target.stat().st_mode & 0o777, target.stat().st_uid) == (0o644, 1)
    assert connection.get(str(target)) == big.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    with pytest.raises(RemoteCommandFailed, match="No such file"):
        connection.get(str(tmp_path / "absent"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(RemoteCommandFailed):
        connection.put(b"", str(tmp_path / "folder"))
    connection.put(b"", str(target))
    assert connection.get(str(target)) == b""


def test_many_threads_share_a_connection(connection: Connection) -> None:
    """More than sshd's MaxSessions."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(connection.run(f"sleep 0.2; echo {n}").stdout.strip()))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(20))


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Sends back what it gets, upper case, once all has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        data = b""
                        while part := client.recv(65536):
                            data += part
                        client.sendall(data.upper())

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def test_forwards(server: Server) -> None:
    with echo_server() as port, Connection.open(server.endpoint()) as connection:
        address = connection.forward_local("127.0.0.1", port)
        assert address[0] == "127.0.0.1"
        assert exchange(address, b"hello") == b"HELLO"
        assert exchange(address, b"a" * 3_000_000) == b"A" * 3_000_000
        channel = connection.open_channel("127.0.0.1", port)
        channel.sendall(b"direct")
        channel.shutdown_write()
        assert channel.recv(100) == b"DIRECT"
        channel.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_a_forward_to_nobody(connection: Connection) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ForwardRefused, match="a listener at"):
        connection.open_channel("127.0.0.1", port)
    with contextlib.suppress(ConnectionResetError):
        assert exchange(connection.forward_local("127.0.0.1", port), b"") == b""


def test_a_server_that_forbids_forwards(tmp_path: Path) -> None:
    with (
        sshd(tmp_path, config=["AllowTcpForwarding no"]) as server,
        Connection.open(server.endpoint()) as connection,
        pytest.raises(ForwardRefused, match="AllowTcpForwarding yes"),
    ):
        connection.open_channel("127.0.0.1", 1)


def test_a_connection_that_dies_while_a_command_runs(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        connection = Connection.open(server.endpoint())
        threading.Timer(0.5, server.kill_sessions).start()
        begun = time.monotonic()
        with pytest.raises(ConnectionLost, match="while a command ran"):
            connection.run("sleep 20 & wait", timeout=30)
        assert time.monotonic() - begun < 15
        assert not connection.active
        with pytest.raises(ConnectionLost):
            connection.run(["true"])
        connection.close()
        connection.close()


def test_a_connection_that_dies_leaves_no_half_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(400_000_000)
    with sshd(tmp_path / "sshd") as server, Connection.open(server.endpoint()) as connection:
        threading.Timer(0.4, server.kill_sessions).start()
        with pytest.raises(ConnectionLost):
            connection.put(big, str(target))
    time.sleep(0.3)
    assert target.read_text() == "old"


@pytest.mark.skipif(bool(missing(users=True)), reason=missing(users=True) or "-")
class TestSudo:
    @pytest.fixture(scope="class")
    @classmethod
    def users(cls) -> Iterator[Server]:
        users = {
            "free": User(sudo="ALL=(ALL) NOPASSWD: ALL"),
            "asked": User("right word", sudo="ALL=(ALL) ALL"),
            "nobody2": User("right word"),
        }
        with public_folder() as folder, sshd(folder, users=users) as started:
            yield started

    @pytest.mark.parametrize("word", ["", "not needed"])
    def test_without_a_password(self, users: Server, word: str) -> None:
        """A password that sudo does not ask for must not become the command's input."""
        with Connection.open(users.endpoint(user="free", become_password=word)) as connection:
            assert connection.run(["id", "-un"]).stdout == "root\n"
            assert connection.run(["id", "-un"], sudo=False).stdout == "free\n"
            assert connection.run(["cat"], stdin=b"data").stdout == "data"
            failed = connection.run("echo said >&2; exit 5", check=False, env={"A": "1"})
            assert (failed.status, failed.stderr) == (5, "said\n")

    def test_with_a_password(self, users: Server, tmp_path: Path) -> None:
        with Connection.open(users.endpoint(user="asked", become_password="right word")) as connection:
            for _ in range(2):
                assert connection.run("id -un; cat", stdin=b"data\n").stdout == "root\ndata\n"
            connection.put(b"x" * 1_000_000, str(tmp_path / "roots"), mode=0o600)
            assert connection.get(str(tmp_path / "roots")) == b"x" * 1_000_000
            with pytest.raises(RemoteCommandFailed):
                connection.get(str(tmp_path / "roots"), sudo=False)
            with pytest.raises(RemoteCommandFailed) as caught:
                connection.run(["sleep", "20"], timeout=1)
            assert caught.value.status is None

    @pytest.mark.parametrize(
        ("user", "word", "found"),
        [
            ("asked", "", "a password is required"),
            ("asked", "wrong word", "incorrect password"),
            ("nobody2", "", "a password is required"),
            ("nobody2", "right word", "is not in the sudoers file|may not run sudo|not allowed"),
        ],
    )
    def test_refused(self, users: Server, user: str, word: str, found: str) -> None:
        with (
            Connection.open(users.endpoint(user=user, become_password=word)) as connection,
            pytest.raises(BecomeFailed, match=found) as caught,
        ):
            connection.run(["id"])
        assert "right word" not in str(caught.value)

    def test_who_can_be_asked_is_asked_once(self, users: Server) -> None:
        answers = ["wrong word", "right word"]
        questions: list[str] = []

        def ask(question: str) -> str:
            questions.append(question)
            return answers.pop(0)

        with Connection.open(users.endpoint(user="asked"), ask=ask) as connection:
            assert connection.run(["id", "-un"]).stdout == "root\n"
            assert connection.run(["cat"], stdin=b"data").stdout == "data"
        assert questions == ["sudo password for asked@machine: "] * 2
