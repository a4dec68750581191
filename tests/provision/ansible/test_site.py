"""The playbooks on real machines (nspawn, reached over SSH): from nothing to nodes, again, and back to nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from provision.ansible import CONTENT, hosts
from provision.ansible.events import RunEvent, RunResult, TaskState
from provision.ansible.run import run
from provision.bundle.archive import Archive, ArchiveRole, archives
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab_state import LabState, cache_dir
from provision.ssh.endpoint import Endpoint
from tests import machines
from tests.machines import Host

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing() or "-"),
]
TOKEN = re.compile(rb"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
GHOST = "ghost"
_GONE = "10.77.0.250"


class Site:
    """Two machines, a third that does not answer, and what is said of them."""

    def __init__(self, folder: Path, found: Sequence[Host], built: Sequence[Archive]) -> None:
        self.master, self.worker = found
        self.state = LabState(folder / "lab")
        self.archives = built
        self.events: list[RunEvent] = []
        self.lab = Lab(
            name="site",
            source=folder / "lab.yml",
            machines=(
                self._machine(self.master.name, Role.MASTER),
                self._machine(self.worker.name, Role.WORKER),
                self._machine(GHOST, Role.WORKER),
            ),
        )
        self.endpoints = {host.name: host.endpoint for host in found}

    @staticmethod
    def _machine(name: str, role: Role) -> Machine:
        return Machine(
            name=name,
            provider=ProviderName.SSH,
            roles=frozenset({role}),
            groups=("all", f"{role}s"),
            labels={"tier": name},
        )

    def run(self, playbook: str, *, ghost: bool = False, **changes: Any) -> RunResult:
        """Run a playbook on the two machines; `ghost`: on the one that is not there as well."""
        self.events = []
        known = dict(self.endpoints)
        if ghost:
            known[GHOST] = Endpoint(name=GHOST, address=_GONE, host_keys=(self.worker.host_key,), connect_timeout=2)
        given = self._hosts(known)
        return run(playbook, given, state=self.state, archives=self.archives, on_event=self.events.append, **changes)

    def _hosts(self, endpoints: Mapping[str, Endpoint]) -> list[hosts.Host]:
        return [
            hosts.of_machine(self.lab, machine, endpoints[machine.name], address=endpoints[machine.name].address)
            for machine in self.lab.machines
            if machine.name in endpoints
        ]

    def by_hand(self, playbook: Path, folder: Path) -> str:
        """What `ansible-playbook` says that runs as docs/ansible.md has it; `folder` is for its own files."""
        given = self._hosts(self.endpoints)
        files = hosts.SSHFiles(folder / "ssh_config", folder / "known_hosts")
        files.config.write_text(hosts.ssh_config(given, files))
        files.known_hosts.write_text(hosts.known_hosts(given))
        (folder / "lab.json").write_text(json.dumps(hosts.inventory(given, files)))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "lab.json")]
        done = subprocess.run(
            [*command, str(playbook)],
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "HOME": str(folder),
                "ANSIBLE_CONFIG": str(CONTENT / "ansible.cfg"),
                "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",  # no connection stays
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORKS": "1",  # the master is looked at first, however slow it is
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def nodes(self) -> dict[str, Any]:
        """The cluster's Nodes, by name."""
        found = json.loads(self.master.output("ktool get nodes -o json"))
        return {item["metadata"]["name"]: item for item in found["items"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    built = list(archives(cache_dir()).values())
    with machines.machines(["master", "worker"]) as found:
        yield Site(folder, found, built)


def test_check_mode_tells_and_changes_nothing(site: Site) -> None:
    result = site.run("site", check=True)
    assert not result.failed
    assert result.changed > 0
    for host in (site.master, site.worker):
        assert host.output("ls -A /opt /usr/local/bin").split() == ["/opt:", "/usr/local/bin:"]


def test_from_nothing_to_nodes(site: Site) -> None:
    """A machine that does not answer is told, and keeps nobody from joining."""
    result = site.run("site", ghost=True)
    assert list(result.failed) == [GHOST]
    assert result.hosts[GHOST].unreachable
    assert result.hosts[site.worker.name].changed == 3
    assert any(f"node {site.worker.name} is Ready" in text for text in result.hosts[site.worker.name].did)
    nodes = site.nodes()
    assert set(nodes) == {"master", "worker"}
    for name, node in nodes.items():
        (ready,) = [c for c in node["status"]["conditions"] if c["type"] == "Ready"]
        assert ready["status"] == "True"
        assert node["metadata"]["labels"]["tier"] == name
    for host in (site.master, site.worker):
        assert host.output("readlink /opt/ktool/current").strip() in {archive.key for archive in site.archives}
        agent = host.output("systemctl show -P ExecStart ktool-agent.service")
        assert "/opt/ktool/current/bin/python" in agent


def test_again_there_is_nothing_to_do(site: Site) -> None:
    started = time.monotonic()
    result = site.run("site")
    took = time.monotonic() - started
    assert not result.failed
    assert result.changed == 0
    states = {(event.host, event.task): event.state for event in site.events}
    assert states[site.worker.name, "Join tokens"] is TaskState.SKIPPED
    print(f"no change on two machines: {took:.1f} s")


def test_no_token_is_left_anywhere(site: Site) -> None:
    """Neither in the logs here, nor in temporary files or the journal of the machines."""
    token = json.loads(site.worker.output("cat /var/lib/ktool/agent/join.json"))["token"]
    logs = [path for path in site.state.runs.rglob("*") if path.is_file()]
    assert any(path.name == "stdout" for path in logs)
    for path in logs:
        assert not TOKEN.search(path.read_bytes()), path
    for host in (site.master, site.worker):
        found = host.run(f"grep -rlF {token} /tmp /run /var/tmp /var/log /root /home", check=False).stdout.split()
        assert not found
        assert token not in host.output("journalctl --no-pager -o cat")
    assert not any(token in event.message for event in site.events)


def test_what_is_missing_comes_back(site: Site) -> None:
    """A stopped agent, a link that is gone, a label that is wanted now."""
    site.worker.output("systemctl stop ktool-agent.service; rm /usr/local/bin/ktool")
    result = site.run("site")
    assert not result.failed
    assert result.hosts["worker"].changed == 2
    assert result.hosts["master"].changed == 0
    assert site.worker.output("systemctl is-active ktool-agent.service").strip() == "active"
    assert site.worker.output("readlink /usr/local/bin/ktool").strip() == "/opt/ktool/current/bin/ktool"


def test_one_machines_failure_is_told_and_its_own(site: Site) -> None:
    """A missing package on a machine that reaches no package sources."""
    site.worker.output("mv /usr/sbin/conntrack /usr/sbin/conntrack.away")
    try:
        result = site.run("site")
    finally:
        site.worker.output("mv /usr/sbin/conntrack.away /usr/sbin/conntrack")
    assert list(result.failed) == ["worker"]
    error = result.hosts["worker"].error("worker")
    assert error is not None
    assert "packages cannot be installed" in error.what
    assert error.wanted == "conntrack"


def test_without_a_master_nobody_joins(site: Site) -> None:
    site.master.output("mv /usr/sbin/conntrack /usr/sbin/conntrack.away")
    try:
        result = site.run("site")
    finally:
        site.master.output("mv /usr/sbin/conntrack.away /usr/sbin/conntrack")
    assert set(result.failed) == {"master", "worker"}
    (failure,) = result.hosts["worker"].failures
    assert failure.message.startswith("the master master failed: packages cannot be installed")


def test_sudo_and_passwords(site: Site) -> None:
    """A user who logs in with a password and may become root with another word of hers; neither is seen anywhere."""
    secret = "a-passphrase-of-two-words"
    site.worker.output(
        f"useradd -m -s /bin/bash op; echo 'op:{secret}' | chpasswd; echo 'op ALL=(ALL) ALL' > /etc/sudoers.d/op;"
        "echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/01-op.conf; systemctl reload ssh"
    )
    before = site.endpoints["worker"]
    site.endpoints["worker"] = Endpoint(
        name="worker",
        address=before.address,
        port=before.port,
        user="op",
        host_keys=before.host_keys,
        agent=False,
        password=secret,
        become_password=secret,
    )
    try:
        result = site.run("site", limit=["worker"])
    finally:
        site.endpoints["worker"] = before
        site.worker.output(
            "userdel -r op 2>&1; rm /etc/sudoers.d/op /etc/ssh/sshd_config.d/01-op.conf; systemctl reload ssh"
        )
    assert not result.failed, result
    assert (result.changed, result.hosts["worker"].ok) == (0, 2)
    for path in result.log.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


def test_another_host_key_is_not_accepted(site: Site) -> None:
    before = site.endpoints["worker"]
    site.endpoints["worker"] = Endpoint(
        name="worker",
        address=before.address,
        port=before.port,
        identity_files=before.identity_files,
        host_keys=(site.master.host_key,),
        agent=False,
    )
    try:
        result = site.run("site", limit=["worker"])
    finally:
        site.endpoints["worker"] = before
    assert "Host key verification failed" in result.hosts["worker"].unreachable


def test_by_hand(site: Site, tmp_path: Path) -> None:
    """By `ansible-playbook` alone, and by a playbook that lies elsewhere, as Vagrant's does. Nobody has looked at the
    machines before; that the master is there already is seen by the way, and the worker joins at once."""
    assert not site.run("reset", limit=["worker"]).failed
    said = site.by_hand(CONTENT / "site.yml", tmp_path)
    # On the worker: runtime, tokens, node. An agent that waits would be one more.
    assert recap(said) == {"master": (2, 0), "worker": (3, 2)}, said
    assert set(site.nodes()) == {"master", "worker"}
    assert site.worker.output("systemctl is-active ktool-agent.service").strip() == "active"
    elsewhere = tmp_path / "elsewhere" / "mine.yml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(json.dumps([{"import_playbook": str(CONTENT / "site.yml")}]))
    said = site.by_hand(elsewhere, tmp_path)
    assert {host: changed for host, (_, changed) in recap(said).items()} == {"master": 0, "worker": 0}, said


def recap(said: str) -> dict[str, tuple[int, int]]:
    """How many tasks were ok, and how many of those changed something, by host."""
    found = re.findall(r"^(\S+) +: ok=(\d+) +changed=(\d+) ", said, re.MULTILINE)
    return {host: (int(ok), int(changed)) for host, ok, changed in found}


def test_another_runtime(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """upgrade.yml: the archive is copied, the services run from it, the one before stays."""
    from provision.bundle import runtime

    monkeypatch.setattr(runtime, "FORMAT", runtime.FORMAT + 1)
    built = [runtime.build(ArchiveRole.CONTROL, tmp_path)]  # it does for a node as well
    before = site.master.output("readlink /opt/ktool/current").strip()
    pid = site.worker.output("systemctl show -P MainPID ktool-agent.service")
    site.archives, old = built, site.archives
    try:
        result = site.run("upgrade")
        assert not result.failed
        assert site.run("upgrade").changed == 0
    finally:
        site.archives = old
    after = site.master.output("readlink /opt/ktool/current").strip()
    assert after in {archive.key for archive in built}
    assert after != before
    assert site.worker.output("systemctl show -P MainPID ktool-agent.service") != pid
    assert set(site.master.output("ls /opt/ktool").split()) == {before, after, "current"}


def test_back_to_nothing(site: Site) -> None:
    result = site.run("reset")
    assert not result.failed
    for host in (site.master, site.worker):
        assert host.output("ls -A /opt /usr/local/bin").split() == ["/opt:", "/usr/local/bin:"]
        assert host.run("ls /var/lib/ktool", check=False).returncode != 0
        assert not host.output("ls /etc/systemd/system | grep -E '^ktool-(agent|master)' || true")
    assert site.run("reset").changed == 0
