"""Filters on what a node has to give: its name, its ports, its resources.

The reasons, here and in the other filters, are those that users of Kubernetes know from `kubectl describe pod`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from control.scheduler.plugin import Reasons, Rows, Verdict
from control.scheduler.pod_info import PODS, HostPort, PodInfo
from control.scheduler.row_vectors import Mask
from control.scheduler.snapshot import Snapshot

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (compared, never bound)


class NodeName:
    """Only the node that the pod names."""

    name = "NodeName"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        wanted = info.spec.nodeName
        if not wanted:
            return None
        mask = np.zeros(len(snapshot), np.bool_)
        if wanted in snapshot.row_of:
            mask[snapshot.row_of[wanted]] = True
        return Verdict(mask, "node(s) didn't match the requested node name")


class NodePorts:
    """Host ports that are free on the node."""

    name = "NodePorts"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        if not info.host_ports:
            return None
        mask = np.fromiter(
            (not ports_conflict(info.host_ports, row.host_ports) for row in snapshot.rows), np.bool_, len(snapshot)
        )
        return Verdict(mask, "node(s) didn't have free ports for the requested pod ports")


def ports_conflict(wanted: frozenset[HostPort], used: dict[HostPort, int]) -> bool:
    """Whether a host port is taken; every address conflicts with any one address."""
    return any(
        protocol == other_protocol and port == other_port and (address == other or ANY_ADDRESS in (address, other))
        for address, protocol, port in wanted
        for other, other_protocol, other_port in used
    )


class NodeResourcesFit:
    """Enough of every requested resource that is not yet requested by others."""

    name = "NodeResourcesFit"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        wanted = {resource: value for resource, value in info.requests.items() if value > 0}
        fits = {resource: self._fits(resource, value, snapshot) for resource, value in wanted.items()}
        mask: Mask = np.ones(len(snapshot), np.bool_)
        for enough in fits.values():
            mask &= enough

        def reasons(rows: Rows) -> Reasons:
            found: Reasons = Counter()
            for resource, enough in fits.items():
                short = len(rows) - int(np.count_nonzero(enough[rows]))
                if short:
                    found["Too many pods" if resource == PODS else f"Insufficient {resource}"] = short
            return found

        return Verdict(mask, reasons)

    @staticmethod
    def _fits(resource: str, wanted: int, snapshot: Snapshot) -> Mask:
        column = snapshot.columns.get(resource)
        if column is None:  # no node has ever had it
            return np.zeros(len(snapshot), np.bool_)
        fits: Mask = snapshot.allocatable[:, column] - snapshot.requested[:, column] >= wanted
        return fits
