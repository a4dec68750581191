"""The runtime on Docker Engine.

A pod's sandbox is a pause container on a bridge network of ours (`docker_network`); the pod's containers join its
network and IPC namespaces. All state is in the engine, in names and labels (`docker_labels`), so an agent that starts
again, or is killed between a request and its answer, finds what there is: names are made from the pod's uid and the
attempt, so the engine itself refuses a second one, and a half-made first one is replaced.

This module is the interface; what is asked of the engine, and how its answers are read, lies in `docker_*.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import docker
from msgspec import Struct
from msgspec.structs import replace

from agent.runtime import (
    docker_container,
    docker_events,
    docker_exec,
    docker_images,
    docker_labels,
    docker_logs,
    docker_network,
    docker_port_forward,
    docker_sandbox,
    oom_score,
)
from agent.runtime.docker_engine import DEFAULT_SOCKET, HEAVY_WORKERS, DockerEngine
from agent.runtime.docker_network import BridgeNetwork
from agent.runtime.docker_sandbox import NodeLimits
from agent.runtime.docker_stats import DockerStats
from agent.runtime.pause_image import PAUSE_LABEL, PAUSE_REFERENCE, pause_image
from agent.runtime.runtime import (
    Container,
    ContainerConfig,
    ContainerError,
    ContainerEvent,
    ContainerRuntimeError,
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
    RuntimeUnavailable,
    RuntimeVersion,
    Sandbox,
    SandboxConfig,
    SandboxStatus,
)
from kube.image_archive import archive

T = TypeVar("T")

STATUS_SECONDS = 10.0
# What the engine itself may need on top of a container's grace period.
STOP_MARGIN_SECONDS = 30.0
# Sandboxes that start at the same time: fewer than the engine's heavy workers. Of many pods that come together the
# first ones then run while the last ones still wait, instead of all sandboxes coming before all containers.
_SANDBOX_STARTS = HEAVY_WORKERS - 1

_log = logging.getLogger(__name__)


class Removed(Struct, frozen=True):
    """How much `remove_everything` removed."""

    sandboxes: int
    containers: int
    networks: int
    images: int


class DockerRuntime(Runtime):
    """CRI on one Docker Engine, for one cluster.

    `cluster` is an id that labels everything made here (`io.ktool.cluster`); clusters that share an engine need
    different ids, and different names of network and bridge. `masquerade` lets the engine rewrite the source address
    of what leaves the bridge. Made and used in one event loop; close it with `async with` or `close`.
    """

    def __init__(
        self,
        cluster: str,
        *,
        socket: Path = DEFAULT_SOCKET,
        network: str = "ktool",
        bridge: str = "ktool0",
        masquerade: bool = True,
    ) -> None:
        self._cluster = cluster
        self._engine = DockerEngine(socket)
        self._stats = DockerStats(self._engine)
        self._wanted_network = BridgeNetwork("", network, bridge, masquerade)
        self._limits: NodeLimits | None = None
        # Containers of which the engine said so by an event; it may forget to keep it (see `docker_container`).
        self._out_of_memory: set[str] = set()
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._sandbox_starts = asyncio.Semaphore(_SANDBOX_STARTS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._engine.close()

    # --- the runtime itself

    async def version(self) -> RuntimeVersion:
        found: dict[str, Any] = await self._engine.call("ask for the version", lambda api: dict(api.version()))
        return RuntimeVersion("docker", found["Version"], found["ApiVersion"])

    async def status(self) -> RuntimeStatus:
        network = RuntimeCondition("NetworkReady", True)
        if not self._wanted_network.subnet:
            network = RuntimeCondition("NetworkReady", False, "NoPodCIDR", "the node has no pod CIDR yet")
        try:
            # A long call with a bound of its own: a hanging engine must not fill the pool with questions.
            async with self._engine.request("ask for the status", "GET", "/info", timeout=STATUS_SECONDS) as response:
                info = await response.json()
        except ContainerRuntimeError as error:
            return RuntimeStatus((RuntimeCondition("RuntimeReady", False, "DockerNotAnswering", str(error)), network))
        return RuntimeStatus(
            (RuntimeCondition("RuntimeReady", True), network),
            cgroup_driver=info.get("CgroupDriver", ""),
            cgroup_version=int(info.get("CgroupVersion") or 1),
        )

    async def update_runtime_config(self, pod_cidr: str) -> None:
        wanted = replace(self._wanted_network, subnet=pod_cidr)
        await docker_network.ensure(self._engine, wanted, self._cluster)
        self._wanted_network = wanted

    async def remove_everything(self) -> Removed:
        """Remove all sandboxes, containers and networks of this cluster, and the pause image if nobody else uses it.

        Idempotent; touches nothing without this cluster's label. Images that pods use stay.
        """
        sandboxes, containers = await self.list_sandboxes(), await self.list_containers()
        for ids in ([container.id for container in containers], [sandbox.id for sandbox in sandboxes]):
            await _together(self.remove_container(container_id) for container_id in ids)
        networks = await docker_network.of_cluster(self._engine, self._cluster)
        for network_id in networks:
            await docker_network.remove(self._engine, network_id)
        self._prepared = False
        return Removed(len(sandboxes), len(containers), len(networks), await self._remove_pause_image())

    # --- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        if not config.host_network and not self._wanted_network.subnet:
            raise NetworkError(
                f"cannot run pod {config.namespace}/{config.name}: the node has no pod CIDR yet",
                mend="Wait for the node's spec.podCIDR.",
            )
        async with self._sandbox_starts:
            await self._prepare()
            try:
                return await self._run_sandbox(config)
            except (ImageNotFound, NotFound) as error:
                _log.warning("the pause image or the pod network has been removed, making it again: %s", error.found)
            self._prepared = False
            await self._prepare()
            return await self._run_sandbox(config)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        running = [
            container.id
            for container in await self.list_containers({docker_labels.SANDBOX_ID: sandbox_id})
            if container.state is ContainerState.RUNNING
        ]
        await _together(self.stop_container(container_id, 0) for container_id in running)
        await self.stop_container(sandbox_id, 0)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        contained = await self.list_containers({docker_labels.SANDBOX_ID: sandbox_id})
        await _together(self.remove_container(container.id) for container in contained)
        await self.remove_container(sandbox_id)

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        found = await self._inspect("sandbox", sandbox_id)
        return docker_sandbox.inspected(found, self._wanted_network.name)

    async def list_sandboxes(self, labels: Mapping[str, str] | None = None) -> list[Sandbox]:
        return [docker_sandbox.listed(found) for found in await self._list(docker_labels.TYPE_SANDBOX, labels)]

    # --- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        image_user = ""
        if config.security.run_as_group is not None and config.security.run_as_user is None:
            image = await self.image_status(config.image)
            image_user = image.user if image else ""
        body = docker_container.creation(
            sandbox_id,
            config,
            sandbox,
            cluster=self._cluster,
            limits=await self._node_limits(),
            image_user=image_user,
        )
        what = f"create container {config.name} of pod {sandbox.namespace}/{sandbox.name}"
        return await self._create(what, docker_labels.container_name(config, sandbox), body)

    async def start_container(self, container_id: str) -> None:
        def start(api: docker.APIClient) -> None:
            api.start(container_id)
            _link_log(api.inspect_container(container_id))

        await self._engine.call(f"start container {container_id}", start, heavy=True)

    async def stop_container(self, container_id: str, timeout: float) -> None:
        what, grace = f"stop container {container_id}", math.ceil(max(0.0, timeout))
        path, params = f"/containers/{container_id}/stop", {"t": str(grace)}
        try:
            async with self._engine.request(what, "POST", path, params=params, timeout=grace + STOP_MARGIN_SECONDS):
                pass
        except NotFound:
            _log.debug("container %s is gone already", container_id)

    async def remove_container(self, container_id: str) -> None:
        def remove(api: docker.APIClient) -> None:
            found = api.inspect_container(container_id)
            api.remove_container(container_id, v=True, force=True)
            _unlink_log(found)

        self._stats.forget(container_id)
        what = f"remove container {container_id}"
        try:
            await self._engine.call(what, remove, heavy=True)
        except NotFound:
            _log.debug("container %s is gone already", container_id)
        except ContainerError as error:
            if "already in progress" not in error.found:
                raise
            await self._wait_removed(what, container_id)

    async def container_status(self, container_id: str) -> ContainerStatus:
        found = await self._inspect("container", container_id)
        return docker_container.inspected(found, out_of_memory=container_id in self._out_of_memory)

    async def list_containers(self, labels: Mapping[str, str] | None = None) -> list[Container]:
        return [docker_container.listed(found) for found in await self._list(docker_labels.TYPE_CONTAINER, labels)]

    async def container_stats(self, container_id: str) -> ContainerStats:
        container = await self.container_status(container_id)
        stats = await self._stats.of([container]) if container.state is ContainerState.RUNNING else []
        if not stats:
            raise NotFound(f"no statistics of container {container_id}", found="it does not run")
        return stats[0]

    async def list_stats(self, labels: Mapping[str, str] | None = None) -> list[ContainerStats]:
        containers = await self.list_containers(labels)
        return await self._stats.of([found for found in containers if found.state is ContainerState.RUNNING])

    # --- streams

    async def exec_sync(self, container_id: str, command: Sequence[str], *, timeout: float) -> ExecResult:
        return await docker_exec.run(self._engine, container_id, command, timeout)

    async def exec(
        self, container_id: str, command: Sequence[str], *, stdin: bool = False, tty: bool = False
    ) -> ContainerStream:
        return await docker_exec.connect(self._engine, container_id, command, stdin=stdin, tty=tty)

    async def attach(self, container_id: str, *, stdin: bool = False) -> ContainerStream:
        return await docker_exec.attach(self._engine, container_id, stdin=stdin)

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await docker_port_forward.connect(self._engine, sandbox_id, port)

    def logs(
        self,
        container_id: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        return docker_logs.read(self._engine, container_id, follow=follow, tail_lines=tail_lines, since=since)

    async def events(self) -> AsyncGenerator[ContainerEvent, None]:
        async with aclosing(docker_events.watch(self._engine, self._cluster)) as events:
            async for event in events:
                if event.type is EventType.OOM:
                    self._out_of_memory.add(event.container_id)
                elif event.type is EventType.DELETED:
                    self._out_of_memory.discard(event.container_id)
                yield event

    # --- images

    async def list_images(self) -> list[Image]:
        return await docker_images.list_images(self._engine)

    async def image_status(self, reference: str) -> Image | None:
        return await docker_images.image_status(self._engine, reference)

    async def pull_image(self, reference: str, auth: RegistryAuth | None = None) -> str:
        return await docker_images.pull(self._engine, reference, auth)

    async def load_image(self, archive: Path | AsyncIterator[bytes]) -> list[str]:
        return await docker_images.load(self._engine, archive)

    async def remove_image(self, reference: str) -> None:
        await docker_images.remove(self._engine, reference)

    async def image_fs_info(self) -> FilesystemUsage:
        return await docker_images.usage(self._engine)

    # --- what the above share

    async def _prepare(self) -> None:
        async with self._preparing:
            if self._prepared:
                return
            if self._wanted_network.subnet:
                await docker_network.ensure(self._engine, self._wanted_network, self._cluster)
            image = await self.image_status(PAUSE_REFERENCE)
            if image is None or PAUSE_LABEL not in image.labels:
                await self.load_image(_once(await asyncio.to_thread(lambda: archive(pause_image()))))
                _log.info("image %s made and loaded", PAUSE_REFERENCE)
            self._prepared = True

    async def _run_sandbox(self, config: SandboxConfig) -> str:
        body = docker_sandbox.creation(
            config, cluster=self._cluster, network=self._wanted_network.name, limits=await self._node_limits()
        )
        what = f"run a sandbox for pod {config.namespace}/{config.name}"
        sandbox_id = await self._create(what, docker_labels.sandbox_name(config), body)

        def start(api: docker.APIClient) -> None:
            api.start(sandbox_id)
            resolver = config.dns.resolv_conf()
            if not resolver:
                return
            # The engine puts its own resolver in front, which Kubernetes' pods do not expect.
            path = Path(api.inspect_container(sandbox_id)["ResolvConfPath"])
            try:
                path.write_text(resolver)
            except OSError as error:
                raise ContainerError(f"cannot {what}: its resolv.conf cannot be written", found=str(error)) from error

        try:
            await self._engine.call(what, start, heavy=True)
        except ContainerRuntimeError:
            await self.remove_container(sandbox_id)
            raise
        return sandbox_id

    async def _create(self, what: str, name: str, body: Mapping[str, Any]) -> str:
        def create(api: docker.APIClient) -> str:
            made = api.create_container_from_config(dict(body), name)  # type: ignore[no-untyped-call]
            for warning in made.get("Warnings") or ():
                _log.warning("Docker Engine, asked to %s: %s", what, warning)
            return str(made["Id"])

        try:
            return await self._engine.call(what, create)
        except ContainerError as error:
            if "is already in use" not in error.found:
                raise
        # Left by an agent that was killed between this request and the next: not running, so nobody needs it.
        found = await self._inspect("container", name)
        owner = (found["Config"].get("Labels") or {}).get(docker_labels.CLUSTER)
        if owner != self._cluster or found["State"]["Running"]:
            raise ContainerError(
                f"cannot {what}: its name is taken",
                found=f"container {found['Id'][:12]}, {found['State']['Status']}, of {owner or 'nobody'}",
                wanted=f"no container {name}",
                mend=f"If nothing needs it: docker rm -f {name}",
            )
        await self.remove_container(found["Id"])
        return await self._engine.call(what, create)

    async def _inspect(self, kind: str, container_id: str) -> dict[str, Any]:
        return await self._engine.call(
            f"inspect {kind} {container_id}", lambda api: dict(api.inspect_container(container_id))
        )

    async def _list(self, kind: str, labels: Mapping[str, str] | None) -> list[dict[str, Any]]:
        filters = docker_labels.filters(self._cluster, kind, labels)
        return await self._engine.call(f"list {kind}s", lambda api: list(api.containers(all=True, filters=filters)))

    async def _wait_removed(self, what: str, container_id: str) -> None:
        path, params = f"/containers/{container_id}/wait", {"condition": "removed"}
        try:
            async with self._engine.request(what, "POST", path, params=params, timeout=STOP_MARGIN_SECONDS) as response:
                await response.read()
        except NotFound:
            _log.debug("container %s is gone already", container_id)

    async def _node_limits(self) -> NodeLimits:
        if self._limits is None:
            driver = await self._engine.call("ask for the cgroup driver", lambda api: str(api.info()["CgroupDriver"]))
            try:
                lowest = await asyncio.to_thread(oom_score.lowest_for_server, self._engine.socket)
            except OSError as error:
                raise RuntimeUnavailable("cannot see Docker Engine's capabilities", found=str(error)) from error
            self._limits = NodeLimits(driver, lowest)
            _log.info("cgroup driver %s, lowest oom_score_adj %d", driver, lowest)
        return self._limits

    async def _remove_pause_image(self) -> int:
        image = await self.image_status(PAUSE_REFERENCE)
        if image is None or PAUSE_LABEL not in image.labels:
            return 0
        try:
            await self.remove_image(PAUSE_REFERENCE)
        except ImageInUse as error:
            _log.info("image %s stays, another cluster uses it: %s", PAUSE_REFERENCE, error.found)
            return 0
        return 1


async def _together(deeds: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at the same time; an error comes out as itself, not as a group, and ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(deed) for deed in deeds]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _link_log(found: Mapping[str, Any]) -> None:
    """Show the engine's log file where Kubernetes' log collectors look (/var/log/pods), as a symbolic link."""
    link, target = _log_link(found), found.get("LogPath", "")
    if link is None or not target:
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        os.symlink(target, link)
    except OSError as error:  # the container runs and its log can be read through the engine
        _log.warning("cannot link the log of container %s to %s: %s", found["Id"], link, error)


def _unlink_log(found: Mapping[str, Any]) -> None:
    link = _log_link(found)
    if link is None:
        return
    try:
        link.unlink(missing_ok=True)
    except OSError as error:  # a dangling link harms nobody
        _log.warning("cannot remove the link %s: %s", link, error)


def _log_link(found: Mapping[str, Any]) -> Path | None:
    path = ((found.get("Config") or {}).get("Labels") or {}).get(docker_labels.LOG_PATH)
    return Path(path) if path else None
