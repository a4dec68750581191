"""What the runtime has of one pod: the truth that plans and statuses are made from.

Nothing that matters is kept in the agent's memory. The number of restarts is a container's attempt, the back-off and
where its termination message lies are annotations of the container, so an agent that was killed and started again
sees exactly what it saw before, and adopts the pod by looking at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from agent.runtime.runtime import (
    LABEL_POD_UID,
    Container,
    ContainerState,
    ContainerStatus,
    NotFound,
    Runtime,
    Sandbox,
    SandboxState,
    SandboxStatus,
)

# Annotations of containers.
BACK_OFF = "ktool.io/back-off-seconds"
IMAGE = "ktool.io/image"
TERMINATION_LOG = "ktool.io/termination-log"
TERMINATION_POLICY = "ktool.io/termination-message-policy"
# Annotation of sandboxes: how long an orphaned pod's containers may take to stop.
GRACE_PERIOD = "ktool.io/grace-period-seconds"

MAX_TERMINATION_BYTES = 4096
FALLBACK_LINES = 80
FALLBACK_BYTES = 2048


class Observation(Struct, frozen=True):
    """Sandboxes and containers of one pod, the newest attempt first."""

    sandboxes: tuple[SandboxStatus, ...] = ()
    containers: tuple[ContainerStatus, ...] = ()

    @property
    def sandbox(self) -> SandboxStatus | None:
        """The sandbox that works, if there is one."""
        newest = self.sandboxes[0] if self.sandboxes else None
        return newest if newest is not None and newest.state is SandboxState.READY else None

    def latest(self, name: str) -> ContainerStatus | None:
        """The newest attempt of a container."""
        return next((c for c in self.containers if c.name == name), None)

    def attempts(self, name: str) -> list[ContainerStatus]:
        """All attempts of a container that still exist, the newest first."""
        return [c for c in self.containers if c.name == name]

    @property
    def alive(self) -> tuple[ContainerStatus, ...]:
        """Containers that run, or of which nobody knows whether they do."""
        return tuple(c for c in self.containers if is_alive(c))


def is_alive(container: Container) -> bool:
    """Whether a container must be stopped before it is gone."""
    return container.state in (ContainerState.RUNNING, ContainerState.UNKNOWN)


def back_off_of(container: Container) -> float:
    """Seconds to wait after this attempt ends before the next one starts."""
    try:
        return max(0.0, float(container.annotations.get(BACK_OFF, "0")))
    except ValueError:
        return 0.0


class Observer:
    """Looks at one pod. What cannot change any more (an ended container's status) is asked for once."""

    def __init__(self, runtime: Runtime, uid: str) -> None:
        self._runtime = runtime
        self._labels = {LABEL_POD_UID: uid}
        self._containers: dict[tuple[str, ContainerState], ContainerStatus] = {}
        self._sandboxes: dict[tuple[str, SandboxState], SandboxStatus] = {}
        self._suspects: set[str] = set()

    def suspect(self, id_: str) -> None:
        """An event said that this container or sandbox has ended: ask for it by itself the next time.

        Docker tells that a container has died a moment before its lists show it; only the question about the
        container itself waits until that is settled.
        """
        self._suspects.add(id_)

    async def observe(self) -> Observation:
        """The pod now. Raises RuntimeUnavailable."""
        suspects, self._suspects = self._suspects, set()
        for known in [key for key in self._containers if key[0] in suspects]:
            del self._containers[known]
        for seen in [key for key in self._sandboxes if key[0] in suspects]:
            del self._sandboxes[seen]
        containers = [
            status
            for status in [await self._container(c) for c in await self._runtime.list_containers(self._labels)]
            if status is not None
        ]
        sandboxes = [
            status
            for status in [await self._sandbox(s) for s in await self._runtime.list_sandboxes(self._labels)]
            if status is not None
        ]
        self._containers = {(c.id, c.state): c for c in containers}
        self._sandboxes = {(s.id, s.state): s for s in sandboxes}
        return Observation(
            tuple(sorted(sandboxes, key=lambda s: (-s.attempt, s.id))),
            tuple(sorted(containers, key=lambda c: (-c.attempt, c.name))),
        )

    async def _container(self, listed: Container) -> ContainerStatus | None:
        known = self._containers.get((listed.id, listed.state))
        if known is not None and listed.state is not ContainerState.UNKNOWN:
            return known
        try:
            found = await self._runtime.container_status(listed.id)
            if found.state is ContainerState.EXITED:
                message = await self._termination_message(found)
                found = replace(found, message=message or found.message)
        except NotFound:  # removed since it was listed
            return None
        return found

    async def _sandbox(self, listed: Sandbox) -> SandboxStatus | None:
        known = self._sandboxes.get((listed.id, listed.state))
        if known is not None:
            return known
        try:
            return await self._runtime.sandbox_status(listed.id)
        except NotFound:
            return None

    async def _termination_message(self, container: ContainerStatus) -> str:
        """What the container said at its end (Kubernetes: "Customizing the termination message")."""
        path = container.annotations.get(TERMINATION_LOG)
        text = read_end(Path(path), MAX_TERMINATION_BYTES) if path else ""
        if text or container.exit_code == 0 or container.annotations.get(TERMINATION_POLICY) != "FallbackToLogsOnError":
            return text
        lines = [line.data async for line in self._runtime.logs(container.id, tail_lines=FALLBACK_LINES)]
        return b"".join(lines)[-FALLBACK_BYTES:].decode(errors="replace")


def read_end(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""


def by_pod(things: Iterable[Container | Sandbox]) -> Mapping[str, list[Container | Sandbox]]:
    """Containers and sandboxes by the UID of their pod."""
    found: dict[str, list[Container | Sandbox]] = {}
    for thing in things:
        uid = thing.labels.get(LABEL_POD_UID, "")
        if uid:
            found.setdefault(uid, []).append(thing)
    return found
