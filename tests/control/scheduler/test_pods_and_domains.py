"""Affinity between pods and topology spread: the vectors say what the rules say, told pod by pod."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from control.scheduler.inter_pod_affinity import NOT_NEAR, TOO_NEAR, UNWELCOME, InterPodAffinity
from control.scheduler.pod_info import pod_info
from control.scheduler.snapshot import Snapshot
from control.scheduler.topology_spread import NO_LABEL, UNEVEN, PodTopologySpread
from kube import selector
from tests.control.scheduler import build

KEYS = ("zone", "rack")
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

labels = st.fixed_dictionaries({}, optional={"app": st.sampled_from("ab"), "tier": st.sampled_from("xy")})
label_selectors = st.one_of(
    st.builds(lambda v: {"matchLabels": {"app": v}}, st.sampled_from("ab")),
    st.builds(lambda v: {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": [v]}]}, st.just("x")),
    st.just({}),
    st.none(),
)
terms = st.fixed_dictionaries(
    {"topologyKey": st.sampled_from(KEYS), "labelSelector": label_selectors},
    optional={"namespaces": st.sampled_from((["one"], ["one", "two"])), "namespaceSelector": st.just({})},
)
affinities = st.fixed_dictionaries(
    {},
    optional={
        "podAffinity": st.builds(lambda t: {REQUIRED: t}, st.lists(terms, max_size=2)),
        "podAntiAffinity": st.builds(lambda t: {REQUIRED: t}, st.lists(terms, max_size=2)),
    },
)
spreads = st.lists(
    st.fixed_dictionaries(
        {
            "maxSkew": st.integers(1, 2),
            "topologyKey": st.sampled_from(KEYS),
            "whenUnsatisfiable": st.just("DoNotSchedule"),
            "labelSelector": label_selectors,
        },
        optional={"minDomains": st.integers(1, 3)},
    ),
    max_size=2,
)
pods = st.fixed_dictionaries(
    {
        "labels": labels,
        "namespace": st.sampled_from(("one", "two")),
        "affinity": affinities,
        "topologySpreadConstraints": spreads,
        "deleting": st.booleans(),
    }
)
nodes = st.dictionaries(
    st.sampled_from(("n0", "n1", "n2", "n3", "n4")),
    st.fixed_dictionaries({}, optional={"zone": st.sampled_from("uv"), "rack": st.sampled_from("12")}),
    min_size=1,
)
moves = st.lists(
    st.tuples(st.sampled_from(("p0", "p1", "p2", "p3", "p4")), st.sampled_from(("n0", "n1", "n2", "n3")), pods),
    max_size=12,
)


@dataclass
class Plain:
    """The same cluster as plain dicts, and Kubernetes' rules as loops over them."""

    nodes: dict[str, dict[str, str]]
    placed: dict[str, tuple[str, dict[str, Any]]]

    def means(self, term: dict[str, Any], owner: dict[str, Any], pod: dict[str, Any]) -> bool:
        if not {"namespaces", "namespaceSelector"} & term.keys():
            there = pod["namespace"] == owner["namespace"]
        else:
            there = "namespaceSelector" in term or pod["namespace"] in term["namespaces"]
        return there and selector.from_label_selector(term["labelSelector"]).matches(pod["labels"])

    def domains(self, key: str, condition: Any) -> Counter[str]:
        """Value of a label → how many pods on its nodes meet a condition."""
        found: Counter[str] = Counter()
        for where, pod in self.placed.values():
            value = self.nodes.get(where, {}).get(key)
            if value is not None and condition(pod):
                found[value] += 1
        return found

    def affinity(self, pod: dict[str, Any], node: str) -> str:
        here = self.nodes[node]
        near = pod["affinity"].get("podAffinity", {}).get(REQUIRED, [])
        all_met = [
            self.domains(t["topologyKey"], lambda other: all(self.means(t, pod, other) for t in near)) for t in near
        ]
        if any(t["topologyKey"] not in here for t in near):
            return NOT_NEAR
        met = all(counts[here[t["topologyKey"]]] for t, counts in zip(near, all_met, strict=True))
        first = not any(all_met) and all(self.means(t, pod, pod) for t in near)
        if near and not met and not first:
            return NOT_NEAR
        for term in pod["affinity"].get("podAntiAffinity", {}).get(REQUIRED, []):
            counts = self.domains(term["topologyKey"], lambda other, term=term: self.means(term, pod, other))
            if counts[here.get(term["topologyKey"], "")]:
                return TOO_NEAR
        for where, other in self.placed.values():
            for term in other["affinity"].get("podAntiAffinity", {}).get(REQUIRED, []):
                value = self.nodes.get(where, {}).get(term["topologyKey"])
                if value is not None and value == here.get(term["topologyKey"]) and self.means(term, other, pod):
                    return UNWELCOME
        return ""

    def spread(self, pod: dict[str, Any], node: str) -> str:
        constraints = pod["topologySpreadConstraints"]
        keys = {c["topologyKey"] for c in constraints}
        if keys - self.nodes[node].keys():
            return NO_LABEL
        for c in constraints:
            counts = {labels[c["topologyKey"]]: 0 for labels in self.nodes.values() if not keys - labels.keys()}
            matches = selector.from_label_selector(c["labelSelector"]).matches
            for where, other in self.placed.values():
                if where in self.nodes and not keys - self.nodes[where].keys() and not other["deleting"]:
                    value = self.nodes[where][c["topologyKey"]]
                    counts[value] += other["namespace"] == pod["namespace"] and matches(other["labels"])
            least = min(counts.values()) if len(counts) >= c.get("minDomains", 1) else 0
            if counts[self.nodes[node][c["topologyKey"]]] + matches(pod["labels"]) - least > c["maxSkew"]:
                return UNEVEN
        return ""


