"""The seam between the kubelet and whatever runs containers: CRI's RuntimeService and ImageService in Python terms.

The words are CRI's. A pod is a *sandbox* (what its containers share) and containers in it; each has an `attempt`,
and a restarted container is a new one with the next attempt. The runtime keeps all state: an agent that starts again
lists sandboxes and containers by labels and goes on where it was (adoption), so nothing here returns anything that
must be written down.

Removing and stopping are idempotent: what is gone already is no error. Implementations: `docker` (Docker Engine),
`hollow` (runs nothing and reports everything). One contract suite runs over all (tests/contract/test_runtime.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from msgspec import Struct

from agent.runtime.container import (
    Container,
    ContainerConfig,
    ContainerState,
    ContainerStats,
    ContainerStatus,
    Mount,
    MountPropagation,
    Resources,
    Security,
)
from agent.runtime.errors import (
    ContainerError,
    ContainerRuntimeError,
    ExecTimeout,
    ImageInUse,
    ImageLoadError,
    ImageNotFound,
    ImagePullError,
    NetworkError,
    NotFound,
    RuntimeUnavailable,
)
from agent.runtime.event import ContainerEvent, EventType
from agent.runtime.image import FilesystemUsage, Image, RegistryAuth
from agent.runtime.sandbox import DNSConfig, PortMapping, Sandbox, SandboxConfig, SandboxState, SandboxStatus
from agent.runtime.stream import MAX_OUTPUT_BYTES, ContainerStream, ExecResult, LogLine, StreamName

__all__ = [
    "LABEL_CONTAINER_NAME",
    "LABEL_POD_NAME",
    "LABEL_POD_NAMESPACE",
    "LABEL_POD_UID",
    "MAX_OUTPUT_BYTES",
    "Container",
    "ContainerConfig",
    "ContainerError",
    "ContainerEvent",
    "ContainerRuntimeError",
    "ContainerState",
    "ContainerStats",
    "ContainerStatus",
    "ContainerStream",
    "DNSConfig",
    "EventType",
    "ExecResult",
    "ExecTimeout",
    "FilesystemUsage",
    "Image",
    "ImageInUse",
    "ImageLoadError",
    "ImageNotFound",
    "ImagePullError",
    "LogLine",
    "Mount",
    "MountPropagation",
    "NetworkError",
    "NotFound",
    "PortMapping",
    "RegistryAuth",
    "Resources",
    "Runtime",
    "RuntimeCondition",
    "RuntimeStatus",
    "RuntimeUnavailable",
    "RuntimeVersion",
    "Sandbox",
    "SandboxConfig",
    "SandboxState",
    "SandboxStatus",
    "Security",
    "StreamName",
]

# The labels by which every tool around CRI knows whose container this is; the runtime sets them itself.
LABEL_POD_NAME = "io.kubernetes.pod.name"
LABEL_POD_NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_POD_UID = "io.kubernetes.pod.uid"
LABEL_CONTAINER_NAME = "io.kubernetes.container.name"


class RuntimeVersion(Struct, frozen=True):
    """CRI: VersionResponse. `name` and `version` go to the node's `containerRuntimeVersion` (`docker://20.10.24`)."""

    name: str
    version: str
    api_version: str


