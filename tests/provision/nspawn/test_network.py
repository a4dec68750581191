"""The lab's network, made for real in the namespace of the test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kube.errors import KtoolError
from provision import host_snapshot
from provision.command import run
from provision.inventory.lab import NetworkMode
from provision.providers.nspawn import network
from provision.providers.nspawn.config import NetworkConfig, identity
from tests import machines

pytestmark = pytest.mark.skipif(bool(machines.missing()), reason=machines.missing())

SECTIONS = ("links", "addresses", "routes", "nftables", "iptables", "sysctls")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[NetworkConfig]:
    own = identity(tmp_path)
    made = NetworkConfig(
        lab="lab",
        identity=own,
        mode=NetworkMode.NAT,
        bridge=f"ktb-{own}",
        cidr="10.78.0.0/24",
        host_address="10.78.0.1",
        gateway="10.78.0.1",
    )
    yield made
    network.remove(made, tmp_path)


def picture() -> dict[str, frozenset[str]]:
    return {name: lines for name, lines in host_snapshot.take().sections.items() if name in SECTIONS}


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ISOLATED])
def test_made_once_and_removed_without_a_trace(config: NetworkConfig, tmp_path: Path, mode: NetworkMode) -> None:
    before = picture()
    config = msgspec.structs.replace(config, mode=mode)
    assert network.ensure(config, tmp_path)
    assert network.link_state(config.bridge)
    assert network.table(config) in run(["nft", "list", "tables"])
    assert picture() != before
    assert not network.ensure(config, tmp_path), "nothing is left to do"
    assert network.remove(config, tmp_path)
    assert picture() == before
    assert network.remove(config, tmp_path) == []


def test_what_is_missing_is_mended(config: NetworkConfig, tmp_path: Path) -> None:
    network.ensure(config, tmp_path)
    for broken in (
        ["nft", "delete", "table", "inet", network.table(config)],
        ["ip", "address", "flush", "dev", config.bridge],
        ["ip", "link", "set", config.bridge, "down"],
        ["iptables", "-D", "FORWARD", "1"],
        ["ip", "link", "delete", config.bridge],
    ):
        run(broken)
        assert network.ensure(config, tmp_path), broken
        assert not network.ensure(config, tmp_path), broken


def test_a_range_that_is_in_use(config: NetworkConfig, tmp_path: Path) -> None:
    taken = msgspec.structs.replace(config, cidr="192.0.2.0/24", host_address="192.0.2.1")
    with pytest.raises(KtoolError, match="in use"):
        network.ensure(taken, tmp_path)
    assert not network.link_state(config.bridge)


def test_somebody_elses_interface_is_left_alone(config: NetworkConfig, tmp_path: Path) -> None:
    run(["ip", "link", "add", config.bridge, "type", "bridge"])
    run(["ip", "link", "set", config.bridge, "alias", "mine"])
    try:
        with pytest.raises(KtoolError, match="somebody else"):
            network.ensure(config, tmp_path)
        network.remove(config, tmp_path)
        assert network.link_state(config.bridge)
    finally:
        run(["ip", "link", "delete", config.bridge])


def test_an_existing_bridge(config: NetworkConfig, tmp_path: Path) -> None:
    existing = msgspec.structs.replace(config, mode=NetworkMode.EXISTING, bridge="lan", cidr="192.0.2.0/24", gateway="")
    found = network.completed(existing)
    assert (found.host_address, found.gateway) == ("192.0.2.10", "192.0.2.10")
    assert not network.ensure(found, tmp_path)
    assert network.remove(found, tmp_path) == []
    assert network.link_state("lan")
    with pytest.raises(KtoolError, match="does not exist"):
        network.completed(msgspec.structs.replace(existing, bridge="nowhere"))


def test_forwarding_stays_while_another_lab_needs_it(config: NetworkConfig, tmp_path: Path) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    forwarding.write_text("0")
    other = msgspec.structs.replace(
        config, identity=identity(tmp_path, "b"), bridge="ktb-other", cidr="10.79.0.0/24", host_address="10.79.0.1"
    )
    (tmp_path / "other").mkdir()
    network.ensure(config, tmp_path)
    network.ensure(other, tmp_path / "other")
    try:
        network.remove(config, tmp_path)
        assert forwarding.read_text().strip() == "1"
    finally:
        network.remove(other, tmp_path / "other")
        forwarding.write_text("0")