def said(plugin: InterPodAffinity | PodTopologySpread, pod: dict[str, Any], snapshot: Snapshot) -> dict[str, str]:
    """Node → the phrase with which the filter refuses it, or nothing."""
    verdict = plugin(pod_info(build.pod("new", **pod)), snapshot)
    if verdict is None:
        return {row.name: "" for row in snapshot.rows}
    found = {}
    for i, row in enumerate(snapshot.rows):
        reasons = [] if verdict.mask[i] else [*verdict.reasons(np.array([i]))]
        found[row.name] = "".join(reasons)
    return found


@settings(max_examples=300, deadline=None)
@given(nodes, moves, pods, st.sets(st.sampled_from(("n0", "n1"))), st.sampled_from(("p0", "p1", "p2")))
def test_vectors_say_what_the_rules_say(
    nodes: dict[str, dict[str, str]],
    moves: list[tuple[str, str, dict[str, Any]]],
    pod: dict[str, Any],
    removed: set[str],
    gone: str,
) -> None:
    snapshot, plain = Snapshot(), Plain(dict(nodes), {})
    for name, given_labels in nodes.items():
        snapshot.set_node(build.node(name, labels=given_labels))

    def check() -> None:
        for plugin, rule in ((InterPodAffinity(), plain.affinity), (PodTopologySpread(), plain.spread)):
            assert said(plugin, pod, snapshot) == {name: rule(pod, name) for name in plain.nodes}

    check()  # from now on counts are kept, and must follow every change
    for name, where, what in moves:
        for key in [key for key in snapshot.placements if key.endswith(f"/{name}")]:
            snapshot.remove(key)
        snapshot.place(pod_info(build.pod(name, **what)), where)
        plain.placed[name] = (where, what)
    check()
    for name in removed:
        snapshot.remove_node(name)
        plain.nodes.pop(name, None)
    for key in [key for key in snapshot.placements if key.endswith(f"/{gone}")]:
        snapshot.remove(key)
    plain.placed.pop(gone, None)
    check()
    for name in nodes:
        snapshot.set_node(build.node(name, labels={"zone": "u"}))
        plain.nodes[name] = {"zone": "u"}
    check()


def test_a_cluster_without_affinity_keeps_no_counts() -> None:
    snapshot = Snapshot()
    snapshot.set_node(build.node("a"))
    info = pod_info(build.pod("p", labels={"app": "a"}))
    snapshot.place(info, "a")
    assert InterPodAffinity()(info, snapshot) is None
    assert PodTopologySpread()(info, snapshot) is None
    assert len(snapshot.anti_affinity) == len(snapshot.preferences) == 0


def test_terms_are_forgotten_with_the_last_pod_that_has_them() -> None:
    snapshot = Snapshot()
    for name in ("a", "b"):
        snapshot.set_node(build.node(name))
    term = {"topologyKey": "zone", "labelSelector": {}}
    for i, where in enumerate(("a", "a", "b", "unknown")):
        affinity = {"podAntiAffinity": {REQUIRED: [term]}, "podAffinity": {REQUIRED: [term]}}
        snapshot.place(pod_info(build.pod(f"p{i}", affinity=affinity)), where)
    assert (len(snapshot.anti_affinity), len(snapshot.preferences)) == (1, 1)
    snapshot.remove_node("b")
    snapshot.remove("default/p0")
    assert (len(snapshot.anti_affinity), len(snapshot.preferences)) == (1, 1)
    snapshot.remove("default/p1")
    assert (len(snapshot.anti_affinity), len(snapshot.preferences)) == (0, 0)
    snapshot.set_node(build.node("unknown"))
    assert (len(snapshot.anti_affinity), len(snapshot.preferences)) == (1, 1)


def test_a_malformed_selector_means_nobody() -> None:
    snapshot = Snapshot()
    snapshot.set_node(build.node("a"))
    snapshot.place(pod_info(build.pod("other", labels={"app": "a"})), "a")
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchExpressions": [{"key": "app", "operator": "Like"}]},
    }
    near = pod_info(build.pod("near", affinity={"podAffinity": {REQUIRED: [term]}}))
    far = pod_info(build.pod("far", affinity={"podAntiAffinity": {REQUIRED: [term]}}))
    spread = {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"} | term
    even = pod_info(build.pod("even", topologySpreadConstraints=[spread]))
    assert [
        verdict.mask.tolist()
        for verdict in (InterPodAffinity()(near, snapshot), InterPodAffinity()(far, snapshot))
        if verdict
    ] == [[False], [True]]
    verdict = PodTopologySpread()(even, snapshot)
    assert verdict is not None
    assert verdict.mask.tolist() == [True]
