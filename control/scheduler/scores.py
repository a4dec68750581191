"""Scores on what a node has to give: room, balance, images. Each gives 0 to 100 per node; the weighted sum decides."""

from __future__ import annotations

import numpy as np

from control.scheduler.plugin import MAX_SCORE
from control.scheduler.pod_info import CPU, MEMORY, PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot, image_name

IMAGE_MIN_BYTES = 23 * 1024 * 1024
IMAGE_MAX_BYTES = 1000 * 1024 * 1024


def _used_share(info: PodInfo, snapshot: Snapshot, resource: str) -> Vector:
    """[nodes]: share of cpu or memory in use if the pod came, at most 1."""
    which = 0 if resource == CPU else 1
    capacity = snapshot.allocatable[:, snapshot.columns[resource]]
    share = np.ones(len(snapshot))
    np.divide(snapshot.scoring[:, which] + info.scoring[which], capacity, out=share, where=capacity > 0)
    return np.minimum(share, 1.0, out=share)


class LeastAllocated:
    """Nodes with more room left (kube-scheduler: NodeResourcesFit, LeastAllocated)."""

    name, weight = "LeastAllocated", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        used = _used_share(info, snapshot, CPU) + _used_share(info, snapshot, MEMORY)
        found: Vector = (1.0 - used / 2.0) * MAX_SCORE
        return found


class BalancedAllocation:
    """Nodes where cpu and memory would be used alike (kube-scheduler: NodeResourcesBalancedAllocation)."""

    name, weight = "BalancedAllocation", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        # half the distance is the standard deviation of two numbers
        distance = np.abs(_used_share(info, snapshot, CPU) - _used_share(info, snapshot, MEMORY))
        found: Vector = (1.0 - distance / 2.0) * MAX_SCORE
        return found


class ImageLocality:
    """Nodes that have the pod's images already, the bigger the better (kube-scheduler: ImageLocality)."""

    name, weight = "ImageLocality", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        total = np.zeros(len(snapshot))
        for image in {image_name(i) for i in info.images}:
            sizes = _image_sizes(image, snapshot)
            # scaled by how widespread it is, so that one node with a big image does not attract everything
            total += sizes * (np.count_nonzero(sizes) / len(snapshot))
        if not total.any():
            return None
        most = IMAGE_MAX_BYTES * len(info.images)
        found: Vector = (total.clip(IMAGE_MIN_BYTES, most) - IMAGE_MIN_BYTES) / (most - IMAGE_MIN_BYTES) * MAX_SCORE
        return found


def _image_sizes(image: str, snapshot: Snapshot) -> Vector:
    """[nodes]: bytes of an image where it is present, else 0."""
    sizes: Vector = snapshot.column(("image", image), lambda row: row.images.get(image, 0), np.float64)
    return sizes
