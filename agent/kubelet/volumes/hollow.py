"""Volumes of containers that do not run: there are none (Kubernetes: hollow nodes)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.runtime.runtime import Mount
from kube.models import core_v1


class HollowVolumes:
    """Takes everything and makes nothing: a thousand nodes in one process need no files."""

    async def mount(self, pod: core_v1.Pod) -> dict[str, str]:
        return {}

    async def unmount(self, pod_uid: str) -> None:
        """There is nothing to give back."""

    async def refresh(self, pod: core_v1.Pod) -> None:
        """There is nothing to refresh."""

    async def over_limit(self, pod: core_v1.Pod) -> str:
        return ""

    async def remove_orphans(self, known: Collection[str]) -> list[str]:
        return []

    def mounts(
        self, pod: core_v1.Pod, container: core_v1.Container, env: Sequence[tuple[str, str]] = ()
    ) -> list[Mount]:
        return []
