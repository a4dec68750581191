"""What containers on Docker Engine use: the engine names their processes, the kernel's files have the figures.

A container's cgroup does not change while it runs, so it is looked up once per container; a round over all running
containers is then one list of the engine and a few small files each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from agent.runtime import cgroup_stats
from agent.runtime.cgroup_stats import Cgroup
from agent.runtime.container import Container, ContainerStats
from agent.runtime.docker_engine import DockerEngine
from agent.runtime.errors import NotFound

_log = logging.getLogger(__name__)


class DockerStats:
    """Statistics of running containers, with the cgroups found so far."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._cgroups: dict[str, Cgroup] = {}

    async def of(self, containers: Sequence[Container]) -> list[ContainerStats]:
        """The statistics of those of the containers that run; one that ends meanwhile is left out."""
        for container in containers:
            if container.id not in self._cgroups:
                await self._find(container.id)
        return await asyncio.to_thread(self._read, containers)

    def forget(self, container_id: str) -> None:
        """Drop what is known of a container: it is being removed."""
        self._cgroups.pop(container_id, None)

    async def _find(self, container_id: str) -> None:
        try:
            pid = await self._engine.call(
                f"measure container {container_id}",
                lambda api: int(api.inspect_container(container_id)["State"]["Pid"]),
            )
            if pid > 0:
                self._cgroups[container_id] = await asyncio.to_thread(cgroup_stats.find, pid)
        except (NotFound, FileNotFoundError, ProcessLookupError):
            _log.debug("container %s has ended while it was measured", container_id)

    def _read(self, containers: Sequence[Container]) -> list[ContainerStats]:
        found = []
        for container in containers:
            cgroup = self._cgroups.get(container.id)
            if cgroup is None:
                continue
            try:
                usage = cgroup_stats.read(cgroup)
            except OSError:  # the container has ended: its cgroup is gone, or goes this moment
                self._cgroups.pop(container.id, None)
                continue
            found.append(
                ContainerStats(
                    id=container.id,
                    name=container.name,
                    labels=container.labels,
                    timestamp=datetime.now(UTC),
                    cpu_usage_ns=usage.cpu_usage_ns,
                    memory_working_set_bytes=usage.memory_working_set_bytes,
                    memory_usage_bytes=usage.memory_usage_bytes,
                    memory_limit_bytes=usage.memory_limit_bytes,
                )
            )
        return found
