"""The way from one ruleset to another, run on a model that is as strict as the kernel."""

from __future__ import annotations

import pytest
from hypothesis import given

from agent.proxy.rules import Planner, plan
from agent.proxy.ruleset import EMPTY, Chain, Ruleset, difference, replacement
from agent.proxy.service_port import ServicePort
from tests.agent.proxy.nft_model import Model
from tests.agent.proxy.samples import HERE, NODE, THERE, THERE_TOO, web
from tests.agent.proxy.strategies import clusters


def _model(ruleset: Ruleset) -> Model:
    model = Model()
    model.run(replacement(ruleset))
    return model


@given(clusters(), clusters())
def test_difference_leads_there(before: list[ServicePort], after: list[ServicePort]) -> None:
    old, new = plan(before, NODE), plan(after, NODE)
    model = _model(old)
    assert model.ruleset() == old
    model.run(difference(old, new))
    assert model.ruleset() == new


@given(clusters(), clusters(), clusters())
def test_a_planner_with_a_past_leads_to_the_same_service(
    one: list[ServicePort], two: list[ServicePort], three: list[ServicePort]
) -> None:
    planner = Planner(NODE)
    model = _model(planner.plan(one))
    for services in (two, three, two):
        old = model.ruleset()
        model.run(difference(old, planner.plan(services)))
    fresh = plan(two, NODE)
    found = model.ruleset()
    assert found.sets == fresh.sets
    assert found.chains == fresh.chains
    assert found.elements.keys() == fresh.elements.keys()
    for name, elements in fresh.elements.items():
        # endpoints may have other places, but the same ones serve at each address
        assert {_at(key, value) for key, value in found.elements[name].items()} == {
            _at(key, value) for key, value in elements.items()
        }


def _at(key: str, value: str) -> tuple[str, str]:
    return (key.rpartition(" . ")[0] if " . " in value else key, value)


@given(clusters())
def test_no_difference_to_itself(services: list[ServicePort]) -> None:
    assert difference(plan(services, NODE), plan(services, NODE)) == []


def test_replacing_an_endpoint_touches_one_element() -> None:
    planner = Planner(NODE)
    others = [web(THERE, name=f"other-{n}", cluster_ips=(f"10.96.1.{n}",)) for n in range(5)]
    new_one = type(THERE)("10.244.2.1", 8080, "two")  # sorts before the others
    old = planner.plan([web(THERE, THERE_TOO), *others])
    new = planner.plan([web(THERE, new_one), *others])
    assert difference(old, new) == [
        "delete element ip ktool-proxy service-tcp-endpoints { 10.96.0.10 . 80 . 1 }",
        "add element ip ktool-proxy service-tcp-endpoints { 10.96.0.10 . 80 . 1 : 10.244.2.1 . 8080 }",
    ]


def test_a_shared_endpoint_stays_while_one_service_needs_it() -> None:
    other = web(HERE, name="other", cluster_ips=("10.96.0.11",))
    old, new = plan([web(HERE), other], NODE), plan([other], NODE)
    assert difference(old, new) == [
        "delete element ip ktool-proxy service-tcp-endpoints { 10.96.0.10 . 80 . 0 }",
        "delete element ip ktool-proxy services { 10.96.0.10 . tcp . 80 }",
    ]


def test_a_changed_declaration_takes_a_replacement() -> None:
    old = Ruleset(chains={"input": Chain((), "type filter hook input priority 0;")})
    new = Ruleset(chains={"input": Chain((), "type filter hook input priority 1;")})
    with pytest.raises(ValueError, match="replace the table"):
        difference(old, new)
    assert replacement(EMPTY, table="t") == ["add table ip t", "delete table ip t", "add table ip t"]
