"""Which endpoints get traffic: readiness, policy, preference."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from agent.proxy.service_port import Endpoint
from agent.proxy.traffic_policy import choose
from tests.agent.proxy.samples import HERE, HERE_TOO, NODE, THERE, THERE_TOO, ending, unready, web

CASES: dict[str, tuple[list[Endpoint], list[Endpoint], list[Endpoint], bool]] = {
    # endpoints → under Cluster, under Local, anywhere
    "none": ([], [], [], False),
    "only elsewhere": ([THERE, THERE_TOO], [THERE, THERE_TOO], [], True),
    "same node first": ([THERE, HERE], [HERE], [HERE], True),
    "spread over the node's own": ([THERE, HERE, HERE_TOO], [HERE, HERE_TOO], [HERE, HERE_TOO], True),
    "own is not ready": ([THERE, unready(HERE)], [THERE], [], True),
    "own terminates, other is ready": ([THERE, ending(HERE)], [THERE], [ending(HERE)], True),
    "all terminate": ([ending(THERE), ending(HERE)], [ending(HERE)], [ending(HERE)], True),
    "terminating and no longer serving": ([ending(THERE, serving=False)], [], [], False),
    "serving but neither ready nor terminating": ([replace(THERE, ready=False)], [], [], False),
    "twice in two slices": ([THERE, THERE], [THERE], [], True),
    "the node's own address without a node name": (
        [Endpoint("192.0.2.1", 80), THERE],
        [Endpoint("192.0.2.1", 80)],
        [Endpoint("192.0.2.1", 80)],
        True,
    ),
}


@pytest.mark.parametrize(("endpoints", "cluster", "local", "anywhere"), CASES.values(), ids=CASES.keys())
def test_choice(
    endpoints: Sequence[Endpoint], cluster: Sequence[Endpoint], local: Sequence[Endpoint], anywhere: bool
) -> None:
    choice = choose(web(*endpoints), NODE)
    assert choice.cluster == tuple(cluster)
    assert choice.local == tuple(local)
    assert choice.anywhere is anywhere


def test_without_preference_all_nodes_serve() -> None:
    choice = choose(web(HERE, THERE, prefer_same_node=False), NODE)
    assert choice.cluster == (HERE, THERE)
    assert choice.local == (HERE,)
