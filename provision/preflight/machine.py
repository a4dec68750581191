"""Preflight: may this machine become a cluster? Decided from facts alone, before anything is changed.

Each finding says what was found, what is wanted and what mends it. An ERROR stops `up` with the machine untouched; a
WARNING is shown and `up` goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kube.errors import KtoolError
from provision import data_dir
from provision.machine import MachineFacts, Route

MIB = 1024 * 1024
MEMORY_AVAILABLE = 300 * MIB
# Debian packages that hold the commands a node needs.
PACKAGES = {
    "nft": "nftables",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mount": "mount",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}


class Severity(StrEnum):
    """Whether a finding stops `up`."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; `name` is stable, for tests and documentation."""

    name: str
    severity: Severity
    what: str
    found: str
    wanted: str
    mend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a machine must offer.

    `ports` maps each TCP port to who will listen there; `own_pids` are processes that ktool itself runs here already
    (a second `up` finds its own listeners). Memory and disk in bytes.
    """

    ports: dict[int, str]
    pod_cidr: str
    service_cidr: str
    data_dir: Path = data_dir.DEFAULT
    ktool_version: str = ""
    own_pids: frozenset[int] = frozenset()
    own_interfaces: frozenset[str] = frozenset()
    memory_available: int = MEMORY_AVAILABLE
    memory_total: int = 900 * MIB
    disk_free: int = 1024 * MIB


def check(facts: MachineFacts, wanted: Wanted) -> list[Finding]:
    """All findings, errors first."""
    found = [
        *_system(facts),
        *_state(facts, wanted),
        *_ports(facts, wanted),
        *_docker(facts),
        *_networks(facts.routes, wanted),
        *_room(facts, wanted),
    ]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


class PreflightFailed(KtoolError):
    """The machine cannot become what it should; `findings` has every reason."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{first.what}{more}", found=first.found, wanted=first.wanted, mend=first.mend)
        self.findings = tuple(findings)


def require(findings: Iterable[Finding]) -> list[Finding]:
    """The warnings among the findings; PreflightFailed if there are errors."""
    everything = list(findings)
    errors = [finding for finding in everything if finding.severity is Severity.ERROR]
    if errors:
        raise PreflightFailed(errors)
    return everything


def error(name: str, what: str, *, found: str, wanted: str, mend: str) -> Finding:
    """A finding that stops."""
    return Finding(name, Severity.ERROR, what, found, wanted, mend)


def warning(name: str, what: str, *, found: str, wanted: str, mend: str) -> Finding:
    """A finding that is shown."""
    return Finding(name, Severity.WARNING, what, found, wanted, mend)


def _system(facts: MachineFacts) -> Iterator[Finding]:
    if facts.euid != 0:
        yield error(
            "root",
            "ktool up needs root",
            found=f"user id {facts.euid}",
            wanted="root, for firewall rules, mounts and containers",
            mend="sudo ktool up",
        )
    if facts.os_id != "debian" or facts.os_version.split(".")[0] not in ("12", "13"):
        yield warning(
            "os",
            "ktool is not tested on this operating system",
            found=f"{facts.os_id} {facts.os_version}".strip(),
            wanted="debian 12",
            mend="go on, and tell us how it went",
        )
    if facts.cgroup_version == 0:
        yield error(
            "cgroups",
            "no control groups are mounted, so containers cannot be limited",
            found="neither a version 2 hierarchy with controllers nor version 1's memory controller",
            wanted="cgroup version 2 (or 1) at /sys/fs/cgroup",
            mend="mount -t cgroup2 none /sys/fs/cgroup",
        )
    missing = sorted(name for name in PACKAGES if name not in facts.commands)
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        yield error(
            "commands",
            "commands that a node needs are missing",
            found=f"no {', '.join(missing)}",
            wanted=", ".join(sorted(PACKAGES)),
            mend=f"apt-get install {packages}",
        )
    if facts.kubernetes:
        yield error(
            "kubernetes",
            "this machine is part of another Kubernetes",
            found=", ".join(facts.kubernetes),
            wanted="a machine of its own: two kubelets fight over ports, firewall rules and containers",
            mend="take the other one away first, or use another machine",
        )


