"""What is said to iptables, given what it lists."""

from __future__ import annotations

import pytest

from agent.proxy.docker_user import deletions, insertions, rules
from tests.agent.proxy.samples import NODE

DOCKER = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n"
OURS = [" ".join(rule) for rule in rules(NODE)]


def _listed(chain: str, count: int = 3) -> str:
    return "".join(f"-A {chain} {rule}\n" for rule in OURS[:count])


@pytest.mark.parametrize(
    ("listing", "chain", "missing"),
    [
        ("-P FORWARD ACCEPT\n", "", 0),
        (DOCKER, "DOCKER-USER", 3),
        (DOCKER + _listed("DOCKER-USER"), "", 0),
        (DOCKER + _listed("DOCKER-USER", 2), "DOCKER-USER", 1),
        ("-P FORWARD DROP\n", "FORWARD", 3),
        # Docker came later: its chain is looked at first
        (DOCKER + _listed("FORWARD"), "DOCKER-USER", 3),
    ],
)
def test_insertions(listing: str, chain: str, missing: int) -> None:
    found = insertions(listing, NODE)
    assert [words[:2] for words in found] == [["-I", chain]] * missing


def test_deletions_take_ours_and_nothing_else() -> None:
    others = '-A DOCKER-USER -s 10.0.0.0/8 -m comment --comment "not ktool-proxy" -j DROP\n-A DOCKER-USER -j RETURN\n'
    found = deletions(DOCKER + _listed("DOCKER-USER") + others + _listed("FORWARD", 1))
    assert [words[:2] for words in found] == [["-D", "DOCKER-USER"]] * 3 + [["-D", "FORWARD"]]
