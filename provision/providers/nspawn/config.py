"""What the nspawn provider decides before it touches anything: names, addresses, and what is kept of a machine.

Names are short and always the same: an interface's has at most 15 bytes, so it is made of a hash over the lab's folder
and the machine's name. Two labs of one name in different folders get in nobody's way.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, NetworkMode, ProviderName

MIB = 1024 * 1024
# In networks that are large enough, machines begin here; below are gateways and what people put there by hand.
FIRST_HOST = 11


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The lab's network as it was made. `gateway` is empty where machines have no way out; `identity` is in the names
    and tags of all that belongs to it."""

    lab: str
    identity: str
    mode: NetworkMode
    bridge: str
    cidr: str
    host_address: str = ""
    gateway: str = ""

    @property
    def tag(self) -> str:
        """The alias of the lab's interfaces (ip-link(8): ifalias), by which they are told from others'."""
        return f"ktool-lab:{self.lab}:{self.identity}"

    @property
    def prefix(self) -> int:
        """Length of the network's prefix."""
        return ipaddress.ip_network(self.cidr).prefixlen


class MachineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as it was made, and all that its start needs. `layers` are the read-only folders of its root, the
    uppermost first; `made` is False while its files are being written."""

    lab: str
    name: str
    identity: str
    address: str
    mac: str
    memory_mib: int
    cpus: int
    user: str
    image: str
    layers: tuple[str, ...]
    autostart: bool = True
    made: bool = False

    @property
    def interface(self) -> str:
        """The host's end of the machine's cable."""
        return f"ktm-{self.identity}"

    @property
    def memory_bytes(self) -> int:
        """The memory limit."""
        return self.memory_mib * MIB


def identity(folder: Path, *names: str) -> str:
    """Ten hex digits for a lab's folder and, with a name, for a machine of it."""
    return hashlib.sha256("\0".join([str(folder), *names]).encode()).hexdigest()[:10]


def hardware_address(*parts: str) -> str:
    """A locally administered MAC address, always the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def service_name(lab: str, machine: str) -> str:
    """The service that is the machine; its systemd unit is `ktool-lab-<lab>-<machine>.service`."""
    return f"lab-{lab}-{machine}"


def network_config(lab: Lab, folder: Path) -> NetworkConfig:
    """The network that an inventory asks for, with a bridge of its own unless an existing one is named.

    KtoolError for what nspawn machines cannot have.
    """
    wanted = lab.network
    own = identity(folder)
    network = ipaddress.IPv4Network(wanted.cidr)
    if wanted.mode is NetworkMode.USER:
        raise KtoolError(
            "nspawn machines have no user-mode network",
            found="ktool_network_mode: user",
            wanted="nat, isolated or existing",
            mend="set ktool_network_mode: nat",
        )
    if network.num_addresses < 8:
        raise KtoolError(
            "the lab's network is too small",
            found=f"ktool_network_cidr: {wanted.cidr}",
            wanted="at least a /29",
            mend="set ktool_network_cidr to a larger range that nothing else uses",
        )
    if wanted.mode is NetworkMode.EXISTING:
        bridge = wanted.bridge or wanted.name
        if not bridge:
            raise KtoolError(
                "an existing network needs its bridge's name",
                found="ktool_network_mode: existing",
                wanted="ktool_network_bridge",
                mend="set ktool_network_bridge to one of `ip link show type bridge`",
            )
        return NetworkConfig(lab=lab.name, identity=own, mode=wanted.mode, bridge=bridge, cidr=str(network))
    first = str(network[1])
    return NetworkConfig(
        lab=lab.name,
        identity=own,
        mode=wanted.mode,
        bridge=f"ktb-{own}",
        cidr=str(network),
        host_address=first,
        gateway=first if wanted.mode is NetworkMode.NAT else "",
    )


def addresses(lab: Lab, *, taken: Mapping[str, str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """An address for each nspawn machine of the lab.

    `taken` are the addresses of machines that are made, which they keep, whatever was added to the inventory above
    them; then those that the inventory wants; the others follow in the inventory's order. `reserved` go to nobody.
    KtoolError for an address outside of the network, twice wanted, or for a full network.
    """
    network = ipaddress.IPv4Network(lab.network.cidr)
    machines = [machine for machine in lab.machines if machine.provider is ProviderName.NSPAWN]
    found = {machine.name: taken[machine.name] for machine in machines if machine.name in taken}
    blocked = {str(network[0]), str(network[1]), str(network[-1]), *reserved}
    used = {*taken.values()}
    for machine in machines:
        if machine.name in found or not machine.address:
            continue
        _check(machine, network, blocked, used)
        found[machine.name] = machine.address
        used.add(machine.address)
    first = FIRST_HOST if network.num_addresses >= 64 else 2
    for index, machine in enumerate(machines):
        if machine.name in found:
            continue
        found[machine.name] = _free(network, first + index, blocked | used)
        used.add(found[machine.name])
    return found


def _check(machine: Machine, network: ipaddress.IPv4Network, blocked: set[str], used: set[str]) -> None:
    outside = ipaddress.IPv4Address(machine.address) not in network
    if outside or machine.address in blocked | used:
        raise KtoolError(
            f"the machine {machine.name} cannot have its address",
            found=f"ktool_address: {machine.address}" + ("" if outside else ", which is somebody else's"),
            wanted=f"a free address in {network}",
            mend="choose another ktool_address, or leave it out",
        )


def _free(network: ipaddress.IPv4Network, start: int, blocked: set[str]) -> str:
    size = network.num_addresses
    for offset in range(size):
        candidate = str(network[(start + offset) % size])
        if candidate not in blocked:
            return candidate
    raise KtoolError(
        "the lab's network is full",
        found=f"{size} addresses in {network}",
        wanted="an address for each machine",
        mend="set ktool_network_cidr to a larger range",
    )


def differences(made: MachineConfig, machine: Machine, *, image: str) -> tuple[str, ...]:
    """Where a machine that was made is not what the inventory wants."""
    pairs: Sequence[tuple[str, Any, Any]] = (
        ("memory", f"{made.memory_mib} MiB", f"{machine.memory_mib} MiB"),
        ("cpus", made.cpus, machine.cpus),
        ("address", made.address, machine.address or made.address),
        ("mac", made.mac, machine.mac.lower() or made.mac),
        ("user", made.user, machine.ssh.user),
        ("image", made.image, image),
        ("autostart", made.autostart, machine.autostart),
    )
    return tuple(f"{name}: {found}, wanted {wanted}" for name, found, wanted in pairs if found != wanted)
