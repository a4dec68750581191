"""A runtime that runs nothing and reports everything: for tests of scale (Kubernetes: hollow nodes, kubemark).

To the kubelet it is a runtime like any other: a sandbox gets an address out of the node's pod CIDR, a container has
the states and times that it would have, events come, statistics grow. Behind it are dictionaries, so one process can
be a thousand nodes. Commands succeed without output, a log has one line, an image is there as soon as it is asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from agent.runtime.runtime import (
    LABEL_CONTAINER_NAME,
    LABEL_POD_NAME,
    LABEL_POD_NAMESPACE,
    LABEL_POD_UID,
    Container,
    ContainerConfig,
    ContainerError,
    ContainerEvent,
    ContainerState,
    ContainerStats,
    ContainerStatus,
    ContainerStream,
    EventType,
    ExecResult,
    FilesystemUsage,
    Image,
    ImageInUse,
    ImageNotFound,
    LogLine,
    NetworkError,
    NotFound,
    RegistryAuth,
    Runtime,
    RuntimeCondition,
    RuntimeStatus,
    RuntimeVersion,
    Sandbox,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
    StreamName,
)

# What every running container pretends to use.
CPU_NS_PER_SECOND = 1_000_000
MEMORY_BYTES = 4 << 20
IMAGE_BYTES = 1 << 20
_DISK_BYTES = 100 << 30


class HollowRuntime(Runtime):
    """A Runtime of dictionaries. `now` is the clock; images named in `images` are there from the start."""

    def __init__(self, *, images: Sequence[str] = (), now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._addresses: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
        self._sandboxes: dict[str, SandboxStatus] = {}
        self._containers: dict[str, ContainerStatus] = {}
        self._limits: dict[str, int] = {}
        self._images = {name: _image(name) for name in images}
        self._watchers: set[asyncio.Queue[ContainerEvent]] = set()
        # Addresses go round instead of back to the start, so that a new pod does not get a dead pod's at once.
        self._next_address = 0
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Forget nothing: who opens it again finds its containers."""

    # --- the runtime itself

    async def version(self) -> RuntimeVersion:
        return RuntimeVersion("hollow", "1.0.0", "v1")

    async def status(self) -> RuntimeStatus:
        network = RuntimeCondition("NetworkReady", True)
        if self._addresses is None:
            network = RuntimeCondition("NetworkReady", False, "NoPodCIDR", "the node has no pod CIDR yet")
        return RuntimeStatus((RuntimeCondition("RuntimeReady", True), network), "cgroupfs", 2)

    async def update_runtime_config(self, pod_cidr: str) -> None:
        self._addresses = ipaddress.ip_network(pod_cidr)

    # --- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        sandbox = SandboxStatus(
            id=_id(),
            name=config.name,
            namespace=config.namespace,
            uid=config.uid,
            attempt=config.attempt,
            state=SandboxState.READY,
            created_at=self._now(),
            labels={**config.labels, **_pod_labels(config), LABEL_CONTAINER_NAME: "POD"},
            annotations=dict(config.annotations),
            ip="" if config.host_network else self._address(),
            host_network=config.host_network,
        )
        self._sandboxes[sandbox.id] = sandbox
        self._publish(EventType.CREATED, sandbox.id, sandbox.id, sandbox.labels)
        self._publish(EventType.STARTED, sandbox.id, sandbox.id, sandbox.labels)
        return sandbox.id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        for container in self._contained(sandbox_id):
            self._end(container, 137)
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None and sandbox.state is SandboxState.READY:
            # Its address is free again: a stopped sandbox has none.
            self._sandboxes[sandbox_id] = replace(sandbox, state=SandboxState.NOT_READY, ip="")
            self._publish(EventType.STOPPED, sandbox_id, sandbox_id, sandbox.labels, 0)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.stop_sandbox(sandbox_id)
        for container in self._contained(sandbox_id):
            await self.remove_container(container.id)
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            self._publish(EventType.DELETED, sandbox_id, sandbox_id, sandbox.labels)

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        if sandbox_id not in self._sandboxes:
            raise NotFound(f"no sandbox {sandbox_id}")
        return self._sandboxes[sandbox_id]

    async def list_sandboxes(self, labels: Mapping[str, str] | None = None) -> list[Sandbox]:
        return [sandbox for sandbox in reversed(self._sandboxes.values()) if _has(sandbox.labels, labels)]

    # --- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        if (await self.sandbox_status(sandbox_id)).state is not SandboxState.READY:
            raise ContainerError(f"cannot create container {config.name}: its sandbox has stopped")
        image = await self.image_status(config.image)
        if image is None:
            raise ImageNotFound(f"cannot create container {config.name}: no image {config.image}")
        container = ContainerStatus(
            id=_id(),
            sandbox_id=sandbox_id,
            name=config.name,
            attempt=config.attempt,
            state=ContainerState.CREATED,
            image=config.image,
            image_id=image.id,
            created_at=self._now(),
            labels={**config.labels, **_pod_labels(sandbox), LABEL_CONTAINER_NAME: config.name},
            annotations=dict(config.annotations),
        )
        self._containers[container.id] = container
        self._limits[container.id] = config.resources.memory_limit_bytes
        self._publish(EventType.CREATED, container.id, sandbox_id, container.labels)
        return container.id

    async def start_container(self, container_id: str) -> None:
        container = await self.container_status(container_id)
        if container.state is not ContainerState.CREATED:
            raise ContainerError(f"cannot start container {container_id}", found=container.state, wanted="CREATED")
        self._containers[container_id] = replace(container, state=ContainerState.RUNNING, started_at=self._now())
        self._publish(EventType.STARTED, container_id, container.sandbox_id, container.labels)

    async def stop_container(self, container_id: str, timeout: float) -> None:
        container = self._containers.get(container_id)
        if container is not None:
            self._end(container, 0 if timeout > 0 else 137)

    async def remove_container(self, container_id: str) -> None:
        container = self._containers.get(container_id)
        if container is None:
            return
        self._end(container, 137)
        del self._containers[container_id], self._limits[container_id]
        self._publish(EventType.DELETED, container_id, container.sandbox_id, container.labels)

    async def container_status(self, container_id: str) -> ContainerStatus:
        if container_id not in self._containers:
            raise NotFound(f"no container {container_id}")
        return self._containers[container_id]

    async def list_containers(self, labels: Mapping[str, str] | None = None) -> list[Container]:
        return [container for container in reversed(self._containers.values()) if _has(container.labels, labels)]

    async def container_stats(self, container_id: str) -> ContainerStats:
        return self._measure(await self._running(container_id, NotFound))

    async def list_stats(self, labels: Mapping[str, str] | None = None) -> list[ContainerStats]:
        return [
            self._measure(container)
            for container in self._containers.values()
            if container.state is ContainerState.RUNNING and _has(container.labels, labels)
        ]

    # --- streams

    async def exec_sync(self, container_id: str, command: Sequence[str], *, timeout: float) -> ExecResult:
        await self._running(container_id)
        return ExecResult(b"", b"", 0)

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool = False, tty: bool = False
    ) -> ContainerStream:
        await self._running(container_id)
        return HollowStream()

    async def attach(self, container_id: str, *, stdin: bool = False) -> ContainerStream:
        await self._running(container_id)
        return HollowStream()

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """There is nothing that could listen."""
        if (await self.sandbox_status(sandbox_id)).state is not SandboxState.READY:
            raise ContainerError(f"cannot forward port {port}: sandbox {sandbox_id} has stopped")
        raise ConnectionRefusedError(f"nothing listens on port {port}: the pod runs nothing")

    async def logs(
        self,
        container_id: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        watcher = self._watch()  # before the first line: the container may end while the caller has it
        try:
            container = await self.container_status(container_id)
            started = container.started_at
            if started is not None and tail_lines != 0 and (since is None or started >= since):
                stamp = started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                yield LogLine(StreamName.STDOUT, stamp, f"{container.name} runs nothing\n".encode())
            if follow and container.state is ContainerState.RUNNING:
                while not _ends(await watcher.get(), container_id):
                    pass
        finally:
            self._watchers.discard(watcher)

    async def events(self) -> AsyncGenerator[ContainerEvent, None]:
        watcher = self._watch()
        try:
            yield ContainerEvent(EventType.RELIST, self._now())
            while True:
                yield await watcher.get()
        finally:
            self._watchers.discard(watcher)

    # --- images

    async def list_images(self) -> list[Image]:
        return list(self._images.values())

    async def image_status(self, reference: str) -> Image | None:
        named = self._images.get(reference)
        return named or next((image for image in self._images.values() if image.id == reference), None)

    async def pull_image(self, reference: str, auth: RegistryAuth | None = None) -> str:
        return self._images.setdefault(reference, _image(reference)).id

    async def load_image(self, archive: Path | AsyncIterator[bytes]) -> list[str]:
        """Takes the bytes and reads none of them: the image is named after the file."""
        name = f"{archive.stem}:latest" if isinstance(archive, Path) else f"loaded-{next(self._numbers)}:latest"
        if not isinstance(archive, Path):
            async for _ in archive:
                pass
        self._images[name] = _image(name)
        return [name]

    async def remove_image(self, reference: str) -> None:
        image = await self.image_status(reference)
        if image is None:
            return
        if any(container.image_id == image.id for container in self._containers.values()):
            raise ImageInUse(f"cannot remove image {reference}: it is in use")
        self._images = {name: other for name, other in self._images.items() if other.id != image.id}

    async def image_fs_info(self) -> FilesystemUsage:
        used = len(self._images) * IMAGE_BYTES
        return FilesystemUsage("/", _DISK_BYTES, used, _DISK_BYTES - used, 1 << 20, 1 << 20)

    # --- what the above share

    def _address(self) -> str:
        if self._addresses is None:
            raise NetworkError("cannot run a sandbox: the node has no pod CIDR yet")
        taken = {sandbox.ip for sandbox in self._sandboxes.values()}
        size = self._addresses.num_addresses - 3  # without network, bridge and broadcast
        for _ in range(size):
            address = str(self._addresses[2 + self._next_address])
            self._next_address = (self._next_address + 1) % size
            if address not in taken:
                return address
        raise NetworkError("cannot run a sandbox: no address is left", found=f"{size} in use", wanted="a larger CIDR")

    async def _running(
        self, container_id: str, otherwise: type[NotFound | ContainerError] = ContainerError
    ) -> ContainerStatus:
        container = await self.container_status(container_id)
        if container.state is not ContainerState.RUNNING:
            raise otherwise(f"container {container_id} does not run", found=container.state, wanted="RUNNING")
        return container

    def _contained(self, sandbox_id: str) -> list[ContainerStatus]:
        return [container for container in self._containers.values() if container.sandbox_id == sandbox_id]

    def _end(self, container: ContainerStatus, code: int) -> None:
        if container.state is not ContainerState.RUNNING:
            return
        self._containers[container.id] = replace(
            container,
            state=ContainerState.EXITED,
            finished_at=self._now(),
            exit_code=code,
            reason="Error" if code else "Completed",
        )
        self._publish(EventType.STOPPED, container.id, container.sandbox_id, container.labels, code)

    def _measure(self, container: ContainerStatus) -> ContainerStats:
        now = self._now()
        seconds = (now - (container.started_at or now)).total_seconds()
        return ContainerStats(
            id=container.id,
            name=container.name,
            labels=container.labels,
            timestamp=now,
            cpu_usage_ns=int(seconds * CPU_NS_PER_SECOND),
            memory_working_set_bytes=MEMORY_BYTES,
            memory_usage_bytes=MEMORY_BYTES,
            memory_limit_bytes=self._limits.get(container.id, 0),
        )

    def _watch(self) -> asyncio.Queue[ContainerEvent]:
        watcher: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._watchers.add(watcher)
        return watcher

    def _publish(
        self, kind: EventType, container_id: str, sandbox_id: str, labels: Mapping[str, str], code: int | None = None
    ) -> None:
        event = ContainerEvent(kind, self._now(), container_id, sandbox_id, labels, code)
        for watcher in self._watchers:
            watcher.put_nowait(event)


class HollowStream:
    """A command that says nothing, takes everything and succeeds at once."""

    async def read(self) -> tuple[StreamName, bytes] | None:
        return None

    async def __aiter__(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """Takes the bytes and drops them."""

    async def close_stdin(self) -> None:
        """Nothing waits for the end."""

    async def resize(self, *, width: int, height: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int:
        return 0

    async def close(self) -> None:
        """There is no connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _ends(event: ContainerEvent, container_id: str) -> bool:
    return event.container_id == container_id and event.type in (EventType.STOPPED, EventType.DELETED)


def _has(labels: Mapping[str, str], wanted: Mapping[str, str] | None) -> bool:
    return all(labels.get(name) == value for name, value in (wanted or {}).items())


def _pod_labels(config: SandboxConfig) -> dict[str, str]:
    return {LABEL_POD_NAME: config.name, LABEL_POD_NAMESPACE: config.namespace, LABEL_POD_UID: config.uid}


def _image(reference: str) -> Image:
    identity = uuid.uuid5(uuid.NAMESPACE_URL, reference).hex
    return Image(id=f"sha256:{identity}{identity}", references=(reference,), digests=(), size_bytes=IMAGE_BYTES)


def _id() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex
