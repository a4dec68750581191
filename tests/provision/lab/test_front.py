"""Which load balancer the lab's kubeconfig names."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab.create import front


def balancer(name: str) -> Machine:
    return Machine(name=name, provider=ProviderName.NSPAWN, roles=frozenset({Role.LOAD_BALANCER}), runs_agent=False)


LAB = Lab(name="lab", source=Path("lab.yml"), machines=(balancer("b1"), balancer("b2")))
RUNS, BARE = RemoteFacts(services={"haproxy": True}), RemoteFacts()


@pytest.mark.parametrize(
    ("facts", "failed", "named"),
    [
        ({"b1": RUNS, "b2": RUNS}, set(), "b1"),
        # made in this run
        ({"b1": BARE}, set(), "b1"),
        # its preflight left it out, and it goes on as before
        ({"b1": RUNS}, {"b1"}, "b1"),
        # never came up
        ({"b1": BARE, "b2": BARE}, {"b1"}, "b2"),
        ({"b1": BARE}, {"b1"}, None),
        # out of reach
        ({"b2": RUNS}, {"b1"}, "b2"),
        ({}, {"b1", "b2"}, None),
    ],
)
def test_the_balancer_in_the_kubeconfig(facts: dict[str, RemoteFacts], failed: set[str], named: str | None) -> None:
    found = front(LAB, facts, failed=failed)
    assert (found.name if found else None) == named
