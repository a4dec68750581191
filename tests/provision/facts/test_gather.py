"""A look at a real machine through a real sshd, and the probe under every Python that this machine has."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import pki
from kube.clock import SystemClock
from provision import machine
from provision.facts import probe
from provision.facts.facts import RemoteFacts
from provision.facts.gather import PythonMissing, gather, understood
from provision.ssh.connection import Connection
from provision.ssh.endpoint import Endpoint
from provision.ssh.local import LocalConnection
from provision.ssh.shell import Result
from tests.sshd import Server, User, missing, public_folder, sshd

needs_sshd = pytest.mark.skipif(bool(missing()), reason=missing() or "-")
OLDER = [f"3.{minor}" for minor in range(6, 15)]


def interpreter(version: str) -> str:
    """An interpreter of that version; empty if there is none."""
    found = shutil.which(f"python{version}") or ""
    if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    homes = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    return str(homes[0]) if homes else ""


@pytest.mark.parametrize("version", OLDER)
def test_the_probe_suits_old_and_new_pythons(version: str) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} here")
    with open(probe.__file__) as source:
        done = subprocess.run([python, "-IS", "-"], stdin=source, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["python"].startswith(version + ".")
    assert facts["problems"] == []
    assert done.stderr == ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@needs_sshd
def test_facts_are_what_this_machine_says_of_itself(server: Server) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Connection.open(server.endpoint()) as connection,
    ):
        facts = gather(connection)
        mine = machine.gather(Path("/var/lib/ktool"), docker_socket=Path("/var/run/docker.sock"))
        port = listener.getsockname()[1]
    theirs = facts.machine()
    for field in ("os_id", "os_version", "kernel", "hostname", "euid", "systemd", "cpus", "cgroup_version", "state"):
        assert getattr(theirs, field) == getattr(mine, field), field
    assert theirs.memory_total <= mine.memory_total
    assert set(theirs.routes) == set(mine.routes)
    assert {name for name in mine.commands if name in machine.COMMANDS} == set(theirs.commands) - {"sudo"}
    found = {(one.port, one.address): one.pid for one in facts.listeners}
    assert found[(port, "127.0.0.1")] == os.getpid()
    assert {(one.port, one.address) for one in mine.listeners if one.pid == os.getpid()} <= set(found)
    assert facts.node_address == machine.node_address()
    assert facts.machine_id == Path("/etc/machine-id").read_text().strip()
    assert facts.sudo
    assert facts.problems == ()
    assert facts.reached_at == "127.0.0.1"
    assert f"{sys.version_info[0]}." in facts.python
    assert abs(facts.skew) <= facts.skew_error + 0.05
    assert all(re.fullmatch(r"3\.\d+", version) for version in facts.pythons)


def test_it_is_quick_and_one_exchange() -> None:
    """Counted in CPU time: other work runs beside the tests."""
    calls: list[str] = []

    class Counting(LocalConnection):
        def run(self, *args: Any, **kwargs: Any) -> Result:
            calls.append("run")
            return super().run(*args, **kwargs)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    gather(Counting(Endpoint(name="here", address="127.0.0.1", local=True)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert calls == ["run"]
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


@needs_sshd
def test_a_machine_without_python(tmp_path: Path) -> None:
    with (
        sshd(tmp_path / "sshd", config=[f"SetEnv PATH={tmp_path}/bin"]) as server,
        Connection.open(server.endpoint()) as connection,
    ):
        (tmp_path / "bin").mkdir()
        for name in ("env", "timeout"):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
        with pytest.raises(PythonMissing) as caught:
            gather(connection)
    assert caught.value.what == "machine: there is no python3"
    assert "apt-get install python3" in caught.value.mend


@pytest.mark.skipif(bool(missing(users=True)), reason=missing(users=True) or "-")
def test_a_user_who_may_not_become_root() -> None:
    users = {"plain": User(), "free": User(sudo="ALL=(ALL) NOPASSWD: ALL")}
    # root's Python may lie where others cannot go
    path = ["SetEnv PATH=/usr/bin:/bin"]
    with public_folder() as folder, sshd(folder, users=users, config=path) as server:
        with Connection.open(server.endpoint(user="plain")) as connection:
            facts = gather(connection)
            assert (facts.sudo, facts.euid >= 60_000) == (False, True)
        with Connection.open(server.endpoint(user="free")) as connection:
            facts = gather(connection)
            assert (facts.sudo, facts.euid) == (True, 0)


def test_ktool_on_the_machine(tmp_path: Path) -> None:
    """What ktool leaves on a machine, and a service of it that runs."""
    state, opt = tmp_path / "state", tmp_path / "opt"
    (state / "agent").mkdir(parents=True)
    (state / "pki").mkdir()
    (opt / "KEY").mkdir(parents=True)
    (opt / "current").symlink_to("KEY")
    (opt / "KEY" / "manifest.json").write_text('{"key": "KEY", "python_tag": "cp311"}')
    (state / "version.json").write_text('{"layout": 1, "ktool": "0.1.0"}')
    (state / "applied").write_text("digest\n")
    pin = "sha256:" + "a" * 64
    join = {"server": "https://192.0.2.1:6443", "token": "abcdef.0123456789abcdef", "caCertHashes": [pin]}
    (state / "agent" / "join.json").write_text(json.dumps(join | {"nodeName": "one"}))
    ca = pki.create_ca(clock=SystemClock())
    (state / "pki" / "ca.crt").write_bytes(pki.cert_pem(ca.certificate))
    source = Path(probe.__file__).read_text()
    source = source.replace('"/var/lib/ktool"', repr(str(state))).replace(
        '"/opt/ktool/current"', repr(str(opt / "current"))
    )
    script = "import time; time.sleep(60)"
    (tmp_path / "control.py").write_text(script)
    (tmp_path / "agent.py").write_text(script)
    (state / "master.args").touch()
    # The agent was started ahead, and waits for a file: it is no agent yet.
    lines = [("control", state, "master.args"), ("agent", state / "agent", "agent.args")]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", module, "--data-dir", str(folder), f"@{state / file}"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
        )
        for module, folder, file in lines
    ]
    running = programs[0]
    try:
        deadline = time.monotonic() + 5
        for module, one in zip(("control", "agent"), programs, strict=True):
            while module not in Path(f"/proc/{one.pid}/cmdline").read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
        done = subprocess.run([sys.executable, "-IS", "-"], input=source, capture_output=True, text=True, check=True)
    finally:
        for one in programs:
            one.kill()
            one.wait()
    assert "0123456789abcdef" not in done.stdout
    facts = understood(done.stdout)
    assert facts.services["master"]
    assert not facts.services["agent"]
    assert facts.service_pids["master"] == (running.pid,)
    assert (facts.runtime_key, facts.runtime["python_tag"], facts.applied) == ("KEY", "cp311", "digest")
    assert (facts.joined.server, facts.joined.pins, facts.joined.node_name) == ("https://192.0.2.1:6443", (pin,), "one")
    assert facts.state.version is not None
    assert facts.state.version.layout == 1
    assert facts.ca_pin == pki.ca_pin(ca.certificate)


@pytest.mark.parametrize(
    ("wanted", "reached_at", "address"),
    [
        ("", "192.0.2.5", "192.0.2.5"),
        ("", "127.0.0.1", "192.0.2.7"),
        ("192.0.2.9", "192.0.2.5", "192.0.2.9"),
        ("", "192.0.2.66", "192.0.2.7"),
    ],
)
def test_the_address_for_other_machines(wanted: str, reached_at: str, address: str) -> None:
    facts = RemoteFacts(addresses=("192.0.2.5", "192.0.2.7"), node_address="192.0.2.7", reached_at=reached_at)
    assert facts.address(wanted) == address


_SIDE_BY_SIDE = """
import os, sys, threading, msgspec
from provision.facts.gather import understood
sys.setswitchinterval(1e-6)

def look(barrier):
    barrier.wait()
    try:
        understood('{"docker": {}, "manifest": "{}"}')
    except msgspec.ValidationError:
        pass

for _ in range(60):
    child = os.fork()
    if not child:
        barrier = threading.Barrier(6)
        threads = [threading.Thread(target=look, args=(barrier,)) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        sys.exit(f"ended with {os.waitstatus_to_exitcode(status)}")
"""


def test_the_first_machines_may_be_looked_at_side_by_side() -> None:
    """What is learned of a type at its first use is learned by one thread alone: msgspec crashes otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", _SIDE_BY_SIDE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
