"""Which plugins there are: kube-scheduler's own, and those that other distributions bring as entry points."""

from __future__ import annotations

import logging
from importlib import metadata
from typing import NoReturn

from control.scheduler.filters import NodeName, NodePorts, NodeResourcesFit
from control.scheduler.inter_pod_affinity import InterPodAffinity, PreferredPodAffinity
from control.scheduler.node_affinity import NodeAffinity, PreferredNodeAffinity
from control.scheduler.plugin import Filter, Score
from control.scheduler.pod_info import PodInfo
from control.scheduler.scores import BalancedAllocation, ImageLocality, LeastAllocated
from control.scheduler.snapshot import Snapshot
from control.scheduler.taints import NodeUnschedulable, PreferNoSchedule, TaintToleration
from control.scheduler.topology_spread import PodTopologySpread, PreferredSpread

FILTERS_GROUP = "ktool.scheduler.filters"
SCORES_GROUP = "ktool.scheduler.scores"

log = logging.getLogger(__name__)


def default_filters() -> tuple[Filter, ...]:
    """The filters in kube-scheduler's order: what the first refuses, later ones need not explain."""
    return (
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(),
        PodTopologySpread(),
        InterPodAffinity(),
    )


def default_scores() -> tuple[Score, ...]:
    """The scores with kube-scheduler's weights."""
    return (
        LeastAllocated(),
        BalancedAllocation(),
        PreferredSpread(),
        ImageLocality(),
        PreferNoSchedule(),
        PreferredNodeAffinity(),
        PreferredPodAffinity(),
    )


class MissingFilter:
    """Stands for a filter that cannot be loaded: nothing is scheduled without the check that somebody wanted."""

    def __init__(self, name: str, problem: Exception) -> None:
        self.name = name
        self._problem = problem

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> NoReturn:
        raise ImportError(f"it cannot be loaded: {type(self._problem).__name__}: {self._problem}")


def extra_filters() -> tuple[Filter, ...]:
    """Filters from entry points in `ktool.scheduler.filters`: each a callable without arguments that makes one."""
    found: list[Filter] = []
    for point in sorted(metadata.entry_points(group=FILTERS_GROUP), key=lambda p: p.name):
        try:
            found.append(point.load()())
        except Exception as error:
            # somebody else's code: whatever it raises must show in the pods' events, not end the scheduler
            log.exception("filter plugin %s (%s) cannot be loaded: pods wait until it can", point.name, point.value)
            found.append(MissingFilter(point.name, error))
    return tuple(found)


def extra_scores() -> tuple[Score, ...]:
    """Scores from entry points in `ktool.scheduler.scores`; one that cannot be loaded is left out."""
    found: list[Score] = []
    for point in sorted(metadata.entry_points(group=SCORES_GROUP), key=lambda p: p.name):
        try:
            found.append(point.load()())
        except Exception:
            # somebody else's code; without its opinion pods still go where they may
            log.exception("score plugin %s (%s) cannot be loaded and is left out", point.name, point.value)
    return tuple(found)
