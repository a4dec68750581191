"""What `lab status` says of a machine: the first thing that is not well, and nothing that nobody could see."""

from __future__ import annotations

import pytest

from provision.inventory.lab import Machine, ProviderName, Role
from provision.lab.cluster import NodeView
from provision.lab.status import problem, stopped
from provision.providers.provider import Found, MachineState

MASTER = Machine(name="m1", provider=ProviderName.NSPAWN, roles=frozenset({Role.MASTER}))
WORKER = Machine(name="w1", provider=ProviderName.NSPAWN, roles=frozenset({Role.WORKER}))
BALANCER = Machine(name="b1", provider=ProviderName.NSPAWN, roles=frozenset({Role.LOAD_BALANCER}), runs_agent=False)


@pytest.mark.parametrize(
    ("machine", "services", "said"),
    [
        (MASTER, ("agent", "docker", "etcd", "master"), ""),
        (MASTER, ("docker",), "its etcd, master and agent do not run: ktool lab create starts them"),
        (MASTER, ("agent", "docker", "etcd"), "its master does not run: ktool lab create starts it"),
        (WORKER, ("docker",), "its agent does not run: ktool lab create starts it"),
        (WORKER, ("agent", "docker"), ""),
        (BALANCER, ("haproxy",), ""),
    ],
)
def test_services_that_were_stopped(machine: Machine, services: tuple[str, ...], said: str) -> None:
    assert stopped(machine, services, etcd=True) == said


def test_a_master_with_sqlite_has_no_etcd_to_start() -> None:
    assert stopped(MASTER, ("agent", "master"), etcd=False) == ""


@pytest.mark.parametrize(
    ("node", "asked", "said"),
    [
        (NodeView("w1", True), True, ""),
        (NodeView("w1", False, "no word for a while"), True, "node is not Ready: no word for a while"),
        (None, True, "has no node in the cluster"),
        # no API server answered: whether there is a node, nobody knows
        (None, False, "the cluster could not be asked about its node"),
    ],
)
def test_a_node(node: NodeView | None, asked: bool, said: str) -> None:
    found = Found(name="w1", state=MachineState.RUNNING)
    assert problem(WORKER, found, node, unreached="", looked=True, asked=asked, services=("agent",)) == said
