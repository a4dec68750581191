from __future__ import annotations

import re

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import NetworkMode, ProviderName
from provision.providers.libvirt import names, volume_names
from tests.provision.libvirt.labs import lab, machine, network


def test_names_are_stable_and_differ() -> None:
    assert names.mac_for("lab", "m1") == names.mac_for("lab", "m1")
    assert len({names.mac_for(*pair) for pair in [("lab", "m1"), ("lab", "m2"), ("other", "m1")]}) == 3
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", names.mac_for("lab", "m1"))
    assert names.domain_uuid("lab", "m1") != names.domain_uuid("lab", "m2")
    assert names.domain_name("lab", "m1") == "lab-m1"
    assert names.mac_of(lab(), machine("m1", mac="52:54:00:AA:BB:CC")) == "52:54:00:aa:bb:cc"


def test_the_bridges_name_fits() -> None:
    made = names.network_of(lab("m1", name="a-lab-with-a-long-name"))
    assert len(made.bridge) <= 15
    assert (made.name, made.address, made.prefix) == ("a-lab-with-a-long-name", "192.168.150.1", 24)


def addresses(*machines: object, cidr: str = "192.168.150.0/24", taken: dict[str, str] | None = None) -> list[str]:
    """Each machine's address, in order; `taken` by machine name."""
    one = lab(*machines, network=network(cidr=cidr))  # type: ignore[arg-type]
    there = {names.mac_for("lab", name): address for name, address in (taken or {}).items()}
    return list(names.addresses(one, names.network_of(one), taken=there).values())


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        (["a", "b"], {}, ["192.168.150.10", "192.168.150.11"]),
        ([machine("a", address="192.168.150.10"), "b"], {}, ["192.168.150.10", "192.168.150.11"]),
        (["a", machine("b", address="192.168.150.10")], {}, ["192.168.150.11", "192.168.150.10"]),
        # What a machine has it keeps, also if another comes before it.
        (["new", "a"], {"taken": {"a": "192.168.150.10"}}, ["192.168.150.11", "192.168.150.10"]),
        # The address of a machine that left the inventory is free when its lease is.
        (["a"], {"taken": {"gone": "192.168.150.10"}}, ["192.168.150.11"]),
        (["a", "b"], {"cidr": "10.0.0.0/29"}, ["10.0.0.2", "10.0.0.3"]),
        (["a", "b", "c", "d", "e"], {"cidr": "10.0.0.0/28"}, ["10.0.0.10"] + [f"10.0.0.{n}" for n in (11, 12, 13, 14)]),
    ],
)
def test_addresses(machines: list[object], options: dict[str, object], expected: list[str]) -> None:
    assert addresses(*machines, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["192.168.151.1", "192.168.150.1", "192.168.150.0", "192.168.150.255"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(KtoolError, match="not one of the network's"):
        addresses(machine("a", address=address))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (network(cidr="10.0.0.1/24"), "no IPv4 range"),
        (network(cidr="10.0.0.0/30"), "too small"),
        (network(NetworkMode.EXISTING), "names no network"),
    ],
)
def test_networks_that_cannot_be(settings: object, what: str) -> None:
    with pytest.raises(KtoolError, match=what):
        names.network_of(lab("a", "b", network=settings))


def test_other_modes() -> None:
    user = names.network_of(lab("a", network=network(NetworkMode.USER)))
    bridged = names.network_of(lab("a", network=network(NetworkMode.EXISTING, bridge="br0")))
    assert (user.own, user.name) == (False, "")
    assert (bridged.own, bridged.bridge) == (False, "br0")
    assert names.addresses(lab("a"), bridged) == {}


def test_only_machines_of_this_provider() -> None:
    assert [one.name for one in names.ours(lab("a", machine("b", provider=ProviderName.SSH)))] == ["a"]


@pytest.mark.parametrize("field", [{"mac": "52:54:00:00:00:01"}, {"address": "192.168.150.9"}])
def test_two_of_the_same(field: dict[str, str]) -> None:
    with pytest.raises(KtoolError, match="same"):
        names.require_distinct(lab(machine("a", **field), machine("b", **field)))


def test_volumes() -> None:
    assert volume_names.key_of(f"/pool/{volume_names.base('0123abcd')}") == "0123abcd"
    names = volume_names.of_machine("m1")
    assert len(set(names)) == len(names) == 6
    assert all(map(volume_names.is_ours, names))
