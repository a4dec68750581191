"""Ports between machines, tried for real: three network namespaces on a bridge, one behind a firewall."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from provision.preflight import reachability
from provision.preflight.reachability import Attempt, attempt
from provision.ssh.commands import Become, Output
from provision.ssh.endpoint import Endpoint
from provision.ssh.local import LocalConnection
from provision.ssh.shell import OnLine

needs_namespaces = pytest.mark.skipif(
    os.environ.get("KTOOL_NETNS") != "1" or os.geteuid() != 0 or shutil.which("nft") is None,
    reason="needs root in a network namespace without uplink (scripts/in-netns)",
)


class InNamespace(LocalConnection):
    """This machine, in one of the test's network namespaces."""

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(Endpoint(name=name, address="", local=True))
        self._namespace = namespace

    def _execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Path,
        timeout: float,
        become: Become | None,
        on_line: OnLine | None,
    ) -> Output:
        inside = ["nsenter", f"--net=/run/netns/{self._namespace}", *argv]
        return super()._execute(inside, stdin=stdin, timeout=timeout, become=become, on_line=on_line)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, InNamespace]]:
    def ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=True)

    prefix = f"kr{os.getpid() % 10_000}"
    names = ["m", "w1", "w2"]
    try:
        ip("link", "add", f"{prefix}b", "type", "bridge")
        ip("link", "set", f"{prefix}b", "up")
        for number, name in enumerate(names, 1):
            space = f"{prefix}{name}"
            ip("netns", "add", space)
            ip("link", "add", f"{prefix}{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"{prefix}{number}", "master", f"{prefix}b", "up")
            ip("-n", space, "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        rules = "table inet test { chain input { type filter hook input priority 0; tcp dport 10250 drop; }; }"
        subprocess.run(["nsenter", f"--net=/run/netns/{prefix}w2", "nft", "-f", "-"], input=rules.encode(), check=True)
        yield {name: InNamespace(name, f"{prefix}{name}") for name in names}
    finally:
        for number, name in enumerate(names, 1):
            # A namespace's own links go with it, but some time later: the next test would find the names taken.
            ip("link", "delete", f"{prefix}{number}", check=False)
            ip("netns", "delete", f"{prefix}{name}", check=False)
        ip("link", "delete", f"{prefix}b", check=False)


def attempts() -> list[Attempt]:
    return [
        Attempt("w1", "m", "192.0.2.1", 6443, "API server"),
        Attempt("w2", "m", "192.0.2.1", 6443, "API server"),
        Attempt("m", "w1", "192.0.2.2", 10250, "kubelet"),
        Attempt("m", "w2", "192.0.2.3", 10250, "kubelet"),
    ]


@needs_namespaces
def test_a_firewall_is_seen(machines: dict[str, InNamespace]) -> None:
    begun = time.monotonic()
    tried = attempt(machines, attempts(), limit=4)
    assert [(one.source, one.target, one.error) for one in tried] == [
        ("w1", "m", ""),
        ("w2", "m", ""),
        ("m", "w1", ""),
        ("m", "w2", "no answer within 4 s"),
    ]
    assert time.monotonic() - begun < 30
    # the listener that waited in vain is gone
    for machine in machines.values():
        assert machine.run(["ss", "-Hltn"]).stdout == ""


@needs_namespaces
def test_all_is_well_in_no_time(machines: dict[str, InNamespace]) -> None:
    begun = time.monotonic()
    tried = attempt(machines, attempts()[:3], limit=4)
    assert {one.error for one in tried} == {""}
    assert time.monotonic() - begun < 20


@needs_namespaces
def test_wrong_addresses(machines: dict[str, InNamespace]) -> None:
    wrong = dataclasses.replace(attempts()[0], address="192.0.2.2")
    assert [one.error for one in attempt(machines, [wrong], limit=4)] == ["connection refused"]
    away = dataclasses.replace(attempts()[0], address="198.51.100.1")
    assert [one.error for one in attempt(machines, [away], limit=4)] == ["Network is unreachable"]


class Slow(InNamespace):
    """A machine that takes two seconds for anything."""

    def _execute(self, argv: Sequence[str], **how: Any) -> Output:
        time.sleep(2)
        return super()._execute(argv, **how)


@needs_namespaces
def test_who_comes_when_the_listener_has_ended_knows_nothing(
    machines: dict[str, InNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachability, "LISTEN_SECONDS", 0.5)
    slow = Slow("w1", machines["w1"]._namespace)
    assert attempt({**machines, "w1": slow}, attempts()[:1], limit=4) == []


@needs_namespaces
def test_a_port_that_is_taken_cannot_be_tried(machines: dict[str, InNamespace]) -> None:
    script = "import socket, time; s = socket.create_server(('', 6443)); print(flush=True); time.sleep(60)"
    command = ["nsenter", f"--net=/run/netns/{machines['m']._namespace}", "python3", "-IS", "-c", script]
    busy = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        assert [one.target for one in attempt(machines, attempts()[:3], limit=4)] == ["w1"]
    finally:
        busy.kill()
        busy.communicate()


def test_nothing_to_try() -> None:
    assert attempt({}, attempts(), limit=4) == []
