"""Waiting for machines: each reason of its own, and no longer than wanted."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from provision.ssh import errors, parallel
from provision.ssh.endpoint import Endpoint
from provision.ssh.reach import reach
from tests.ports import free_port
from tests.sshd import Server, missing, sshd, start

needs_sshd = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+pbtdUkJ5UYPkXkIcQ0ZtHNmGrJzTjz3oMLLs0Tw0Z"


def test_refused() -> None:
    port = free_port()
    told: list[str] = []
    begun = time.monotonic()
    with pytest.raises(errors.Refused) as caught:
        reach(Endpoint(name="one", address="127.0.0.1", port=port), timeout=1, report=told.append)
    assert 0.5 < time.monotonic() - begun < 5
    assert told == ["waiting for SSH: connection refused"]
    assert caught.value.what == "one: refuses SSH"
    assert caught.value.found.startswith(f"nothing listens at 127.0.0.1:{port}; waited")


def test_a_name_that_does_not_resolve_is_not_waited_for() -> None:
    with pytest.raises(errors.NameUnknown):
        reach(Endpoint(name="one", address="one.invalid"), timeout=30)


def test_a_listener_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(name="one", address="127.0.0.1", port=listener.getsockname()[1], connect_timeout=1)
        with pytest.raises(errors.Unanswered, match="then says nothing"):
            reach(endpoint, timeout=1.2)


def test_a_listener_that_is_no_ssh_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(b"220 mail\r\n" * 200)

        threading.Thread(target=serve, daemon=True).start()
        endpoint = Endpoint(name="one", address="127.0.0.1", port=listener.getsockname()[1], connect_timeout=1)
        with pytest.raises(errors.Broken, match="could not be set up"):
            reach(endpoint, timeout=0.1)


@needs_sshd
def test_a_machine_that_comes_up_meanwhile(tmp_path: Path) -> None:
    port = free_port()
    first = start(tmp_path / "first", port=port)
    endpoint = first.endpoint()
    first.stop()
    told: list[str] = []
    started: list[Server] = []
    timer = threading.Timer(1.0, lambda: started.append(start(tmp_path / "first", port=port)))
    timer.start()
    try:
        begun = time.monotonic()
        with reach(endpoint, timeout=20, report=told.append) as connection:
            assert connection.run(["echo", "up"]).stdout == "up\n"
        assert time.monotonic() - begun < 15
        assert told == ["waiting for SSH: connection refused"]
    finally:
        timer.join()
        for server in started:
            server.stop()


@needs_sshd
def test_what_waiting_does_not_mend_fails_at_once(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as server:
        begun = time.monotonic()
        with pytest.raises(errors.AuthenticationFailed):
            reach(server.endpoint(identity_files=()), timeout=30)
        with pytest.raises(errors.HostKeyMismatch):
            reach(server.endpoint(host_keys=(OTHER,)), timeout=30)
        assert time.monotonic() - begun < 15


@needs_sshd
def test_a_user_who_is_made_after_sshd_started(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as server:
        keys = server.folder / "authorized_keys"
        text = keys.read_text()
        keys.write_text("")
        timer = threading.Timer(1.0, lambda: keys.write_text(text) and None)
        timer.start()
        reach(server.endpoint(), timeout=20, settle=15).close()
        timer.join()


def test_each_is_done_whatever_becomes_of_others() -> None:
    running = most = 0
    lock = threading.Lock()

    def work(name: str, number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        if number % 3 == 0:
            raise ValueError(name)
        return number * 10

    outcomes = parallel.each({f"m{n}": n for n in range(8)}, work, limit=3)
    assert outcomes.results == {"m1": 10, "m2": 20, "m4": 40, "m5": 50, "m7": 70}
    assert {name: str(error) for name, error in outcomes.failures.items()} == {"m0": "m0", "m3": "m3", "m6": "m6"}
    assert most == 3
    assert parallel.each({}, work, limit=3) == parallel.Outcomes({}, {})


async def test_each_in_threads() -> None:
    outcomes = await parallel.each_in_threads({"a": 1, "b": 2}, lambda name, item: item + 1, limit=5)
    assert outcomes.results == {"a": 2, "b": 3}