class RuntimeCondition(Struct, frozen=True):
    """CRI: RuntimeCondition; `type` is RuntimeReady or NetworkReady."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


class RuntimeStatus(Struct, frozen=True):
    """CRI: RuntimeStatus. `cgroup_driver` is cgroupfs or systemd, `cgroup_version` 1 or 2 (0: not known now)."""

    conditions: tuple[RuntimeCondition, ...]
    cgroup_driver: str = ""
    cgroup_version: int = 0

    @property
    def ready(self) -> bool:
        """Whether every condition holds."""
        return all(condition.status for condition in self.conditions)


class Runtime(Protocol):
    """CRI's RuntimeService and ImageService.

    Every method may raise RuntimeUnavailable; where an id is given and not said otherwise, NotFound.
    """

    async def version(self) -> RuntimeVersion:
        """Name and version of the runtime (CRI: Version)."""

    async def status(self) -> RuntimeStatus:
        """The conditions RuntimeReady and NetworkReady (CRI: Status). Never raises: a dead runtime is a condition."""

    async def update_runtime_config(self, pod_cidr: str) -> None:
        """Tell the runtime the node's pod CIDR (CRI: UpdateRuntimeConfig); NetworkReady is false before.

        Raises NetworkError if the pods' network exists otherwise and is in use, or cannot be made.
        """

    async def close(self) -> None:
        """Let go of connections and threads; containers run on."""

    async def run_sandbox(self, config: SandboxConfig) -> str:
        """Make and start a sandbox with its network; its id (CRI: RunPodSandbox). Raises ContainerError."""

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Kill what runs in the sandbox and give back its network (CRI: StopPodSandbox). Idempotent."""

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove the sandbox and its containers, running or not (CRI: RemovePodSandbox). Idempotent."""

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """The sandbox in detail, with its IP address (CRI: PodSandboxStatus)."""

    async def list_sandboxes(self, labels: Mapping[str, str] | None = None) -> list[Sandbox]:
        """The sandboxes that have all these labels, newest first (CRI: ListPodSandbox)."""

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        """Make a container in a sandbox; its id (CRI: CreateContainer).

        `sandbox` is the configuration that the sandbox was made with. Raises ImageNotFound, ContainerError.
        """

    async def start_container(self, container_id: str) -> None:
        """Start a created container (CRI: StartContainer). Raises ContainerError: no such command, no such user..."""

    async def stop_container(self, container_id: str, timeout: float) -> None:
        """Send the stop signal, SIGKILL after `timeout` seconds, return when it has ended (CRI: StopContainer).

        Idempotent.
        """

    async def remove_container(self, container_id: str) -> None:
        """Remove a container, running or not, with its log (CRI: RemoveContainer). Idempotent."""

    async def container_status(self, container_id: str) -> ContainerStatus:
        """The container in detail (CRI: ContainerStatus)."""

    async def list_containers(self, labels: Mapping[str, str] | None = None) -> list[Container]:
        """The containers (not sandboxes) that have all these labels, newest first (CRI: ListContainers)."""

    async def container_stats(self, container_id: str) -> ContainerStats:
        """What a running container uses (CRI: ContainerStats). NotFound as well if it does not run."""

    async def list_stats(self, labels: Mapping[str, str] | None = None) -> list[ContainerStats]:
        """What each running container with these labels uses (CRI: ListContainerStats)."""

    async def exec_sync(self, container_id: str, command: Sequence[str], *, timeout: float) -> ExecResult:
        """Run a command in a running container and wait for it (CRI: ExecSync).

        Raises ExecTimeout after `timeout` seconds, ContainerError if the container does not run. A command that
        cannot be run gives an exit code (126 or 127), as in a shell.
        """

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool = False, tty: bool = False
    ) -> ContainerStream:
        """Start a command in a running container and connect to it (CRI: Exec). Raises ContainerError."""

    async def attach(self, container_id: str, *, stdin: bool = False) -> ContainerStream:
        """Connect to the container's own process (CRI: Attach); output from now on. Raises ContainerError."""

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a TCP port of the sandbox's loopback (CRI: PortForward).

        Raises ContainerError if the sandbox does not run, OSError if nothing answers on the port.
        """

    def logs(
        self,
        container_id: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        """The container's log, oldest first; with `follow` on to the container's end.

        Only the last `tail_lines` and only from `since` on, where given. Close the iterator (`aclose`, or
        `contextlib.aclosing`) to stop early. The log of a previous attempt is that container's log.
        """

    def events(self) -> AsyncGenerator[ContainerEvent, None]:
        """Changes of this cluster's sandboxes and containers, without end (CRI: GetContainerEvents).

        Begins with RELIST. Outlives the runtime's absence: it reconnects, gives RELIST and goes on.
        """

    async def list_images(self) -> list[Image]:
        """The images on the node (CRI: ListImages)."""

    async def image_status(self, reference: str) -> Image | None:
        """The image by reference or ID, None if the node has none (CRI: ImageStatus)."""

    async def pull_image(self, reference: str, auth: RegistryAuth | None = None) -> str:
        """Get an image from its registry; its ID (CRI: PullImage). Raises ImageNotFound, ImagePullError."""

    async def load_image(self, archive: Path | AsyncIterator[bytes]) -> list[str]:
        """Load a docker-archive (a file or its bytes); the references or IDs it held. Raises ImageLoadError."""

    async def remove_image(self, reference: str) -> None:
        """Remove the image with all its references (CRI: RemoveImage). Idempotent. Raises ImageInUse."""

    async def image_fs_info(self) -> FilesystemUsage:
        """Size and use of the file system that holds the images (CRI: ImageFsInfo)."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...
