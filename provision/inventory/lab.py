"""What an inventory says, as plain data: a Lab and its Machines.

Everything here has been checked; whoever reads it needs no second thought about types, ranges or defaults. The
variables' names in an inventory are these fields with `ktool_` in front (docs/inventories.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Role(StrEnum):
    """What a machine does in the cluster; from the inventory's groups of the same names in the plural."""

    MASTER = "master"
    WORKER = "worker"
    LOAD_BALANCER = "load_balancer"


class Store(StrEnum):
    """Where the cluster's state is kept."""

    SQLITE = "sqlite"  # in one master
    ETCD = "etcd"  # in a member of etcd beside each master


class ProviderName(StrEnum):
    """Where a machine comes from."""

    LOCAL = "local"  # this machine
    SSH = "ssh"  # exists, reached over SSH
    LIBVIRT = "libvirt"  # a virtual machine that ktool makes
    NSPAWN = "nspawn"  # a systemd-nspawn machine on this host that ktool makes
    REDFISH = "redfish"  # bare metal that ktool powers on and installs


class NetworkMode(StrEnum):
    """How machines that ktool makes are connected."""

    EXISTING = "existing"  # a network or bridge that is there already
    NAT = "nat"
    ISOLATED = "isolated"  # machines and host only
    USER = "user"  # no privileges needed: each machine behind an address translation of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHSettings:
    """How a machine is reached; Ansible's own variables (`ansible_host`, `ansible_port`, `ansible_user`...).

    `address` empty: the provider finds it out. `jump` are `user@host:port` in the order in which they are passed.
    `host_key` is a public key in the form of known_hosts ("ssh-ed25519 AAAA..."), pinned by the inventory.
    Passwords are not kept here: they are asked for, or read from Ansible's variables when they are needed.
    """

    address: str = ""
    port: int = 22
    user: str = "root"
    identity_file: Path | None = None
    jump: tuple[str, ...] = ()
    host_key: str = ""
    become: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """A machine's disk image: `source` is `debian-12` (built on the spot), an absolute path or a URL.

    `checksum` is "sha256:HEX", required for a URL. `packages` are Debian packages on top of a built image's own.
    """

    source: str = "debian-12"
    checksum: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The network of machines that ktool makes. `name` empty: one named after the lab. `bridge` only for EXISTING."""

    name: str = ""
    mode: NetworkMode = NetworkMode.NAT
    cidr: str = "192.168.150.0/24"
    bridge: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedfishSettings:
    """A machine's BMC. The password is read from the inventory's variables when it is needed, never kept here.

    `proxy_dhcp`: another DHCP server gives the addresses where the machine boots, ktool only adds what to boot.
    """

    url: str = ""
    system: str = ""
    user: str = "admin"
    verify: bool = True
    ca_file: Path | None = None
    disk: str = ""  # device to install to, empty: the first one that is no removable medium
    proxy_dhcp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint that a new node gets (Kubernetes: "Taints and Tolerations")."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine. `name` is the inventory's host name, and the host name and Node name as well.

    Memory in MiB, disk in GiB. `address` is a wanted fixed address (empty: chosen by the provider), `mac` a wanted
    hardware address (empty: made from lab and machine name, always the same). `warm_start` lets a new emulated machine
    go on from kept memory. `runs_agent` is False for machines that become no node. `variables` has everything that the
    inventory says of the host, for Ansible; it may hold secrets.
    """

    name: str
    provider: ProviderName
    roles: frozenset[Role]
    groups: tuple[str, ...] = ()
    ssh: SSHSettings = field(default_factory=SSHSettings)
    cpus: int = 2
    memory_mib: int = 1024
    disk_gib: int = 10
    image: ImageSettings = field(default_factory=ImageSettings)
    address: str = ""
    mac: str = ""
    autostart: bool = True
    warm_start: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    runtime: str = "docker"
    runs_agent: bool = True
    redfish: RedfishSettings | None = None
    wake_on_lan: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_master(self) -> bool:
        """Whether the control plane runs here."""
        return Role.MASTER in self.roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """All machines of an inventory, in its order, and what holds for the whole. `source` is the inventory's path."""

    name: str
    source: Path
    machines: tuple[Machine, ...]
    network: NetworkSettings = field(default_factory=NetworkSettings)
    libvirt_uri: str = "qemu:///system"
    api_port: int = 6443
    kubelet_port: int = 10250
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    forks: int = 10
    store: Store = Store.SQLITE

    @property
    def balancers(self) -> tuple[Machine, ...]:
        """Machines in front of the masters."""
        return tuple(machine for machine in self.machines if Role.LOAD_BALANCER in machine.roles)

    @property
    def masters(self) -> tuple[Machine, ...]:
        """Machines that run the control plane."""
        return tuple(machine for machine in self.machines if machine.is_master)

    def machine(self, name: str) -> Machine | None:
        """The machine of that name."""
        return next((machine for machine in self.machines if machine.name == name), None)
