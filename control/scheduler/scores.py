"""Scores on what a node has to give: room, balance, images. Each gives 0 to 100 per node; the weighted sum decides."""

from __future__ import annotations

import numpy as np

from control.scheduler.plugin import MAX_SCORE
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot, image_name

IMAGE_MIN_BYTES = 23 * 1024 * 1024
IMAGE_MAX_BYTES = 1000 * 1024 * 1024


class LeastAllocated:
    """Nodes with more room left (kube-scheduler: NodeResourcesFit, LeastAllocated)."""

    name, weight = "LeastAllocated", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        cpu, memory = snapshot.used_shares(info.scoring)
        found: Vector = MAX_SCORE - (cpu + memory) * (MAX_SCORE / 2.0)
        return found


class BalancedAllocation:
    """Nodes where cpu and memory would be used alike (kube-scheduler: NodeResourcesBalancedAllocation)."""

    name, weight = "BalancedAllocation", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        # half the distance is the standard deviation of two numbers
        cpu, memory = snapshot.used_shares(info.scoring)
        found: Vector = MAX_SCORE - np.abs(cpu - memory) * (MAX_SCORE / 2.0)
        return found


class ImageLocality:
    """Nodes that have the pod's images already, the bigger the better (kube-scheduler: ImageLocality)."""

    name, weight = "ImageLocality", 1.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        total: Vector | None = None
        for image in {image_name(i) for i in info.images}:
            sizes = _image_sizes(image, snapshot)
            present = np.count_nonzero(sizes)
            if present:
                # scaled by how widespread it is, so that one node with a big image does not attract everything
                scaled = sizes * (present / len(snapshot))
                total = scaled if total is None else total + scaled
        if total is None:
            return None
        most = IMAGE_MAX_BYTES * len(info.images)
        found: Vector = (total.clip(IMAGE_MIN_BYTES, most) - IMAGE_MIN_BYTES) / (most - IMAGE_MIN_BYTES) * MAX_SCORE
        return found


def _image_sizes(image: str, snapshot: Snapshot) -> Vector:
    """[nodes]: bytes of an image where it is present, else 0."""
    sizes: Vector = snapshot.column(("image", image), lambda row: row.images.get(image, 0), np.float64)
    return sizes
