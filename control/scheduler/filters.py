"""Filters: which nodes a pod could run on. Each gives a boolean per node and the words for those it refuses.

The reasons are those that users of Kubernetes know from `kubectl describe pod`. Vectors that depend on a node's
labels, taints or readiness only are kept until some node changes in that respect (`Snapshot.generation`): the pods of
one Deployment then share them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from control.scheduler.pod_info import PODS, PodInfo
from control.scheduler.snapshot import Mask, NodeRow, Snapshot
from kube import selector
from kube.models import core_v1

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (compared, never bound)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's answer: `mask[i]` is true where node i is possible; `reason(i)` tells why not."""

    mask: Mask
    reason: Callable[[int], Sequence[str]]


class Filter(Protocol):
    """A filter plugin: a pure function of pod and snapshot."""

    name: str

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        """The verdict over all nodes; None when the filter does not concern this pod."""
        ...


@dataclass(slots=True)
class _Remembered:
    """Masks by what they depend on, until the snapshot's generation moves on."""

    generation: int = -1
    masks: dict[Hashable, Mask] = field(default_factory=dict)

    def get(self, key: Hashable, snapshot: Snapshot, accepts: Callable[[NodeRow], bool]) -> Mask:
        if self.generation != snapshot.generation or len(self.masks) > 256:
            self.generation = snapshot.generation
            self.masks.clear()
        mask = self.masks.get(key)
        if mask is None:
            mask = np.fromiter((accepts(row) for row in snapshot.rows), np.bool_, len(snapshot))
            self.masks[key] = mask
        return mask


class NodeReady:
    """Only nodes whose condition Ready is true (Kubernetes does it by taints; a moment later)."""

    name = "NodeReady"

    def __init__(self) -> None:
        self._masks = _Remembered()

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        mask = self._masks.get("", snapshot, lambda row: row.ready)
        return Verdict(mask, lambda _: ("node(s) were not ready",))


class NodeUnschedulable:
    """No cordoned nodes, unless the pod tolerates that."""

    name = "NodeUnschedulable"

    def __init__(self) -> None:
        self._masks = _Remembered()

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        taint = core_v1.Taint(key=UNSCHEDULABLE_TAINT, effect="NoSchedule")
        if tolerates(info.spec.tolerations, taint):
            return None
        mask = self._masks.get("", snapshot, lambda row: not row.unschedulable)
        return Verdict(mask, lambda _: ("node(s) were unschedulable",))


class NodeName:
    """Only the node that the pod names."""

    name = "NodeName"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        wanted = info.spec.nodeName
        if not wanted:
            return None
        mask = np.fromiter((row.name == wanted for row in snapshot.rows), np.bool_, len(snapshot))
        return Verdict(mask, lambda _: ("node(s) didn't match the requested node name",))


class TaintToleration:
    """No nodes with a taint of effect NoSchedule or NoExecute that the pod does not tolerate."""

    name = "TaintToleration"

    def __init__(self) -> None:
        self._masks = _Remembered()

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        tolerations = info.spec.tolerations
        key = tuple((t.key, t.operator, t.value, t.effect) for t in tolerations)
        mask = self._masks.get(key, snapshot, lambda row: untolerated(row.taints, tolerations) is None)

        def reason(row: int) -> Sequence[str]:
            taint = untolerated(snapshot.rows[row].taints, tolerations)
            shown = f"{taint.key}: {taint.value or ''}" if taint else ""
            return (f"node(s) had untolerated taint {{{shown}}}",)

        return Verdict(mask, reason)


class NodeAffinity:
    """The pod's nodeSelector and its required node affinity."""

    name = "NodeAffinity"

    def __init__(self) -> None:
        self._masks = _Remembered()

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        spec = info.spec
        affinity = spec.affinity.nodeAffinity if spec.affinity else None
        required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity else None
        if not spec.nodeSelector and required is None:
            return None
        terms = selector.from_node_selector(required) if required is not None else None
        wanted = spec.nodeSelector.items()

        def accepts(row: NodeRow) -> bool:
            return wanted <= row.labels.items() and (terms is None or terms.matches(row.labels, row.name))

        mask = self._masks.get((tuple(sorted(wanted)), terms), snapshot, accepts)
        return Verdict(mask, lambda _: ("node(s) didn't match Pod's node affinity/selector",))


class NodePorts:
    """Host ports that are free on the node."""

    name = "NodePorts"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        if not info.host_ports:
            return None
        mask = np.fromiter(
            (not ports_conflict(info.host_ports, row.host_ports) for row in snapshot.rows), np.bool_, len(snapshot)
        )
        return Verdict(mask, lambda _: ("node(s) didn't have free ports for the requested pod ports",))


class NodeResourcesFit:
    """Enough of every requested resource that is not yet requested by others."""

    name = "NodeResourcesFit"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        missing = [r for r in info.requests if r not in snapshot.columns and info.requests[r] > 0]
        names = [r for r in info.requests if r in snapshot.columns and info.requests[r] > 0]
        columns = [snapshot.columns[r] for r in names]
        wanted = np.array([info.requests[r] for r in names], dtype=np.float64)
        free = snapshot.allocatable[:, columns] - snapshot.requested[:, columns]
        fits = free >= wanted
        mask: Mask = np.zeros(len(snapshot), np.bool_) if missing else np.all(fits, axis=1)

        def reason(row: int) -> Sequence[str]:
            short = [*missing, *(r for r, enough in zip(names, fits[row], strict=True) if not enough)]
            return ["Too many pods" if r == PODS else f"Insufficient {r}" for r in short]

        return Verdict(mask, reason)


def tolerates(tolerations: Sequence[core_v1.Toleration], taint: core_v1.Taint) -> bool:
    """Whether any toleration matches a taint (Kubernetes concept: Taints and Tolerations)."""
    return any(
        t.effect in (None, "", taint.effect)
        and (t.key in (None, "", taint.key))
        and (t.operator == "Exists" or (t.operator in (None, "", "Equal") and (t.value or "") == (taint.value or "")))
        and (bool(t.key) or t.operator == "Exists")
        for t in tolerations
    )


def untolerated(taints: Sequence[core_v1.Taint], tolerations: Sequence[core_v1.Toleration]) -> core_v1.Taint | None:
    """The first taint that keeps the pod away, or None."""
    hard = (t for t in taints if t.effect in ("NoSchedule", "NoExecute"))
    return next((t for t in hard if not tolerates(tolerations, t)), None)


def ports_conflict(wanted: frozenset[tuple[str, str, int]], used: dict[tuple[str, str, int], int]) -> bool:
    """Whether a host port is taken; every address conflicts with any one address."""
    return any(
        protocol == other_protocol and port == other_port and (address == other or ANY_ADDRESS in (address, other))
        for address, protocol, port in wanted
        for other, other_protocol, other_port in used
    )


def default_filters() -> tuple[Filter, ...]:
    """The filters, cheap and decisive ones first."""
    return (
        NodeReady(),
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(),
    )
