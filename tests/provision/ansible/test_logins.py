"""Connections that stand before Ansible wants them, on a real sshd."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provision.ansible.hosts import Host, SSHFiles, host_variables, socket_path
from provision.ansible.logins import logged_in, login
from provision.ansible.run import run
from provision.lab_state import LabState
from provision.ssh.endpoint import Endpoint
from tests.provision.conftest import eventually
from tests.sshd import Server, missing, sshd

needs_sshd = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.raw: echo one
    - ansible.builtin.raw: echo two
"""
# Logs in to the machine on its standard input, and stays until that ends.
STAY = """
import pickle, sys
from provision.ansible.logins import logged_in
with logged_in([pickle.load(sys.stdin.buffer)], limit=1) as sockets:
    print(sockets, flush=True)
    sys.stdin.buffer.read()
"""
FILES = SSHFiles(Path("/run/x/ssh_config"), Path("/run/x/known_hosts"), Path("/run/s"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with sshd(tmp_path / "sshd") as started:
        yield started


@pytest.fixture
def playbook(tmp_path: Path) -> str:
    path = tmp_path / "two.yml"
    path.write_text(PLAYBOOK)
    return str(path)


def _logins(server: Server) -> int:
    return server.log.count("Accepted publickey")


def _ssh_processes(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return [line for line in found if str(folder) in line]


@needs_sshd
def test_ansible_uses_the_connection_that_stands(tmp_path: Path, server: Server, playbook: str) -> None:
    machine = Host(name="m1", endpoint=server.endpoint("m1"))
    with logged_in([machine], limit=5) as sockets:
        assert sockets.stat().st_mode & 0o077 == 0
        eventually(socket_path("m1", sockets).is_socket, timeout=15)
        before = _logins(server)
        result = run(playbook, [machine], state=LabState(tmp_path / "lab"), sockets=sockets)
        assert result.hosts["m1"].ok == 2
        assert (before, _logins(server)) == (1, 1)
        assert _ssh_processes(sockets)
    assert not sockets.exists()
    eventually(lambda: not _ssh_processes(sockets))


@needs_sshd
def test_ansible_logs_in_where_no_connection_stands(tmp_path: Path, server: Server, playbook: str) -> None:
    """It keeps its own at the same place, and that ends as well."""
    machine = Host(name="m1", endpoint=server.endpoint("m1"))
    with logged_in([machine], limit=0) as sockets:
        result = run(playbook, [machine], state=LabState(tmp_path / "lab"), sockets=sockets)
        assert result.hosts["m1"].ok == 2
        assert _logins(server) == 1
    assert not sockets.exists()
    eventually(lambda: not _ssh_processes(sockets))


@needs_sshd
def test_a_connection_ends_with_whoever_is_killed(server: Server) -> None:
    machine = Host(name="m1", endpoint=server.endpoint("m1"))
    with subprocess.Popen([sys.executable, "-c", STAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(pickle.dumps(machine))
            process.stdin.flush()
            sockets = Path(process.stdout.readline().decode().strip())
            eventually(socket_path("m1", sockets).is_socket, timeout=15)
            assert _ssh_processes(sockets)
        finally:
            process.kill()
    try:
        eventually(lambda: not _ssh_processes(sockets))
    finally:
        shutil.rmtree(sockets)


@needs_sshd
def test_a_machine_that_is_another_by_now(tmp_path: Path, server: Server, playbook: str) -> None:
    """No connection to it stands; Ansible says why not."""
    other = server.host_key[:-8] + ("AAAAAAAA" if not server.host_key.endswith("AAAAAAAA") else "BBBBBBBB")
    machine = Host(name="m1", endpoint=server.endpoint("m1", host_keys=(other,)))
    with logged_in([machine], limit=5) as sockets:
        result = run(playbook, [machine], state=LabState(tmp_path / "lab"), sockets=sockets)
        assert "ost key verification failed" in result.hosts["m1"].unreachable
        assert not socket_path("m1", sockets).exists()
    assert _logins(server) == 0


def test_who_is_logged_in_to() -> None:
    endpoint = Endpoint(name="m1", address="192.0.2.1", port=2222, user="op", agent=False)
    assert login(Host(name="m1", endpoint=None), FILES) == []
    assert login(Host(name="m1", endpoint=replace(endpoint, local=True)), FILES) == []
    assert login(Host(name="m1", endpoint=replace(endpoint, password="secret")), FILES) == []
    assert login(Host(name="m1", endpoint=replace(endpoint, jump=endpoint)), FILES) == []
    argv = login(Host(name="m1", endpoint=endpoint), FILES)
    assert argv[-1] == "192.0.2.1"
    assert {"User=op", "Port=2222", "BatchMode=yes"} <= set(argv)
    place = host_variables(Host(name="m1", endpoint=endpoint), FILES)["ansible_control_path"]
    assert f"ControlPath={place}" in argv
    assert len(os.fsencode(place)) < 40
    without = replace(FILES, sockets=None)
    assert "ansible_control_path" not in host_variables(Host(name="m1", endpoint=endpoint), without)


def test_where_the_program_is_missing_ansible_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    endpoint = Endpoint(name="m1", address="192.0.2.1", user="op", agent=False)
    with logged_in([Host(name="m1", endpoint=endpoint)], limit=1) as sockets:
        assert sockets.is_dir()
    assert not sockets.exists()
