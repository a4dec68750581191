"""What the probe tells of a machine, typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from provision.data_dir import StateFacts
from provision.machine import DockerFacts, Listener, MachineFacts, Route


class DockerSeen(msgspec.Struct, frozen=True):
    """Docker Engine: `version` if it answers, else `error`; `swarm`: it is part of a Docker Swarm."""

    socket: str = "/var/run/docker.sock"
    version: str = ""
    error: str = ""
    installed: bool = False
    swarm: bool = False


class Joined(msgspec.Struct, frozen=True):
    """The cluster that the machine's agent was told to join: API server, CA pins, the node's name. Empty: none."""

    server: str = ""
    pins: tuple[str, ...] = ()
    node_name: str = ""


class RemoteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as one look showed it. Memory, swap and disk in bytes, times in seconds.

    `sudo`: the look was taken as root. `pythons` are the interpreters in /usr/bin by minor version ("3.11").
    `features` maps kernel features to whether they are there (None: cannot be told from a container). `kubernetes`
    are running programs of another cluster, `kubernetes_files` what one left on the disk. `services` says which of
    master, agent, docker, etcd and haproxy run, `has_master` whether there is a master's state. `runtime_key` and
    `applied` are the node runtime that is installed and the digest of the settings applied last (empty: none),
    `runtime_linked` whether the command `ktool` leads to it, `member` whether the agent has joined and has its
    certificate, `lab` the id of the lab that it belongs to. `ca_pin` is the pin of the cluster CA that the machine
    trusts or holds. `skew`: how far the machine's clock is ahead of this one's, known to within `skew_error`.
    `reached_at`: the address by which it was reached. `problems`: what could not be found out, and why.
    """

    os_id: str = "unknown"
    os_like: tuple[str, ...] = ()
    os_version: str = ""
    kernel: str = ""
    arch: str = ""
    hostname: str = ""
    machine_id: str = ""
    euid: int = 0
    sudo: bool = True
    systemd: bool = False
    container: str = ""
    python: str = ""
    pythons: tuple[str, ...] = ()
    cpus: int = 0
    memory_total: int = 0
    memory_available: int = 0
    swap_total: int = 0
    disk_free: int = 0
    cgroup_version: int = 0
    commands: Mapping[str, str] = {}
    features: Mapping[str, bool | None] = {}
    listeners: tuple[Listener, ...] = ()
    routes: tuple[Route, ...] = ()
    addresses: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    node_address: str = ""
    kubernetes: tuple[str, ...] = ()
    kubernetes_files: tuple[str, ...] = ()
    docker: DockerSeen = DockerSeen()
    state: StateFacts = StateFacts("/var/lib/ktool")
    services: Mapping[str, bool] = {}
    service_pids: Mapping[str, tuple[int, ...]] = {}
    runtime: Mapping[str, Any] = {}
    runtime_key: str = ""
    runtime_linked: bool = False
    member: bool = False
    applied: str = ""
    lab: str = ""
    has_master: bool = False
    joined: Joined = Joined()
    ca: str = ""
    package_manager: str = ""
    package_sources: bool = False
    time: float = 0.0
    skew: float = 0.0
    skew_error: float = 0.0
    reached_at: str = ""
    problems: tuple[str, ...] = ()

    @property
    def ca_pin(self) -> str:
        """The pin of the cluster's CA (kube.pki.ca_pin); empty where there is none or it cannot be read."""
        if not self.ca:
            return ""
        from kube import pki
        from kube.errors import KtoolError

        try:
            return pki.ca_pin(pki.parse_cert(self.ca.encode(), source="ca.crt"))
        except KtoolError:
            return ""

    def address(self, wanted: str = "") -> str:
        """The address at which other machines reach this one: the wanted one, else the one by which it was reached if
        that is its own (and no forwarded port), else that of its default route."""
        if wanted:
            return wanted
        if self.reached_at in self.addresses:
            return self.reached_at
        return self.node_address or self.reached_at

    def machine(self) -> MachineFacts:
        """As preflight looks at the machine that it runs on."""
        return MachineFacts(
            os_id=self.os_id,
            os_version=self.os_version,
            kernel=self.kernel,
            hostname=self.hostname,
            euid=self.euid,
            systemd=self.systemd,
            cpus=self.cpus,
            memory_total=self.memory_total,
            memory_available=self.memory_available,
            disk_free=self.disk_free,
            cgroup_version=self.cgroup_version,
            commands=self.commands,
            listeners=self.listeners,
            routes=self.routes,
            kubernetes=self.kubernetes,
            docker=DockerFacts(
                self.docker.socket,
                version=self.docker.version,
                error=self.docker.error,
                installed=self.docker.installed,
            ),
            state=self.state,
        )
