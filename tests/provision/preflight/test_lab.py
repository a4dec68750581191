"""Findings across machines: facts → findings, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube import pki
from kube.clock import SystemClock
from provision.data_dir import LAYOUT, StateFacts, Version
from provision.facts.facts import DockerSeen, Joined, RemoteFacts
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.machine import Listener, Route
from provision.preflight import MIB, PACKAGES
from provision.preflight.lab import Workstation, findings
from provision.preflight.reachability import Attempt, wanted

HERE = Workstation(python="3.11", arch="x86_64")


def machine(name: str, *roles: Role) -> Machine:
    return Machine(name=name, provider=ProviderName.SSH, roles=frozenset(roles or (Role.WORKER,)))


LAB = Lab(name="lab", source=Path("lab.yml"), machines=(machine("m", Role.MASTER), machine("w1"), machine("w2")))


def good(number: int, **changes: Any) -> RemoteFacts:
    facts = RemoteFacts(
        os_id="debian",
        os_version="12",
        kernel="6.1",
        arch="x86_64",
        hostname=f"host{number}",
        machine_id=f"{number:032x}",
        python="3.11.2",
        pythons=("3.11",),
        cpus=2,
        memory_total=2048 * MIB,
        memory_available=1500 * MIB,
        disk_free=10_000 * MIB,
        cgroup_version=2,
        commands={name: f"/bin/{name}" for name in PACKAGES},
        features={"overlay": True, "br_netfilter": True, "nf_tables": None, "veth": True, "bridge": True},
        listeners=(Listener(22, "0.0.0.0", 7, "sshd"),),
        routes=(Route("192.0.2.0/24", "eth0"),),
        addresses=(f"192.0.2.{number}",),
        node_address=f"192.0.2.{number}",
        docker=DockerSeen(installed=True, error="dockerd does not run"),
        package_manager="apt-get",
        package_sources=True,
        reached_at=f"192.0.2.{number}",
    )
    return msgspec.structs.replace(facts, **changes)


def found(
    *, reached: Sequence[Attempt] = (), nodes: dict[str, str] | None = None, lab: Lab = LAB, **changes: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """(machine, finding, severity) of a lab in which machines differ from good ones by `changes`."""
    facts = {name: good(number, **changes.get(name, {})) for number, name in enumerate(("m", "w1", "w2"), 1)}
    everything = findings(lab, facts, reached, nodes=nodes or {}, workstation=HERE)
    assert list(everything) == ["m", "w1", "w2"]
    for several in everything.values():
        for one in several:
            assert one.what
            assert one.found
            assert one.wanted
            assert one.mend
    return [(name, one.name, one.severity.value) for name, several in everything.items() for one in several]


def test_good_machines_have_no_findings() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sudo": False, "euid": 1000}, [("sudo", "error")]),
        ({"os_id": "alpine"}, [("os", "error")]),
        ({"os_id": "rocky", "os_like": ("rhel", "centos"), "package_manager": "dnf"}, []),
        ({"os_id": "ubuntu", "os_like": ("debian",), "os_version": "24.04"}, []),
        ({"python": "3.9.2", "pythons": ("3.9",)}, [("python", "error")]),
        ({"pythons": ("3.11", "3.12")}, []),
        ({"arch": "aarch64"}, [("arch", "error")]),
        ({"machine_id": ""}, [("machine-id", "error")]),
        ({"features": {"overlay": False, "br_netfilter": True}}, [("kernel", "error")]),
        ({"features": {"vxlan": False}}, []),
        ({"swap_total": 512 * MIB}, [("swap", "warning")]),
        ({"cgroup_version": 0}, [("cgroups", "error")]),
        ({"listeners": (Listener(10250, "0.0.0.0", 9, "kubelet"),)}, [("port", "error")]),
        ({"listeners": (Listener(6443, "0.0.0.0", 9, "no master here"),)}, []),
        (
            {
                "listeners": (Listener(10250, "0.0.0.0", 9, "python"),),
                "services": {"agent": True},
                "service_pids": {"agent": (9,)},
            },
            [],
        ),
        ({"routes": (Route("10.244.3.0/24", "eth1"),)}, [("cidr", "error")]),
        ({"routes": (Route("10.244.3.0/24", "ktool0"),)}, []),
        ({"memory_available": 100 * MIB}, [("memory", "error")]),
        ({"memory_available": 100 * MIB, "services": {"agent": True}}, []),
        ({"memory_total": 500 * MIB}, [("memory", "warning")]),
        ({"memory_total": 700 * MIB}, []),
        ({"disk_free": 10 * MIB}, [("disk", "error")]),
        ({"state": StateFacts("/var/lib/ktool", exists=True, empty=False)}, [("state", "error")]),
        ({"state": StateFacts("/var/lib/ktool", True, False, Version(LAYOUT, "0.1.0"))}, []),
        ({"kubernetes": ("k3s (pid 9)",)}, [("kubernetes", "error")]),
        ({"kubernetes": ("k3s (pid 9)",), "kubernetes_files": ("/etc/rancher/k3s",)}, [("kubernetes", "error")]),
        ({"kubernetes_files": ("/etc/kubernetes/kubelet.conf",)}, [("kubernetes", "error")]),
        ({"docker": DockerSeen(version="20.10.5", installed=True, swarm=True)}, [("swarm", "error")]),
        ({"docker": DockerSeen(version="19.3.1", installed=True)}, [("docker", "error")]),
        ({"docker": DockerSeen()}, []),
        ({"docker": DockerSeen(), "package_sources": False}, [("packages", "error")]),
        ({"commands": {}}, []),
        ({"commands": {}, "package_manager": "", "package_sources": False}, [("packages", "error")]),
        ({"package_sources": False}, []),
        ({"skew": 4.0}, []),
        ({"skew": 12.0}, [("clock", "warning")]),
        ({"skew": 12.0, "skew_error": 8.0}, []),
        ({"skew": -7200.0}, [("clock", "error")]),
        ({"addresses": (), "node_address": "", "reached_at": ""}, [("address", "error")]),
        ({"machine_id": f"{1:032x}"}, [("machine-id", "error")]),
        ({"hostname": "HOST1"}, [("hostname", "warning")]),
        ({"addresses": ("192.0.2.1",), "node_address": "192.0.2.1", "reached_at": "127.0.0.1"}, [("address", "error")]),
    ],
)
def test_each_finding_of_a_worker(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(w1=changes) == [("w1", name, severity) for name, severity in expected]


def test_a_master_needs_more() -> None:
    assert found(m={"memory_available": 250 * MIB}) == [("m", "memory", "error")]
    assert found(m={"listeners": (Listener(6443, "::", 9, "apache2"),)}) == [("m", "port", "error")]


def test_errors_come_first() -> None:
    changes = {"swap_total": 1, "disk_free": 0, "hostname": "host1"}
    assert [severity for _, _, severity in found(w1=changes)] == ["error", "warning", "warning"]


def test_mends_are_in_the_words_of_an_inventory() -> None:
    facts = {"w1": good(2, routes=(Route("10.96.0.0/24", "tun0"),), disk_free=0)}
    mends = [one.mend for one in findings(LAB, facts, workstation=HERE)["w1"]]
    assert mends == ["choose another ktool_service_cidr", "make room"]


def test_the_wrong_clock_is_named_whichever_it_is() -> None:
    # this machine's own is wrong: all others agree
    assert found(m={"skew": 500.0}, w1={"skew": 500.5}, w2={"skew": 499.0}) == []
    assert found(m={"skew": 300.0}) == [("m", "clock", "error")]


def test_the_clusters_nodes() -> None:
    own = {"m": f"{1:032x}", "w1": f"{2:032x}"}
    assert found(nodes=own) == []
    # w1 was made anew; another node has w2's id
    nodes = {"w1": "f" * 32, "old": f"{3:032x}"}
    assert found(nodes=nodes) == [("w1", "node-name", "warning"), ("w2", "machine-id", "error")]


def test_nodes_of_another_cluster() -> None:
    one, two = (pki.cert_pem(pki.create_ca(clock=SystemClock()).certificate).decode() for _ in range(2))
    joined = Joined(server="https://192.0.2.99:6443")
    assert found(m={"ca": one}, w1={"ca": one}) == []
    assert found(m={"ca": one}, w1={"ca": two, "joined": joined}) == [("w1", "other-cluster", "error")]
    assert found(w1={"ca": two}) == [("w1", "other-cluster", "error")]
    assert found(m={"ca": two}) == []


def test_ports_between_machines() -> None:
    refused = "no answer within 4 s"
    reached = [
        Attempt("w1", "m", "192.0.2.1", 6443, "API server", refused),
        Attempt("w2", "m", "192.0.2.1", 6443, "API server"),
        Attempt("m", "w2", "192.0.2.3", 10250, "kubelet", refused),
    ]
    assert found(reached=reached) == [("w1", "reach", "error"), ("w2", "reach", "error")]
    # of two masters the second stays out
    both = Lab(
        name="lab", source=Path("l"), machines=(machine("m", Role.MASTER), machine("w1", Role.MASTER), machine("w2"))
    )
    reached = [Attempt("m", "w1", "192.0.2.2", 6443, "API server", refused)]
    assert found(lab=both, reached=reached) == [("w1", "reach", "error")]


def test_which_ports_are_tried() -> None:
    facts = {name: good(number) for number, name in enumerate(("m", "w1"), 1)}
    assert [(one.source, one.target, one.port) for one in wanted(LAB, facts)] == [("w1", "m", 6443), ("m", "w1", 10250)]
    facts["w1"] = good(2, services={"agent": True})
    assert [(one.source, one.target, one.port) for one in wanted(LAB, facts)] == [("w1", "m", 6443)]
    facts["m"] = good(1, listeners=(Listener(6443, "0.0.0.0", 1, "x"),))
    assert wanted(LAB, facts) == []
    # one that comes back: its services are about to listen themselves
    facts = {"m": good(1, applied="abc"), "w1": good(2)}
    assert [(one.source, one.target, one.port) for one in wanted(LAB, facts)] == [("m", "w1", 10250)]
