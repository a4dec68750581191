"""One scheduling decision: a pure function from pod and snapshot to a node, or to the reasons why there is none."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from control.scheduler.filters import Filter
from control.scheduler.pod_info import PodInfo
from control.scheduler.scores import Score
from control.scheduler.snapshot import Mask, Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a pod goes, and why.

    node      the chosen node, or empty
    message   why there is none, as Kubernetes says it ("0/3 nodes are available: ...")
    refused   filter → how many nodes it refused
    scores    score → what the chosen node got, weighted
    """

    node: str
    message: str = ""
    refused: tuple[tuple[str, int], ...] = ()
    scores: tuple[tuple[str, float], ...] = ()


def decide(
    info: PodInfo, snapshot: Snapshot, filters: Sequence[Filter], scores: Sequence[Score], rng: random.Random
) -> Decision:
    """Choose a node. Of several equally good ones `rng` takes one."""
    if not len(snapshot):
        return Decision("", "no nodes available to schedule pods")
    possible = np.ones(len(snapshot), np.bool_)
    reasons: Counter[str] = Counter()
    refused: list[tuple[str, int]] = []
    for apply in filters:
        verdict = apply(info, snapshot)
        if verdict is None:
            continue
        out = possible & ~verdict.mask
        if not out.any():
            continue
        rows = np.flatnonzero(out)
        refused.append((apply.name, len(rows)))
        for row in rows:
            reasons.update(verdict.reason(int(row)))
        possible &= verdict.mask
        if not possible.any():
            return Decision("", explain(len(snapshot), reasons), tuple(refused))
    return _best(info, snapshot, possible, scores, rng, tuple(refused))


def _best(
    info: PodInfo,
    snapshot: Snapshot,
    possible: Mask,
    scores: Sequence[Score],
    rng: random.Random,
    refused: tuple[tuple[str, int], ...],
) -> Decision:
    total = np.zeros(len(snapshot))
    parts = []
    for score in scores:
        values = score(info, snapshot, possible)
        if values is not None:
            weighted = values * score.weight
            total += weighted
            parts.append((score.name, weighted))
    total[~possible] = -1.0
    best = np.flatnonzero(total >= total.max() - 1e-9)
    row = int(best[rng.randrange(len(best))])
    won = tuple((name, round(float(values[row]), 3)) for name, values in parts)
    return Decision(snapshot.rows[row].name, refused=refused, scores=won)


def explain(nodes: int, reasons: Counter[str]) -> str:
    """Kubernetes' sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
    parts = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return f"0/{nodes} nodes are available: {parts}."
