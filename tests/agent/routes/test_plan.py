"""Which routes are made, changed and deleted, and what stands in the way."""

from __future__ import annotations

import pytest

from agent.routes.node_place import NodePlace, PlacedNode, place_of
from agent.routes.plan import Plan, Problem, Route, plan, removal
from kube import objects

CLUSTER = "10.244.0.0/16"
ONE = NodePlace("one", ("10.244.1.0/24",), ("192.0.2.1",))
TWO = NodePlace("two", ("10.244.2.0/24",), ("192.0.2.2",))
LAN = Route("192.0.2.0/24", protocol=2)
PODS = Route("10.244.1.0/24", protocol=2)
DEFAULT = Route("0.0.0.0/0", "192.0.2.254", protocol=3)
TO_TWO = Route("10.244.2.0/24", "192.0.2.2")
HERE = (DEFAULT, LAN, PODS)


@pytest.mark.parametrize(
    ("nodes", "existing", "wanted"),
    [
        pytest.param([], HERE, Plan(), id="no node has registered"),
        pytest.param([ONE], HERE, Plan(), id="a node alone"),
        pytest.param([ONE, TWO], HERE, Plan(add=(TO_TWO,)), id="another node"),
        pytest.param([TWO], HERE, Plan(add=(TO_TWO,)), id="this one has not registered"),
        pytest.param([ONE, TWO], (*HERE, TO_TWO), Plan(kept=(TO_TWO,)), id="nothing to do"),
        pytest.param(
            [ONE, TWO],
            (*HERE, Route("10.244.2.0/24", "192.0.2.9")),
            Plan(replace=(TO_TWO,)),
            id="its address is another one now",
        ),
        pytest.param([ONE], (*HERE, TO_TWO), Plan(delete=(TO_TWO,)), id="it is gone"),
        pytest.param([ONE, NodePlace("two", (), ("192.0.2.2",))], HERE, Plan(), id="no range yet"),
        pytest.param(
            [ONE, NodePlace("two", ("10.244.2.0/24",), ("198.51.100.7", "192.0.2.2"))],
            HERE,
            Plan(add=(TO_TWO,)),
            id="of its addresses the one that can be reached",
        ),
        pytest.param(
            [ONE, TWO],
            (*HERE, Route("10.244.2.0/24", "192.0.2.2", protocol=4)),
            Plan(),
            id="somebody else has made the same route",
        ),
        pytest.param(
            [ONE], (*HERE, Route("10.244.2.0/24", "192.0.2.2", protocol=4)), Plan(), id="others' routes are theirs"
        ),
        pytest.param([ONE], (*HERE, Route("10.9.0.0/24", "192.0.2.2")), Plan(), id="another cluster's"),
        pytest.param(
            [ONE, NodePlace("two", ("10.244.2.0/24", "fd00:1::/64"), ("192.0.2.2",))],
            HERE,
            Plan(add=(TO_TWO,)),
            id="two families",
        ),
    ],
)
def test_plan(nodes: list[NodePlace], existing: tuple[Route, ...], wanted: Plan) -> None:
    found = plan(nodes, "one", existing, cluster_cidr=CLUSTER)
    assert found == wanted
    assert plan(nodes[::-1], "one", existing[::-1], cluster_cidr=CLUSTER) == wanted


@pytest.mark.parametrize(
    ("node", "existing", "reason"),
    [
        (
            NodePlace("two", ("10.244.2.0/24",), ("198.51.100.7",)),
            HERE,
            "198.51.100.7 is not on a network of this node",
        ),
        (NodePlace("two", ("10.244.2.0/24",)), HERE, "no internal address"),
        (NodePlace("two", ("10.244.2.0/24",), ("two.example",)), HERE, "not on a network"),
        (NodePlace("two", ("10.244.2.0/24",), ("192.0.2.1",)), HERE, "this node's own address 192.0.2.1"),
        (NodePlace("two", ("10.244.1.0/24",), ("192.0.2.2",)), HERE, "10.244.1.0/24 is one's already"),
        (NodePlace("two", ("0.0.0.0/0",), ("192.0.2.2",)), HERE, "not in the cluster's range"),
        (NodePlace("two", ("192.0.2.0/24",), ("192.0.2.2",)), HERE, "not in the cluster's range"),
        (NodePlace("two", ("many",), ("192.0.2.2",)), HERE, "'many' is no network"),
        (TWO, (*HERE, Route("10.244.2.0/24", "192.0.2.7", protocol=4)), "via 192.0.2.7 instead of 192.0.2.2"),
        (TWO, (*HERE, Route("10.244.2.0/24", protocol=2)), "on a connected network instead of 192.0.2.2"),
        # a narrower route leads over a router, so the node is not a neighbour
        (TWO, (*HERE, Route("192.0.2.2/32", "192.0.2.254", protocol=4)), "not on a network of this node"),
    ],
)
def test_what_stands_in_the_way_is_told(node: NodePlace, existing: tuple[Route, ...], reason: str) -> None:
    found = plan([ONE, node], "one", existing, cluster_cidr=CLUSTER)
    assert (found.add, found.replace) == ((), ())
    (problem,) = found.problems
    assert problem.node == "two"
    assert reason in str(problem)


def test_a_node_that_moved_out_of_reach_loses_its_route() -> None:
    far = NodePlace("two", ("10.244.2.0/24",), ("198.51.100.7",))
    found = plan([ONE, far], "one", (*HERE, TO_TWO), cluster_cidr=CLUSTER)
    assert found.delete == (TO_TWO,)
    assert found.problems == (Problem("two", "its address 198.51.100.7 is not on a network of this node"),)


def test_removal_takes_ours_only() -> None:
    others = (Route("10.244.3.0/24", "192.0.2.3", protocol=4), Route("10.9.0.0/24", "192.0.2.2"))
    assert removal((*HERE, TO_TWO, *others), cluster_cidr=CLUSTER) == (TO_TWO,)


def test_a_node_is_read_without_what_does_not_matter() -> None:
    text = b"""{"kind": "Node", "metadata": {"name": "two", "resourceVersion": "7", "labels": {"a": "b"}},
      "spec": {"podCIDR": "10.244.2.0/24", "taints": [{"key": "x", "effect": "NoSchedule"}]},
      "status": {"images": [{"names": ["i"]}], "addresses": [
        {"type": "Hostname", "address": "two"}, {"type": "InternalIP", "address": "192.0.2.2"}]}}"""
    assert place_of(objects.decode(text, PlacedNode)) == TWO
    assert place_of(objects.decode(b'{"metadata": {"name": "new"}}', PlacedNode)) == NodePlace("new")
