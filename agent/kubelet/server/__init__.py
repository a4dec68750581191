"""The node's own API: logs, commands in containers, ports of pods, statistics (Kubernetes: the kubelet's server)."""

from agent.kubelet.server.server import KubeletServer

__all__ = ["KubeletServer"]
