from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from provision.data_dir import LAYOUT, StateFacts, Version, create, read_state
from provision.machine import DockerFacts, Listener, MachineFacts, Route
from provision.preflight import MIB, PACKAGES, PreflightFailed, Severity, Wanted, check, require

GOOD = MachineFacts(
    os_id="debian",
    os_version="12",
    kernel="6.1",
    hostname="one",
    euid=0,
    systemd=False,
    cpus=2,
    memory_total=4096 * MIB,
    memory_available=2048 * MIB,
    disk_free=10_000 * MIB,
    cgroup_version=2,
    commands={name: f"/bin/{name}" for name in PACKAGES},
    listeners=(Listener(22, "0.0.0.0", 7, "sshd"),),
    routes=(Route("192.0.2.0/24", "eth0"),),
    kubernetes=(),
    docker=DockerFacts("/var/run/docker.sock", installed=True, error="no socket"),
    state=StateFacts("/var/lib/ktool"),
)
WANTED = Wanted(
    ports={6443: "the API server", 10250: "the kubelet"},
    pod_cidr="10.244.0.0/16",
    service_cidr="10.96.0.0/16",
    ktool_version="0.1.0",
)


def names(**changes: Any) -> list[tuple[str, str]]:
    return [(one.name, one.severity.value) for one in check(dataclasses.replace(GOOD, **changes), WANTED)]


def test_a_good_machine_has_no_findings() -> None:
    assert check(GOOD, WANTED) == []
    assert require([]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"euid": 1000}, ("root", "error")),
        ({"os_id": "fedora"}, ("os", "warning")),
        ({"os_version": "11"}, ("os", "warning")),
        ({"cgroup_version": 0}, ("cgroups", "error")),
        ({"commands": {}}, ("commands", "error")),
        ({"kubernetes": ("k3s (pid 9)",)}, ("kubernetes", "error")),
        ({"listeners": (Listener(6443, "::", 99, "apache2"),)}, ("port", "error")),
        ({"listeners": (Listener(10250, "127.0.0.1", None, ""),)}, ("port", "error")),
        ({"docker": DockerFacts("/s", error="no socket /s")}, ("docker", "error")),
        ({"docker": DockerFacts("/s", version="18.9.1", installed=True)}, ("docker", "error")),
        ({"routes": (Route("10.244.3.0/24", "eth1"),)}, ("cidr", "error")),
        ({"routes": (Route("10.96.0.10/32", "tun0"),)}, ("cidr", "error")),
        ({"memory_available": 10 * MIB}, ("memory", "error")),
        ({"memory_total": 800 * MIB}, ("memory", "warning")),
        ({"disk_free": 10 * MIB}, ("disk", "error")),
        ({"state": StateFacts("/d", exists=True, empty=False)}, ("state", "error")),
        (
            {"state": StateFacts("/d", exists=True, empty=False, version=Version(LAYOUT + 1, "9.0"))},
            ("state", "error"),
        ),
    ],
)
def test_each_finding(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert names(**changes) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"docker": DockerFacts("/s", version="28.2.2")},
        {"docker": DockerFacts("/s", version="dev")},
        {"state": StateFacts("/d", exists=True, empty=True)},
        {"state": StateFacts("/d", exists=True, empty=False, version=Version(LAYOUT, "0.0.9"))},
    ],
)
def test_these_are_fine(changes: dict[str, Any]) -> None:
    assert names(**changes) == []


def test_every_finding_says_found_wanted_and_mend() -> None:
    worst = dataclasses.replace(
        GOOD,
        euid=5,
        os_id="x",
        cgroup_version=0,
        commands={},
        kubernetes=("kubelet (pid 1)",),
        listeners=(Listener(6443, "0.0.0.0", 12, "nginx -g daemon"),),
        docker=DockerFacts("/s"),
        routes=(Route("10.0.0.0/8", "eth0"),),
        disk_free=0,
        memory_available=0,
        state=StateFacts("/d", exists=True, empty=False),
    )
    findings = check(worst, WANTED)
    assert all(one.what and one.found and one.wanted and one.mend for one in findings)
    assert [one.severity for one in findings] == sorted(one.severity for one in findings)
    port = next(one for one in findings if one.name == "port")
    assert port.found == "nginx -g daemon (pid 12) listens on 0.0.0.0:6443"
    with pytest.raises(PreflightFailed, match="needs root") as failed:
        require(findings)
    assert len(failed.value.findings) == sum(one.severity is Severity.ERROR for one in findings)


def test_our_own_listeners_and_bridges_are_no_clash() -> None:
    facts = dataclasses.replace(
        GOOD, listeners=(Listener(6443, "0.0.0.0", 50, "control"),), routes=(Route("10.244.0.0/24", "ktool0"),)
    )
    own = dataclasses.replace(WANTED, own_pids=frozenset({50}), own_interfaces=frozenset({"ktool0"}))
    assert len(check(facts, WANTED)) == 2
    assert check(facts, own) == []


def test_overlapping_ranges() -> None:
    wanted = dataclasses.replace(WANTED, service_cidr="10.244.128.0/20")
    assert [one.name for one in check(GOOD, wanted)] == ["cidr"]


def test_state_of_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "ktool"
    assert read_state(directory) == StateFacts(str(directory))
    directory.mkdir()
    assert read_state(directory).empty
    create(directory, ktool_version="0.1.0")
    assert read_state(directory).version == Version(LAYOUT, "0.1.0")
    (directory / "version.json").write_text("{}")
    state = read_state(directory)
    assert (state.exists, state.empty, state.version) == (True, False, None)