def _state(facts: MachineFacts, wanted: Wanted) -> Iterator[Finding]:
    state = facts.state
    if not state.exists or state.empty:
        return
    if state.version is None:
        yield error(
            "state",
            f"{state.path} holds something that is not ktool's",
            found="files, but no readable version.json",
            wanted="an empty directory, or one that ktool made",
            mend="choose another --data-dir, or empty this one",
        )
    elif state.version.layout != data_dir.LAYOUT:
        yield error(
            "state",
            f"{state.path} holds the state of another version of ktool",
            found=f"layout {state.version.layout}, written by ktool {state.version.ktool}",
            wanted=f"layout {data_dir.LAYOUT}, which ktool {wanted.ktool_version} reads".replace(" ,", ","),
            mend=f"run ktool {state.version.ktool} again, or remove the cluster with its `ktool down`",
        )


def _ports(facts: MachineFacts, wanted: Wanted) -> Iterator[Finding]:
    for port, user in sorted(wanted.ports.items()):
        others = [one for one in facts.listeners if one.port == port and one.pid not in wanted.own_pids]
        if others:
            by = others[0]
            who = f"{by.program} (pid {by.pid})" if by.pid is not None else "a process that the kernel does not name"
            yield error(
                "port",
                f"port {port} is in use",
                found=f"{who} listens on {by.address}:{port}",
                wanted=f"port {port} free for {user}",
                mend=f"stop it{f': kill {by.pid}' if by.pid is not None else ''}",
            )


def _docker(facts: MachineFacts) -> Iterator[Finding]:
    docker = facts.docker
    if not docker.version and not docker.installed:
        yield error(
            "docker",
            "Docker Engine does not answer and is not installed",
            found=docker.error or "no dockerd",
            wanted=f"an answer on {docker.socket}, or dockerd to start",
            mend="apt-get install docker.io",
        )
    elif docker.version and _number(docker.version) < (20, 10):
        yield error(
            "docker",
            "Docker Engine is too old",
            found=docker.version,
            wanted="20.10 or newer",
            mend="apt-get install docker.io",
        )


def _networks(routes: Sequence[Route], wanted: Wanted) -> Iterator[Finding]:
    ranges = {"pods": ipaddress.ip_network(wanted.pod_cidr), "Services": ipaddress.ip_network(wanted.service_cidr)}
    if ranges["pods"].overlaps(ranges["Services"]):
        yield error(
            "cidr",
            "the address ranges of pods and Services overlap",
            found=f"pods {wanted.pod_cidr}, Services {wanted.service_cidr}",
            wanted="two ranges without a common address",
            mend="choose another --service-cidr",
        )
    for route in routes:
        if route.interface in wanted.own_interfaces:
            continue
        there = ipaddress.ip_network(route.destination, strict=False)
        for what, mine in ranges.items():
            if mine.overlaps(there):
                yield error(
                    "cidr",
                    f"this machine already reaches the address range of {what} elsewhere",
                    found=f"a route to {route.destination} by {route.interface}",
                    wanted=f"nothing else in {mine}",
                    mend=f"choose another --{'pod' if what == 'pods' else 'service'}-cidr",
                )


def _room(facts: MachineFacts, wanted: Wanted) -> Iterator[Finding]:
    if facts.memory_available < wanted.memory_available:
        yield error(
            "memory",
            "not enough memory is available",
            found=f"{facts.memory_available // MIB} MiB available",
            wanted=f"{wanted.memory_available // MIB} MiB for the master, the agent and Docker Engine",
            mend="stop something, or use a larger machine",
        )
    elif facts.memory_total < wanted.memory_total:
        yield warning(
            "memory",
            "this machine has little memory",
            found=f"{facts.memory_total // MIB} MiB",
            wanted=f"{wanted.memory_total // MIB} MiB, to leave room for pods",
            mend="use a larger machine",
        )
    if facts.disk_free < wanted.disk_free:
        yield error(
            "disk",
            "the disk is nearly full",
            found=f"{facts.disk_free // MIB} MiB free for {facts.state.path}",
            wanted=f"{wanted.disk_free // MIB} MiB",
            mend="make room, or choose another --data-dir",
        )


def _number(version: str) -> tuple[int, int]:
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):  # a development build: not for us to judge
        return (10**6, 0)
