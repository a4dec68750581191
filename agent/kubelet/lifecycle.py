"""Starting and stopping one container: image, environment, mounts, hooks, and what is said about it in events."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from agent.kubelet import dns, references
from agent.kubelet.container_config import Attempt, container_config, refused_as_root, sandbox_config
from agent.kubelet.context import KubeletContext
from agent.kubelet.handlers import Outcome, Target
from agent.kubelet.plan import KillContainer, StartContainer
from agent.kubelet.start_error import ConfigError, StartError
from agent.runtime.runtime import (
    ContainerError,
    ContainerRuntimeError,
    Image,
    ImageNotFound,
    Mount,
    NotFound,
    SandboxConfig,
    SandboxStatus,
)
from kube.events import NORMAL, WARNING
from kube.models import core_v1
from kube.status import ApiError

POST_START_SECONDS = 120.0
# After a preStop hook has used up the grace period, the process gets at least this long.
MIN_STOP_SECONDS = 2.0

log = logging.getLogger(__name__)


class ContainerLifecycle:
    """Starts and stops containers of this node's pods."""

    def __init__(self, context: KubeletContext) -> None:
        self._context = context

    def sandbox_config(self, pod: core_v1.Pod, attempt: int) -> SandboxConfig:
        """The configuration of a pod's sandbox; the same pod and attempt always give the same."""
        context = self._context
        return sandbox_config(
            pod,
            attempt=attempt,
            dns=dns.pod_dns(pod, context.node_dns, cluster_servers=context.cluster_dns, domain=context.cluster_domain),
            cgroup_parent=context.cgroup_parent,
            node_hostname=context.node_hostname,
        )

    async def start(
        self, pod: core_v1.Pod, spec: core_v1.Container, action: StartContainer, sandbox: SandboxStatus
    ) -> None:
        """Bring one container up, its postStart hook included.

        `pod` carries its status (the environment may ask for its IP). Raises StartError, and what the API raises
        when a ConfigMap or Secret cannot be read.
        """
        context = self._context
        runtime = context.runtime
        note = self._noter(pod, spec)
        if action.replace:
            await runtime.remove_container(action.replace)
        image = await context.images.ensure(pod, spec, note)
        try:
            env = await self._environment(pod, spec)
            problem = refused_as_root(pod, spec, image)
            if problem:
                raise ConfigError(problem)
            mounts = await self._mounts(pod, spec, env)
        except ConfigError as error:
            note(WARNING, "Failed", f"Error: {error.message}")
            raise
        container_id = await self._create(pod, spec, action, sandbox, image, env, mounts)
        note(NORMAL, "Created", f"Created container: {spec.name}")
        try:
            await runtime.start_container(container_id)
        except ContainerError as error:
            # Without the container's ID: the same failure of the next attempt is the same event.
            message = f'failed to start container "{spec.name}": {error.found or error}'
            note(WARNING, "Failed", f"Error: {message}")
            raise StartError("RunContainerError", message) from error
        note(NORMAL, "Started", f"Started container {spec.name}")
        if spec.lifecycle is not None and spec.lifecycle.postStart is not None:
            await self._post_start(spec.lifecycle.postStart, pod, spec, container_id, sandbox)

    async def stop(self, pod: core_v1.Pod, spec: core_v1.Container | None, action: KillContainer, address: str) -> None:
        """Stop one container within its grace period; `spec` is None for one that the pod does not know.

        Raises ContainerRuntimeError when the runtime cannot.
        """
        note = self._noter(pod, spec)
        note(NORMAL, "Killing", action.message)
        clock = self._context.clock
        begun = clock.monotonic()
        least = 0.0
        hook = spec.lifecycle.preStop if spec is not None and spec.lifecycle is not None else None
        if hook is not None and spec is not None and action.grace > 0:
            outcome = await self._hook(hook, Target(action.id, spec, address), action.grace)
            if outcome.ok is False:
                note(WARNING, "FailedPreStopHook", f"PreStopHook failed: {outcome.message}")
            least = MIN_STOP_SECONDS
        left = max(least, action.grace - (clock.monotonic() - begun))
        await self._context.runtime.stop_container(action.id, left)

    async def clean(self, pod_uid: str) -> None:
        """Remove what the pod's containers had on the node's disk, besides its volumes."""
        if self._context.pods_dir is not None:
            await asyncio.to_thread(_clean, self._context.pods_dir / pod_uid)

    async def _environment(self, pod: core_v1.Pod, spec: core_v1.Container) -> list[tuple[str, str]]:
        context = self._context
        namespace = pod.metadata.namespace or ""
        map_names, secret_names = references.environment_names(spec)
        try:
            config_maps = await context.references.config_maps(namespace, map_names)
            secrets = await context.references.secrets(namespace, secret_names)
        except (ApiError, ConnectionError, TimeoutError) as error:
            raise ConfigError(f"cannot read what the environment refers to: {error}") from error
        return context.resolve(
            spec,
            pod,
            config_maps=config_maps,
            secrets=secrets,
            services=context.services(),
            node=context.node(),
        )

    async def _mounts(self, pod: core_v1.Pod, spec: core_v1.Container, env: list[tuple[str, str]]) -> list[Mount]:
        if self._context.pods_dir is None:
            return self._context.volumes.mounts(pod, spec, env)
        # Files and mounts, on a disk that may be slow: not in the event loop.
        return await asyncio.to_thread(self._context.volumes.mounts, pod, spec, env)

    async def _create(
        self,
        pod: core_v1.Pod,
        spec: core_v1.Container,
        action: StartContainer,
        sandbox: SandboxStatus,
        image: Image,
        env: list[tuple[str, str]],
        mounts: list[Mount],
    ) -> str:
        context = self._context
        termination_log = ""
        if context.pods_dir is not None:
            folder = context.pods_dir / (pod.metadata.uid or "")
            # Files on a disk that may be slow: not in the event loop.
            termination_log = str(await asyncio.to_thread(_termination_log, folder, spec, action.attempt))
            if dns.needs_hosts(pod):
                path = await asyncio.to_thread(_etc_hosts, folder, pod, sandbox.ip, context.cluster_domain)
                mounts = [*mounts, Mount(str(path), "/etc/hosts")]
        config = container_config(
            pod,
            spec,
            Attempt(action.attempt, action.back_off, termination_log),
            image=image,
            env=env,
            mounts=mounts,
            node_memory=context.node_memory,
        )
        try:
            return await context.runtime.create_container(sandbox.id, config, self.sandbox_config(pod, sandbox.attempt))
        except (ContainerError, ImageNotFound, NotFound) as error:
            self._noter(pod, spec)(WARNING, "Failed", f"Error: {error}")
            raise StartError("CreateContainerError", str(error)) from error

    async def _post_start(
        self,
        hook: core_v1.LifecycleHandler,
        pod: core_v1.Pod,
        spec: core_v1.Container,
        container_id: str,
        sandbox: SandboxStatus,
    ) -> None:
        address = sandbox.ip or next(iter(self._context.host.addresses), "")
        outcome = await self._hook(hook, Target(container_id, spec, address), POST_START_SECONDS)
        if outcome.ok is not False:
            return
        note = self._noter(pod, spec)
        note(WARNING, "FailedPostStartHook", f"PostStartHook failed: {outcome.message}")
        note(NORMAL, "Killing", "FailedPostStartHook")
        try:
            await self._context.runtime.stop_container(container_id, MIN_STOP_SECONDS)
        except ContainerRuntimeError as error:
            log.warning("container %s cannot be stopped after its postStart hook failed: %s", container_id, error)
        raise StartError("PostStartHookError", outcome.message)

    async def _hook(self, hook: core_v1.LifecycleHandler, target: Target, timeout: float) -> Outcome:
        try:
            async with asyncio.timeout(timeout + 1.0):
                return await self._context.handlers.run(hook, target, timeout=timeout)
        except TimeoutError:
            return Outcome(False, f"did not end within {timeout:g}s")

    def _noter(self, pod: core_v1.Pod, spec: core_v1.Container | None) -> Callable[[str, str, str], None]:
        """Records events about one container of a pod."""
        path = ""
        if spec is not None and pod.spec is not None:
            part = "initContainers" if any(c.name == spec.name for c in pod.spec.initContainers) else "containers"
            path = f"spec.{part}{{{spec.name}}}"

        def note(type_: str, reason: str, message: str) -> None:
            self._context.recorder.event(pod, type_, reason, message, field_path=path)

        return note


def _termination_log(folder: Path, spec: core_v1.Container, attempt: int) -> Path:
    """The file in which a container leaves its last words; the container must be able to write it, whoever it is."""
    path = folder / "containers" / (spec.name or "") / f"termination-{attempt}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o666)
    return path


def _etc_hosts(folder: Path, pod: core_v1.Pod, address: str, domain: str) -> Path:
    path, node = folder / "etc-hosts", Path("/etc/hosts")
    path.parent.mkdir(parents=True, exist_ok=True)
    node_hosts = node.read_text() if node.exists() else ""
    path.write_text(dns.etc_hosts(pod, address, domain=domain, node_hosts=node_hosts))
    return path


def _clean(folder: Path) -> None:
    shutil.rmtree(folder / "containers", ignore_errors=True)
    (folder / "etc-hosts").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
