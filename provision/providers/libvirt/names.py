"""Names and addresses of what a lab has in libvirt: pure, and the same at each run."""

from __future__ import annotations

import hashlib
import ipaddress
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, NetworkMode, ProviderName

# The part of a network's addresses that machines get: the first is the gateway's.
_FIRST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The lab's network. `own` is False for one that was there before; `bridge` is its device (of an own one: by which
    it is recognised as ours). `address` is the host's on it, `prefix` the length of the network's prefix."""

    name: str
    mode: NetworkMode
    own: bool
    bridge: str = ""
    address: str = ""
    prefix: int = 24
    mac: str = ""


def domain_name(lab: str, machine: str) -> str:
    """A machine's domain: names of machines repeat in other labs."""
    return f"{lab}-{machine}"


def pool_name(lab: str) -> str:
    """The storage pool with a lab's disks."""
    return f"ktool-{lab}"


def domain_uuid(lab: str, machine: str) -> str:
    """A machine's UUID, always the same: its domain can be defined anew, and its machine-id may follow from it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ktool:{lab}/{machine}"))


def mac_for(lab: str, machine: str) -> str:
    """The machine's hardware address: always the same, in the range that QEMU uses."""
    digest = hashlib.sha256(f"{lab}/{machine}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def mac_of(lab: Lab, machine: Machine) -> str:
    """The hardware address that the inventory wants, else the one by the names."""
    return (machine.mac or mac_for(lab.name, machine.name)).lower()


def require_distinct(lab: Lab) -> None:
    """KtoolError if two machines would have the same hardware address or the same fixed address."""
    for what, values in (
        ("hardware address", [(mac_of(lab, m), m.name) for m in ours(lab)]),
        ("address", [(m.address, m.name) for m in ours(lab) if m.address]),
    ):
        seen: dict[str, str] = {}
        for value, name in values:
            if value in seen:
                raise KtoolError(
                    f"two machines have the same {what}",
                    found=f"{value} of {seen[value]} and {name}",
                    wanted="one each",
                    mend="give one of them another in the inventory (ktool_mac, ktool_address)",
                )
            seen[value] = name


def ours(lab: Lab) -> tuple[Machine, ...]:
    """The lab's machines that libvirt makes."""
    return tuple(machine for machine in lab.machines if machine.provider is ProviderName.LIBVIRT)


def network_of(lab: Lab) -> Network:
    """The lab's network as the inventory wants it. KtoolError if the range of addresses is none, or too small."""
    settings = lab.network
    name = settings.name or lab.name
    if settings.mode is NetworkMode.USER:
        return Network(name="", mode=settings.mode, own=False)
    if settings.mode is NetworkMode.EXISTING:
        if not settings.name and not settings.bridge:
            raise KtoolError(
                "the inventory names no network to connect the machines to",
                found="ktool_network_mode: existing",
                wanted="ktool_network (a network of libvirt's) or ktool_network_bridge",
            )
        return Network(name=settings.name, mode=settings.mode, own=False, bridge=settings.bridge)
    try:
        cidr = ipaddress.IPv4Network(settings.cidr)
        hosts = cidr.num_addresses - 2
    except ValueError as error:
        raise KtoolError(
            "the network's addresses are no IPv4 range",
            found=f"ktool_network_cidr: {settings.cidr}",
            wanted="for example 192.168.150.0/24",
        ) from error
    if hosts < len(ours(lab)) + 1:
        raise KtoolError(
            "the network is too small for the lab's machines",
            found=f"{settings.cidr}, with {max(hosts, 0)} addresses",
            wanted=f"{len(ours(lab)) + 1}: one for each machine, one for the host",
        )
    digest = hashlib.sha256(f"{lab.name}/{name}".encode()).hexdigest()
    return Network(
        name=name,
        mode=settings.mode,
        own=True,
        bridge=f"ktool{digest[:8]}",
        address=str(cidr[1]),
        prefix=cidr.prefixlen,
        mac=mac_for(lab.name, f"network {name}"),
    )


def addresses(lab: Lab, network: Network, *, taken: Mapping[str, str] | None = None) -> dict[str, str]:
    """Each machine's fixed address on an own network, by its hardware address.

    The inventory's wish first, then what it has already (`taken`: the network's present leases), then the next free
    one in the inventory's order. KtoolError if a wish is outside of the range or the host's.
    """
    if not network.own:
        return {}
    cidr = ipaddress.IPv4Network(f"{network.address}/{network.prefix}", strict=False)
    wishes = {mac_of(lab, m): m.address for m in ours(lab) if m.address}
    for wish in wishes.values():
        if ipaddress.IPv4Address(wish) not in cidr or wish in (network.address, str(cidr[0]), str(cidr[-1])):
            raise KtoolError(
                "a machine's address is not one of the network's",
                found=f"ktool_address: {wish}",
                wanted=f"one of {cidr}, except {cidr[0]}, {network.address} (the host's) and {cidr[-1]}",
            )
    there = {mac.lower(): address for mac, address in (taken or {}).items()}
    result = dict(wishes)
    for machine in ours(lab):
        mac = mac_of(lab, machine)
        if mac not in result and there.get(mac) and there[mac] not in result.values():
            result[mac] = there[mac]
    used = {*result.values(), *there.values(), network.address}
    free = _free(cidr, used)
    for machine in ours(lab):
        mac = mac_of(lab, machine)
        if mac not in result:
            result[mac] = next(free)
    return {mac_of(lab, m): result[mac_of(lab, m)] for m in ours(lab)}


def _free(cidr: ipaddress.IPv4Network, used: set[str]) -> Iterator[str]:
    # Round numbers where there is room, the low ones only when those have run out.
    order = [*range(_FIRST, cidr.num_addresses - 1), *range(2, min(_FIRST, cidr.num_addresses - 1))]
    return (str(cidr[number]) for number in order if str(cidr[number]) not in used)
