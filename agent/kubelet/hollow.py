"""What a hollow node has instead of the network and the disk (Kubernetes: kubemark); see agent/runtime/hollow.py."""

from __future__ import annotations

from agent.kubelet.handlers import Handler, Outcome, Target
from agent.runtime.runtime import Mount
from kube.models import core_v1


class HollowHandlers:
    """Probes and hooks of containers that do not run: every question is answered well."""

    async def run(self, handler: Handler, target: Target, *, timeout: float) -> Outcome:
        return Outcome(True)

    async def close(self) -> None:
        """There is nothing to close."""


class HollowVolumes:
    """Volumes of containers that do not run: always ready, nowhere to be found."""

    async def mount(self, pod: core_v1.Pod) -> dict[str, str]:
        return {}

    async def unmount(self, pod_uid: str) -> None:
        """There is nothing to give back."""

    async def refresh(self, pod: core_v1.Pod) -> None:
        """There is nothing to bring up to date."""

    def mounts(self, pod: core_v1.Pod, container: core_v1.Container) -> list[Mount]:
        return []
