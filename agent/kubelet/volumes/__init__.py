"""The volumes of a node's pods (Kubernetes concept: Volumes)."""

from agent.kubelet.volumes.volume_set import VolumeSet

__all__ = ["VolumeSet"]
