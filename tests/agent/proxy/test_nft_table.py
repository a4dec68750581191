"""The table in the real kernel: applied, read back, damaged by others, removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from agent.proxy.nft import NftError, NftTable
from agent.proxy.rules import Planner, plan
from agent.proxy.ruleset import Chain, Ruleset
from agent.proxy.service_port import ServicePort
from tests.agent.proxy import lab as labs
from tests.agent.proxy.samples import HERE, HERE_TOO, NODE, THERE, web
from tests.agent.proxy.strategies import clusters

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab"),
]

RULESET = plan([web(HERE, node_port=30080), web(HERE, THERE, name="far", affinity_seconds=60)], NODE)


@pytest.fixture
def space() -> Iterator[labs.Namespace]:
    with ExitStack() as stack:
        made = labs.Namespace(stack)
        stack.enter_context(made.inside())
        yield made


@pytest.fixture
def table(space: labs.Namespace) -> Iterator[NftTable]:
    made = NftTable()
    yield made
    made.close()


def test_first_replaced_then_changed_by_difference(table: NftTable) -> None:
    first = table.sync(RULESET)
    assert first.replaced
    assert table.intact()
    more = table.sync(plan([web(HERE, HERE_TOO, node_port=30080)], NODE))
    assert not more.replaced
    assert table.intact()
    assert table.sync(table.current or Ruleset()).commands == 0


@settings(max_examples=12)
@given(clusters(), clusters(), clusters())
def test_the_kernel_holds_what_was_planned(
    one: list[ServicePort], two: list[ServicePort], three: list[ServicePort]
) -> None:
    with ExitStack() as stack:
        stack.enter_context(labs.Namespace(stack).inside())
        table, planner = NftTable(), Planner(NODE)
        stack.callback(table.close)
        for number, services in enumerate((one, two, three)):
            wanted = planner.plan(services)
            assert table.sync(wanted).replaced is (number == 0)
            found = table.read()
            assert found is not None
            assert found.agrees_with(wanted)


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table ip ktool-proxy",
        "flush chain ip ktool-proxy guard",
        "flush map ip ktool-proxy services",
        "delete element ip ktool-proxy node-port-tcp-endpoints { 30080 . 0 }",
        "add element ip ktool-proxy refused-node-ports { tcp . 22 }",
        "add rule ip ktool-proxy inside drop",
        "add chain ip ktool-proxy mine",
    ],
)
def test_damage_is_noticed_and_mended(space: labs.Namespace, table: NftTable, damage: str) -> None:
    table.sync(RULESET)
    space.run("nft", damage)
    assert not table.intact()
    assert table.sync(RULESET).replaced
    assert table.intact()


def test_what_others_do_in_their_own_tables_is_no_damage(space: labs.Namespace, table: NftTable) -> None:
    table.sync(RULESET)
    space.run("nft", "add table ip other")
    assert table.intact()
    assert not table.sync(plan([web(HERE)], NODE)).replaced


def test_a_change_on_damaged_ground_replaces_the_table(space: labs.Namespace, table: NftTable) -> None:
    table.sync(RULESET)
    space.run("nft", "flush ruleset")
    assert table.sync(plan([web(THERE)], NODE)).replaced
    assert table.intact()


def test_learned_clients_survive_a_replacement(space: labs.Namespace, table: NftTable) -> None:
    table.sync(RULESET)
    name = "clients/default/far/http/10.244.1.11/8080"
    space.run("nft", f"add element ip ktool-proxy {name} {{ 10.244.1.77 timeout 60s expires 40s }}")
    later = NftTable()
    try:
        assert later.sync(RULESET).replaced
        found = later.read()
        assert found is not None
        timeout, left = found.clients[name]["10.244.1.77"]
        assert timeout == 60
        assert 30 <= left <= 40
    finally:
        later.close()


def test_a_refused_transaction_changes_nothing(table: NftTable) -> None:
    table.sync(RULESET)
    bad = replace(RULESET, chains={**RULESET.chains, "bad": Chain(("goto nowhere",))})
    with pytest.raises(NftError, match="refused the Service rules"):
        table.sync(bad)
    found = table.read()
    assert found is not None
    assert found.agrees_with(RULESET)


def test_removal_leaves_nothing_and_only_its_own(space: labs.Namespace, table: NftTable) -> None:
    space.run("nft", "add table ip other")
    before = space.run("nft", "list", "ruleset")
    table.sync(RULESET)
    table.remove()
    assert space.run("nft", "list", "ruleset") == before
    assert table.read() is None
    table.remove()
