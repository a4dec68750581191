"""What is decided before anything is touched: names, addresses, networks, differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, NetworkMode, NetworkSettings, ProviderName
from provision.providers.nspawn.config import (
    MachineConfig,
    addresses,
    differences,
    hardware_address,
    identity,
    network_config,
)

FOLDER = Path("/var/lib/ktool-labs/lab/providers/nspawn")


def machine(name: str, **fields: object) -> Machine:
    return Machine(**{"name": name, "provider": ProviderName.NSPAWN, "roles": frozenset(), **fields})  # type: ignore[arg-type]


def lab(*machines: Machine, **network: object) -> Lab:
    settings = NetworkSettings(**{"cidr": "10.77.0.0/24", **network})  # type: ignore[arg-type]
    return Lab(name="lab", source=Path("lab.yml"), machines=machines, network=settings)


MADE = MachineConfig(
    lab="lab",
    name="a",
    identity=identity(FOLDER, "a"),
    address="10.77.0.11",
    mac="02:00:00:00:00:01",
    memory_mib=1024,
    cpus=2,
    user="root",
    image="debian-12 (0123)",
    layers=("/root",),
)


@pytest.mark.parametrize(
    ("machines", "taken", "reserved", "found"),
    [
        pytest.param(["a", "b"], {}, (), {"a": "10.77.0.11", "b": "10.77.0.12"}, id="in the inventory's order"),
        pytest.param(
            ["new", "a"], {"a": "10.77.0.11"}, (), {"a": "10.77.0.11", "new": "10.77.0.12"}, id="made ones keep theirs"
        ),
        pytest.param(
            ["a", ("b", "10.77.0.11")], {}, (), {"b": "10.77.0.11", "a": "10.77.0.12"}, id="wanted ones come first"
        ),
        pytest.param(["a"], {"gone": "10.77.0.11"}, (), {"a": "10.77.0.12"}, id="not those of forgotten machines"),
        pytest.param(["a"], {}, ("10.77.0.11",), {"a": "10.77.0.12"}, id="not the gateway's"),
    ],
)
def test_addresses(
    machines: list[str | tuple[str, str]], taken: dict[str, str], reserved: tuple[str, ...], found: dict[str, str]
) -> None:
    named = [(one, "") if isinstance(one, str) else one for one in machines]
    asked = lab(*(machine(name, address=address) for name, address in named))
    assert addresses(asked, taken=taken, reserved=reserved) == found


def test_a_small_network_is_used_up_and_then_full() -> None:
    names = ["a", "b", "c", "d", "e"]
    found = addresses(lab(*map(machine, names), cidr="10.77.0.0/29"), taken={})
    assert sorted(found.values()) == [f"10.77.0.{number}" for number in range(2, 7)]
    with pytest.raises(KtoolError, match="full"):
        addresses(lab(*map(machine, [*names, "f"]), cidr="10.77.0.0/29"), taken={})


@pytest.mark.parametrize("address", ["10.78.0.5", "10.77.0.1", "10.77.0.20", "10.77.0.255"])
def test_an_address_that_cannot_be(address: str) -> None:
    asked = lab(machine("a", address="10.77.0.20"), machine("b", address=address))
    with pytest.raises(KtoolError, match="machine b cannot have its address"):
        addresses(asked, taken={})


def test_networks() -> None:
    nat = network_config(lab(mode=NetworkMode.NAT), FOLDER)
    assert (nat.host_address, nat.gateway, nat.prefix) == ("10.77.0.1", "10.77.0.1", 24)
    isolated = network_config(lab(mode=NetworkMode.ISOLATED), FOLDER)
    assert (isolated.host_address, isolated.gateway) == ("10.77.0.1", "")
    existing = network_config(lab(mode=NetworkMode.EXISTING, bridge="br0"), FOLDER)
    assert (existing.bridge, existing.host_address) == ("br0", "")


@pytest.mark.parametrize(
    ("network", "word"),
    [
        ({"mode": NetworkMode.USER}, "user-mode"),
        ({"mode": NetworkMode.EXISTING}, "bridge"),
        ({"cidr": "10.0.0.0/30"}, "small"),
    ],
)
def test_networks_that_cannot_be(network: dict[str, object], word: str) -> None:
    with pytest.raises(KtoolError, match=word):
        network_config(lab(**network), FOLDER)


def test_names_fit_and_are_told_apart() -> None:
    assert len(MADE.interface) <= 15
    assert len(network_config(lab(), FOLDER).bridge) <= 15
    assert identity(FOLDER, "a") != identity(FOLDER, "b")
    assert identity(FOLDER, "a") != identity(Path("/elsewhere"), "a")
    assert hardware_address("lab", "a") == hardware_address("lab", "a") != hardware_address("lab", "b")
    assert int(hardware_address("lab", "a")[:2], 16) & 3 == 2, "locally administered, for one station"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ()),
        ({"memory_mib": 2048}, ("memory: 1024 MiB, wanted 2048 MiB",)),
        ({"cpus": 3, "autostart": False}, ("cpus: 2, wanted 3", "autostart: True, wanted False")),
        ({"address": "10.77.0.9"}, ("address: 10.77.0.11, wanted 10.77.0.9",)),
        ({"mac": "02:00:00:00:00:0A"}, ("mac: 02:00:00:00:00:01, wanted 02:00:00:00:00:0a",)),
    ],
)
def test_differences(wanted: dict[str, object], found: tuple[str, ...]) -> None:
    assert differences(MADE, machine("a", **wanted), image=MADE.image) == found


def test_another_image_is_a_difference() -> None:
    assert differences(MADE, machine("a"), image="other") == ("image: debian-12 (0123), wanted other",)
