"""The seam for plugins: what a filter and a score are, and what becomes of one that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot
from kube.errors import KtoolError

MAX_SCORE = 100.0

Rows = NDArray[np.intp]
Reasons = Counter[str]


class PluginError(KtoolError):
    """A plugin raised, or gave an answer of the wrong form: there is no decision, the pod is tried again later."""

    def __init__(self, plugin: str, problem: object) -> None:
        super().__init__(f'running plugin "{plugin}": {problem}')
        self.plugin = plugin


class Verdict(Struct, frozen=True):
    """A filter's answer: `mask[i]` is true where node i is possible.

    `reason` tells why the others are not: one phrase for all of them, or a function that counts the phrases for the
    rows it is given. It is asked only when somebody wants to know.
    """

    mask: Mask
    reason: str | Callable[[Rows], Reasons]

    def reasons(self, rows: Rows) -> Reasons:
        """Phrase → how many of these (refused) rows it concerns."""
        if isinstance(self.reason, str):
            return Counter({self.reason: len(rows)})
        return self.reason(rows)


class Filter(Protocol):
    """A filter plugin: a pure function of pod and snapshot (kube-scheduler: FilterPlugin)."""

    name: str

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        """The verdict over all nodes; None when the filter does not concern this pod."""
        ...


class Score(Protocol):
    """A score plugin: a pure function of pod and snapshot (kube-scheduler: ScorePlugin)."""

    name: str
    weight: float

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        """0 to 100 for each node (what it gives impossible ones does not count); None without an opinion."""
        ...
