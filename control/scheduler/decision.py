"""One scheduling decision: a pure function from pod and snapshot to a node, or to the reasons why there is none.

`decide` does as little as it can and is what the scheduler runs; `explain` asks the same plugins the same questions
and tells the answers for every node.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from control.scheduler.plugin import Filter, PluginError, Reasons, Score, Verdict
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot

EXAMPLES = 5


class Refusal(Struct, frozen=True):
    """A filter refused some nodes that the filters before it had let pass; `examples` names a few."""

    filter: str
    nodes: int
    examples: tuple[str, ...]


class Decision(Struct, frozen=True):
    """Where a pod goes, and why.

    node      the chosen node, or empty
    message   why there is none, as Kubernetes says it ("0/3 nodes are available: ...")
    nodes     how many there were
    possible  how many of them passed all filters
    refused   what each filter refused
    scores    score → what the chosen node got, weighted; empty where there was no choice
    """

    node: str
    message: str = ""
    nodes: int = 0
    possible: int = 0
    refused: tuple[Refusal, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()


def decide(
    info: PodInfo, snapshot: Snapshot, filters: Sequence[Filter], scores: Sequence[Score], rng: random.Random
) -> Decision:
    """Choose a node. Of several equally good ones `rng` takes one. Raises PluginError."""
    size = len(snapshot)
    if not size:
        return Decision("", "no nodes available to schedule pods")
    possible: Mask = np.ones(size, np.bool_)
    left = size
    refusals: list[tuple[Filter, Verdict, Mask]] = []
    for plugin in filters:
        verdict = _verdict(plugin, info, snapshot)
        if verdict is None:
            continue
        both = possible & verdict.mask
        remaining = int(np.count_nonzero(both))
        if remaining < left:
            refusals.append((plugin, verdict, possible & ~verdict.mask))
            possible, left = both, remaining
            if not left:
                break
    refused = tuple(_refusal(plugin, out, snapshot) for plugin, _, out in refusals)
    if not left:
        reasons: Reasons = Counter()
        for plugin, verdict, out in refusals:
            reasons += _reasons(plugin, verdict, out)
        return Decision("", unavailable(size, reasons), size, 0, refused)
    if left == 1:
        return Decision(snapshot.rows[int(possible.argmax())].name, "", size, 1, refused)
    total, parts = _weigh(info, snapshot, possible, scores)
    best = np.flatnonzero(total >= total.max() - 1e-9)
    row = int(best[rng.randrange(len(best))])
    won = tuple((name, round(float(values[row]), 3)) for name, values in parts)
    return Decision(snapshot.rows[row].name, "", size, left, refused, won)


class NodeExplanation(Struct, frozen=True):
    """What becomes of a pod on one node: refused by a filter, or scored (score → weighted) to a total."""

    node: str
    refused_by: str = ""
    reasons: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()

    @property
    def total(self) -> float:
        return sum(value for _, value in self.scores)

    def __str__(self) -> str:
        if self.refused_by:
            return f"{self.node}: refused by {self.refused_by}: {', '.join(self.reasons)}"
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.scores)
        return f"{self.node}: {self.total:.1f} ({parts})"


def explain(
    info: PodInfo, snapshot: Snapshot, filters: Sequence[Filter], scores: Sequence[Score]
) -> list[NodeExplanation]:
    """What each node would be to the pod now: possible ones first, the best on top. Raises PluginError."""
    possible: Mask = np.ones(len(snapshot), np.bool_)
    refused: list[NodeExplanation] = []
    for plugin in filters:
        verdict = _verdict(plugin, info, snapshot)
        if verdict is None:
            continue
        for row in np.flatnonzero(possible & ~verdict.mask):
            only: Mask = np.zeros(len(snapshot), np.bool_)
            only[row] = True
            reasons = tuple(sorted(_reasons(plugin, verdict, only)))
            refused.append(NodeExplanation(snapshot.rows[row].name, plugin.name, reasons))
        possible &= verdict.mask
    refused.sort(key=lambda e: e.node)
    if not possible.any():
        return refused
    total, parts = _weigh(info, snapshot, possible, scores)
    rows = sorted(np.flatnonzero(possible), key=lambda row: (-round(float(total[row]), 6), snapshot.rows[row].name))
    found = [
        NodeExplanation(snapshot.rows[row].name, scores=tuple((name, float(values[row])) for name, values in parts))
        for row in rows
    ]
    return found + refused


def unavailable(nodes: int, reasons: Reasons) -> str:
    """Kubernetes' sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
    parts = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return f"0/{nodes} nodes are available: {parts}."


def _verdict(plugin: Filter, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
    try:
        verdict = plugin(info, snapshot)
    except Exception as error:
        raise PluginError(plugin.name, error) from error
    if verdict is not None and (verdict.mask.shape != (len(snapshot),) or verdict.mask.dtype != np.bool_):
        raise PluginError(plugin.name, f"its mask is {verdict.mask.dtype}{verdict.mask.shape}, not bool per node")
    return verdict


def _reasons(plugin: Filter, verdict: Verdict, out: Mask) -> Reasons:
    try:
        return verdict.reasons(np.flatnonzero(out))
    except Exception as error:
        raise PluginError(plugin.name, error) from error


def _refusal(plugin: Filter, out: Mask, snapshot: Snapshot) -> Refusal:
    rows = np.flatnonzero(out)
    return Refusal(plugin.name, len(rows), tuple(snapshot.rows[row].name for row in rows[:EXAMPLES]))


def _weigh(
    info: PodInfo, snapshot: Snapshot, possible: Mask, scores: Sequence[Score]
) -> tuple[Vector, list[tuple[str, Vector]]]:
    """(total, parts): weighted scores; the total of impossible nodes is below all others."""
    total: Vector = np.zeros(len(snapshot))
    parts: list[tuple[str, Vector]] = []
    for plugin in scores:
        try:
            values = plugin(info, snapshot, possible)
        except Exception as error:
            raise PluginError(plugin.name, error) from error
        if values is None:
            continue
        if values.shape != total.shape:
            raise PluginError(plugin.name, f"its scores are not one number per node: found shape {values.shape}")
        weighted = values if plugin.weight == 1.0 else values * plugin.weight
        total += weighted
        parts.append((plugin.name, weighted))
    if not np.isfinite(total.sum()):
        odd = [name for name, weighted in parts if not np.isfinite(weighted).all()]
        raise PluginError(", ".join(odd), "its scores are not finite numbers")
    total[~possible] = -np.inf
    return total, parts
