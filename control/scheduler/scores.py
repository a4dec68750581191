"""Scores: which of the possible nodes is best. Each gives 0 to 100 per node; their weighted sum decides."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from control.scheduler.filters import tolerates
from control.scheduler.pod_info import CPU, MEMORY, PodInfo
from control.scheduler.snapshot import Mask, Snapshot, Vector
from kube import selector

MAX = 100.0
IMAGE_MIN_BYTES = 23 * 1024 * 1024
IMAGE_MAX_BYTES = 1000 * 1024 * 1024


class Score(Protocol):
    """A score plugin: a pure function of pod and snapshot."""

    name: str
    weight: float

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        """0 to 100 for each node (what it gives impossible ones does not count); None without an opinion."""
        ...


def _used_share(info: PodInfo, snapshot: Snapshot) -> Vector:
    """[nodes × (cpu, memory)]: share in use if the pod came, at most 1."""
    columns = [snapshot.columns[CPU], snapshot.columns[MEMORY]]
    capacity = snapshot.allocatable[:, columns]
    wanted = snapshot.scoring + np.array(info.scoring, dtype=np.float64)
    share = np.divide(wanted, capacity, out=np.ones_like(wanted), where=capacity > 0)
    return np.minimum(share, 1.0)


class LeastAllocated:
    """Nodes with more room left (kube-scheduler: NodeResourcesFit, LeastAllocated)."""

    name, weight = "LeastAllocated", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        found: Vector = (1.0 - _used_share(info, snapshot)).mean(axis=1) * MAX
        return found


class BalancedAllocation:
    """Nodes where cpu and memory would be used alike (kube-scheduler: NodeResourcesBalancedAllocation)."""

    name, weight = "BalancedAllocation", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        found: Vector = (1.0 - _used_share(info, snapshot).std(axis=1)) * MAX
        return found


class Spreading:
    """Nodes with fewer pods of the same owner (kube-scheduler: PodTopologySpread's defaults, by host name)."""

    name, weight = "Spreading", 2.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        counts = snapshot.owner_counts(info.owner)
        most = counts[possible].max(initial=0.0)
        if most == 0:
            return None
        found: Vector = (1.0 - counts / most).clip(0.0, 1.0) * MAX
        return found


class ImageLocality:
    """Nodes that have the pod's images already, the bigger the better (kube-scheduler: ImageLocality)."""

    name, weight = "ImageLocality", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        sizes = np.zeros(len(snapshot))
        for image in info.images:
            sizes += np.fromiter((row.images.get(_tagged(image), 0) for row in snapshot.rows), float, len(snapshot))
        if not sizes.any():
            return None
        share = np.count_nonzero(sizes) / len(snapshot)
        # scaled by how widespread the images are, so that one node with a big image does not attract everything
        weighed = (sizes * share).clip(IMAGE_MIN_BYTES, IMAGE_MAX_BYTES)
        found: Vector = (weighed - IMAGE_MIN_BYTES) / (IMAGE_MAX_BYTES - IMAGE_MIN_BYTES) * MAX
        return found


class PreferNoSchedule:
    """Nodes with fewer untolerated taints of effect PreferNoSchedule (kube-scheduler: TaintToleration)."""

    name, weight = "TaintToleration", 3.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        if not any(t.effect == "PreferNoSchedule" for row in snapshot.rows for t in row.taints):
            return None
        tolerations = info.spec.tolerations
        counts = np.array(
            [
                float(sum(t.effect == "PreferNoSchedule" and not tolerates(tolerations, t) for t in row.taints))
                for row in snapshot.rows
            ]
        )
        most = counts[possible].max(initial=0.0)
        found: Vector = (1.0 - counts / most).clip(0.0, 1.0) * MAX if most else np.full(len(snapshot), MAX)
        return found


class PreferredNodeAffinity:
    """Nodes that match the pod's preferred node affinity terms (kube-scheduler: NodeAffinity)."""

    name, weight = "NodeAffinity", 2.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        affinity = info.spec.affinity.nodeAffinity if info.spec.affinity else None
        preferred = affinity.preferredDuringSchedulingIgnoredDuringExecution if affinity else None
        if not preferred:
            return None
        sums = np.zeros(len(snapshot))
        for preference in preferred:
            term = selector.from_node_selector_term(preference.preference)
            matches = (term.matches(row.labels, row.name) for row in snapshot.rows)
            sums += np.fromiter(matches, float, len(snapshot)) * (preference.weight or 0)
        most = sums[possible].max(initial=0.0)
        return sums / most * MAX if most else None


def _tagged(image: str) -> str:
    """The image's name as a node reports it: with a tag."""
    last = image.rsplit("/", 1)[-1]
    return image if ":" in last or "@" in last else f"{image}:latest"


def default_scores() -> tuple[Score, ...]:
    """The scores with kube-scheduler's weights."""
    return (
        LeastAllocated(),
        BalancedAllocation(),
        Spreading(),
        ImageLocality(),
        PreferNoSchedule(),
        PreferredNodeAffinity(),
    )
