"""What must hold between the machines of a lab."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.inventory.checks import check, without_echoes
from provision.inventory.finding import Finding
from provision.inventory.lab import (
    ImageSettings,
    Lab,
    Machine,
    NetworkMode,
    NetworkSettings,
    ProviderName,
    RedfishSettings,
    Role,
    SSHSettings,
    Store,
)

MASTER = frozenset({Role.MASTER})
MASTER_AND_BALANCER = frozenset({Role.MASTER, Role.LOAD_BALANCER})
WORKER = frozenset({Role.WORKER})


def vm(name: str = "m", roles: frozenset[Role] = MASTER, **fields: Any) -> Machine:
    return Machine(name=name, provider=ProviderName.LIBVIRT, roles=roles, **fields)


def box(name: str = "m", address: str = "192.0.2.1", roles: frozenset[Role] = MASTER, **ssh: Any) -> Machine:
    settings = SSHSettings(address=address, **ssh)
    return Machine(name=name, provider=ProviderName.SSH, roles=roles, ssh=settings)


def metal(name: str = "m", **fields: Any) -> Machine:
    fields.setdefault("redfish", RedfishSettings(url="https://bmc"))
    fields.setdefault("address", "192.0.2.7")
    return Machine(name=name, provider=ProviderName.REDFISH, roles=MASTER, **fields)


def local(name: str, roles: frozenset[Role] = MASTER) -> Machine:
    return Machine(name=name, provider=ProviderName.LOCAL, roles=roles)


def lab(*machines: Machine, **fields: Any) -> Lab:
    return Lab(name="lab", source=Path("lab.yml"), machines=machines, **fields)


@pytest.mark.parametrize(
    "good",
    [
        lab(vm(), vm("w", WORKER)),
        lab(vm(address="192.168.150.10"), vm("w", WORKER, address="192.168.150.11")),
        lab(box(), box("w", "192.0.2.2", WORKER)),
        lab(box(address="127.0.0.1", port=2222), box("w", "127.0.0.1", WORKER, port=2223)),  # forwarded ports
        lab(box(address="10.9.9.9", jump=("a",)), box("w", "10.9.9.9", WORKER, jump=("b",))),
        lab(box(address="node1.example.com")),
        lab(box(address="node1", name="m")),
        lab(box(name="m.example.com", address="m.example.com")),
        lab(box(address="2001:db8::1")),
        lab(local("m"), vm("w", WORKER)),
        lab(metal()),
        lab(metal(redfish=None, wake_on_lan=True, mac="52:54:00:00:00:01")),
        lab(vm(), network=NetworkSettings(mode=NetworkMode.EXISTING, bridge="br0")),
        # nothing is made: the network's range does not matter
        lab(box(), network=NetworkSettings(cidr="10.244.0.0/24")),
        lab(vm(memory_mib=256, runs_agent=False)),
        lab(vm("a"), vm("b"), vm("c"), store=Store.ETCD),
        lab(vm(), store=Store.ETCD),
    ],
)
def test_right(good: Lab) -> None:
    assert [str(finding) for finding in check(good)] == []


@pytest.mark.parametrize(
    ("bad", "variable", "says"),
    [
        (lab(), "", "there is no master"),
        (lab(vm("w", WORKER)), "", "there is no master"),
        (lab(vm("a"), vm("b"), vm("c")), "ktool_store", "several masters"),
        (lab(vm("a"), vm("b"), store=Store.ETCD), "", "an even number"),
        (lab(*(vm(f"m{n}") for n in range(9)), store=Store.ETCD), "", "at most 7"),
        (lab(vm(), vm("b", MASTER_AND_BALANCER), vm("c"), store=Store.ETCD), "", "a machine of its own"),
        (lab(vm(), vm("w", WORKER, runs_agent=False)), "ktool_agent", "worker"),
        (lab(local("a"), local("b", WORKER)), "ktool_provider", "this machine"),
        (lab(vm(), api_port=10250), "ktool_api_port", "10250"),
        (lab(vm("a"), vm("a", WORKER)), "", "the name of a"),
        (lab(vm(address="192.168.150.9"), vm("w", WORKER, address="192.168.150.9")), "ktool_address", "m has as well"),
        (lab(vm(mac="52:54:00:00:00:01"), vm("w", WORKER, mac="52:54:00:00:00:01")), "ktool_mac", "m has as well"),
        (lab(box(), box("w", "192.0.2.1", WORKER)), "ansible_host", "m has as well"),
        (lab(box(address="A.example.com"), box("w", "a.example.com", WORKER)), "ansible_host", "m has as well"),
        (lab(vm(), pod_cidr="10.96.0.0/12"), "ktool_service_cidr", "overlaps with ktool_pod_cidr"),
        (lab(vm(), pod_cidr="192.168.0.0/16"), "ktool_network_cidr", "overlaps with ktool_pod_cidr"),
        (lab(vm(), service_cidr="192.168.150.0/25"), "ktool_network_cidr", "overlaps with ktool_service_cidr"),
        (lab(vm(), network=NetworkSettings(mode=NetworkMode.EXISTING)), "ktool_network_mode", "ktool_network_bridge"),
        (lab(vm(), network=NetworkSettings(bridge="br0")), "ktool_network_bridge", "existing"),
        (lab(vm("Node_1")), "", "for example to node-1"),
        (lab(vm("-")), "", "cannot be a node's name"),
        (lab(box("192.0.2.5", "192.0.2.5")), "", "an address is no name"),
        (lab(vm("a" * 64)), "", "at most 63"),
        (lab(vm(memory_mib=511)), "ktool_memory_mib", "at least 512"),
        (lab(vm(memory_mib=255, runs_agent=False)), "ktool_memory_mib", "at least 256"),
        (lab(vm(disk_gib=1)), "ktool_disk_gib", "at least 2"),
        (lab(vm(image=ImageSettings(source="https://a/b"))), "ktool_image_checksum", "sha256:HEX"),
        (lab(vm(image=ImageSettings(source="/a", packages=("vim",)))), "ktool_image_packages", "ready made"),
        (lab(box("m", "m")), "ansible_host", "none"),
        (lab(box(address="0.0.0.0")), "ansible_host", "one machine"),
        (lab(box(address="224.0.0.1")), "ansible_host", "one machine"),
        (lab(box(address="a b")), "ansible_host", "an address or a DNS name"),
        (lab(box(address="-oProxyCommand=x")), "ansible_host", "an address or a DNS name"),
        (lab(box(address="10.244.3.4")), "ansible_host", "ktool_pod_cidr"),
        (lab(box(address="10.96.0.9")), "ansible_host", "ktool_service_cidr"),
        (lab(metal(redfish=None)), "ktool_redfish_url", "BMC"),
        (lab(metal(redfish=RedfishSettings())), "ktool_redfish_url", "BMC"),
        (lab(metal(address="")), "ktool_address", "none"),
        (lab(metal(wake_on_lan=True)), "ktool_mac", "to wake it by"),
        (lab(vm(address="192.168.151.9")), "ktool_address", "out of the network's range"),
        (lab(vm(address="192.168.150.1")), "ktool_address", "gateway"),
        (lab(vm(address="192.168.150.0")), "ktool_address", "neither its first nor its last"),
        (lab(vm(address="192.168.150.255")), "ktool_address", "neither its first nor its last"),
    ],
)
def test_wrong(bad: Lab, variable: str, says: str) -> None:
    found = check(bad)
    assert len(found) == 1, [str(finding) for finding in found]
    assert found[0].variable == variable
    assert says in str(found[0])


def test_everything_is_told_at_once() -> None:
    bad = lab(vm("A", memory_mib=1, disk_gib=1), vm("a", memory_mib=1, address="10.0.0.1"), pod_cidr="10.96.0.0/16")
    variables = sorted(finding.variable for finding in check(bad))
    assert variables == [
        "",  # one name but for the case
        "",  # a name that no node may have
        "ktool_address",
        "ktool_disk_gib",
        "ktool_memory_mib",
        "ktool_memory_mib",
        "ktool_service_cidr",
        "ktool_store",  # two masters
    ]


def test_what_only_follows_from_an_earlier_error_is_not_told() -> None:
    earlier = [Finding(hosts=("m",), variable="ktool_mac"), Finding(variable="ktool_pod_cidr")]
    follows = [Finding(hosts=("m",), variable="ktool_mac"), Finding(variable="ktool_pod_cidr")]
    stays = [Finding(hosts=("w",), variable="ktool_mac"), Finding(what="no master")]
    assert without_echoes([*follows, *stays], earlier) == stays


def test_a_local_machine_needs_no_address() -> None:
    assert check(lab(replace(local("m"), ssh=SSHSettings(address="")))) == []
