"""The volumes of this node's pods: made, kept up to date, mounted into containers, given back.

Everything of a pod lies under `<pods>/<uid>/volumes/<plugin>/<name>`, with the plugins' names as the kubelet's disk
layout has them. What holds secrets lies in memory. What must be given back is found on the disk and in the kernel's
list of mounts, never in our memory, so it does not matter whether we were killed in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from agent.kubelet.references import References, volume_names
from agent.kubelet.start_error import ConfigError
from agent.kubelet.volumes import atomic_writer, empty_dir, host_path, mount_table, sub_path
from agent.kubelet.volumes.errors import VolumeError
from agent.kubelet.volumes.payload import Content, Payload, fs_group, has_content, payload, token_keys
from agent.kubelet.volumes.service_account_token import ServiceAccountTokens
from agent.runtime.runtime import Mount, MountPropagation
from kube import objects, quantity
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.models import core_v1

VOLUMES = "volumes"
SUB_PATHS = "volume-subpaths"
_POD_MODE = 0o750
_VOLUME_MODE = 0o755

_PROPAGATIONS = {
    None: MountPropagation.PRIVATE,
    "None": MountPropagation.PRIVATE,
    "HostToContainer": MountPropagation.HOST_TO_CONTAINER,
    "Bidirectional": MountPropagation.BIDIRECTIONAL,
}

log = logging.getLogger(__name__)


class VolumeSet:
    """Volumes by pod. `pods_dir` is where pods have their folders, `node` gives the Node as known now.

    `in_memory` False where the runtime would not see what is mounted here (`mount_table.seen_by`): secrets and volumes
    of memory then lie on disk, and a subPath is mounted by its path.
    """

    def __init__(
        self,
        pods_dir: Path,
        *,
        client: Client,
        references: References,
        node: Callable[[], core_v1.Node | None],
        clock: Clock | None = None,
        in_memory: bool = True,
    ) -> None:
        self._pods_dir = pods_dir.resolve()
        self._references = references
        self._node = node
        self._tokens = ServiceAccountTokens(client, clock or SystemClock())
        self._in_memory = in_memory
        self._locks: dict[str, threading.Lock] = {}

    async def mount(self, pod: core_v1.Pod) -> dict[str, str]:
        """Make the pod's volumes ready; host path by volume name. Idempotent.

        Only volumes that a container mounts are made. Raises VolumeError, ApiError, ConnectionError, TimeoutError.
        """
        volumes = used_volumes(pod)
        payloads = await self._payloads(pod, [volume for volume in volumes if has_content(volume)])
        await asyncio.to_thread(self._make, pod, volumes, payloads)
        return {volume.name or "": str(self._path(objects.uid(pod), volume)) for volume in volumes}

    async def refresh(self, pod: core_v1.Pod) -> None:
        """Bring changes of ConfigMaps, Secrets, labels and annotations, and new tokens, into the mounted volumes.

        Raises as `mount`; the volumes then stay as they were.
        """
        volumes = [volume for volume in used_volumes(pod) if has_content(volume)]
        if volumes:
            payloads = await self._payloads(pod, volumes)
            await asyncio.to_thread(self._make, pod, volumes, payloads)

    async def unmount(self, pod_uid: str) -> None:
        """Give back the pod's volumes and all that was in them. Idempotent. Raises OSError."""
        self._tokens.forget(pod_uid)
        await asyncio.to_thread(self._remove, pod_uid)
        self._locks.pop(pod_uid, None)

    async def remove_orphans(self, known: Collection[str]) -> list[str]:
        """Give back what pods other than the `known` (UIDs) left behind; their UIDs. Raises OSError."""
        return await asyncio.to_thread(self._remove_orphans, frozenset(known))

    async def over_limit(self, pod: core_v1.Pod) -> str:
        """Why the pod must be evicted: an emptyDir on disk holds more than its sizeLimit; empty if none does."""
        return await asyncio.to_thread(self._over_limit, pod)

    def mounts(
        self, pod: core_v1.Pod, container: core_v1.Container, env: Sequence[tuple[str, str]] = ()
    ) -> list[Mount]:
        """The mounts of one container, once the pod's volumes are ready; `env` is for subPathExpr.

        ConfigError if the container mounts what the pod does not have, or a subPath that leads outside.
        """
        assert pod.spec is not None
        volumes = {volume.name: volume for volume in pod.spec.volumes}
        variables = dict(env)
        found = []
        for position, wanted in enumerate(container.volumeMounts):
            volume = volumes.get(wanted.name)
            if volume is None:
                raise ConfigError(f'container "{container.name}" mounts volume "{wanted.name}", which the pod lacks')
            path = self._path(objects.uid(pod), volume)
            part = wanted.subPath or (sub_path.expanded(wanted.subPathExpr, variables) if wanted.subPathExpr else "")
            if part:
                place = self._folder(objects.uid(pod)) / SUB_PATHS / (wanted.name or "") / (container.name or "")
                path = sub_path.resolve(path, part, place / str(position) if self._in_memory else None)
            found.append(
                Mount(
                    str(path),
                    wanted.mountPath or "",
                    read_only=bool(wanted.readOnly) or has_content(volume),
                    propagation=_PROPAGATIONS[wanted.mountPropagation],
                )
            )
        return found

    # --- content

    async def _payloads(self, pod: core_v1.Pod, volumes: Collection[core_v1.Volume]) -> dict[str, Payload]:
        """The wanted files of volumes of content, by volume name."""
        namespace = objects.namespace(pod)
        maps, secrets = volume_names(volumes)
        node = self._node()
        content = Content(
            config_maps=await self._references.config_maps(namespace, maps),
            secrets=await self._references.secrets(namespace, secrets),
            tokens={
                key: await self._tokens.token(pod, key)
                for key in {key for volume in volumes for key in token_keys(volume)}
            },
            allocatable=node.status.allocatable if node is not None and node.status is not None else {},
        )
        found: dict[str, Payload] = {}
        for volume in volumes:
            try:
                found[volume.name or ""] = payload(volume, pod, content)
            except ConfigError as error:
                raise VolumeError(volume.name or "", error.message) from error
            except ValueError as error:
                raise VolumeError(volume.name or "", str(error)) from error
        return found

    # --- disk (runs in a thread)

    def _make(self, pod: core_v1.Pod, volumes: Sequence[core_v1.Volume], payloads: Mapping[str, Payload]) -> None:
        with self._lock(objects.uid(pod)):
            self._make_all(pod, volumes, payloads)

    def _lock(self, pod_uid: str) -> threading.Lock:
        """Held while a pod's folder is changed: a step that was cancelled goes on in its thread to its end."""
        return self._locks.setdefault(pod_uid, threading.Lock())

    def _make_all(self, pod: core_v1.Pod, volumes: Sequence[core_v1.Volume], payloads: Mapping[str, Payload]) -> None:
        folder = self._folder(objects.uid(pod))
        folder.mkdir(mode=_POD_MODE, parents=True, exist_ok=True)
        group = fs_group(pod)
        for volume in volumes:
            name = volume.name or ""
            try:
                path = self._path(objects.uid(pod), volume)
                if volume.hostPath is not None:
                    host_path.prepare(volume.hostPath.path or "", volume.hostPath.type or "")
                elif has_content(volume):
                    self._prepare_content(volume, path)
                    atomic_writer.write(path, payloads[name], group=group)
                else:
                    source = volume.emptyDir or core_v1.EmptyDirVolumeSource()
                    empty_dir.prepare(path, source, group=group, in_memory=self._can_mount(volume))
            except ValueError as error:
                raise VolumeError(name, str(error)) from error
            except OSError as error:
                raise VolumeError(name, f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")) from error

    def _prepare_content(self, volume: core_v1.Volume, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(_VOLUME_MODE)  # whatever the umask: users other than root must get in
        secret = volume.configMap is None
        if secret and self._can_mount(volume) and not mount_table.is_mounted(path) and not any(path.iterdir()):
            mount_table.mount_tmpfs(path, mode=_VOLUME_MODE)

    def _can_mount(self, volume: core_v1.Volume) -> bool:
        """Whether memory can be mounted; found out by the first try, for users without privileges."""
        if self._in_memory and not mount_table.may_mount():
            log.warning("no permission to mount: volume %s and all after it lie on disk", volume.name)
            self._in_memory = False
        return self._in_memory

    def _remove(self, pod_uid: str) -> None:
        folder = self._folder(pod_uid)
        with self._lock(pod_uid):
            for part in (SUB_PATHS, VOLUMES):
                mount_table.remove_tree(folder / part)
        with contextlib.suppress(OSError):  # something else of the pod is left (its logs): not ours to remove
            folder.rmdir()

    def _remove_orphans(self, known: frozenset[str]) -> list[str]:
        if not self._pods_dir.is_dir():
            return []
        orphans = sorted(entry.name for entry in self._pods_dir.iterdir() if entry.name not in known)
        for uid in orphans:
            mount_table.remove_tree(self._pods_dir / uid)
        return orphans

    def _over_limit(self, pod: core_v1.Pod) -> str:
        for volume in used_volumes(pod):
            source = volume.emptyDir
            if source is None or source.medium == empty_dir.MEMORY or not source.sizeLimit:
                continue
            if empty_dir.used_bytes(self._path(objects.uid(pod), volume)) > quantity.value(source.sizeLimit):
                return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{source.sizeLimit}"'
        return ""

    def _folder(self, pod_uid: str) -> Path:
        if not pod_uid or "/" in pod_uid or pod_uid.startswith("."):
            raise ValueError(f"not the UID of a pod: {pod_uid!r}")
        return self._pods_dir / pod_uid

    def _path(self, pod_uid: str, volume: core_v1.Volume) -> Path:
        """Where a volume is on the host."""
        if volume.hostPath is not None:
            return Path(volume.hostPath.path or "/")
        return self._folder(pod_uid) / VOLUMES / f"kubernetes.io~{plugin(volume)}" / (volume.name or "")


def used_volumes(pod: core_v1.Pod) -> list[core_v1.Volume]:
    """The volumes that some container mounts, in the spec's order."""
    assert pod.spec is not None
    wanted = {m.name for c in [*pod.spec.initContainers, *pod.spec.containers] for m in c.volumeMounts}
    return [volume for volume in pod.spec.volumes if volume.name in wanted]


def plugin(volume: core_v1.Volume) -> str:
    """The name of a volume's kind on disk; VolumeError for a kind that this agent does not have."""
    kinds = {
        "configmap": volume.configMap,
        "secret": volume.secret,
        "projected": volume.projected,
        "downward-api": volume.downwardAPI,
        "empty-dir": volume.emptyDir,
        "host-path": volume.hostPath,
    }
    for name, source in kinds.items():
        if source is not None:
            return name
    has = [field for field in volume.__struct_fields__ if field != "name" and getattr(volume, field) is not None]
    if not has:
        return "empty-dir"  # as the API server has it for a volume without a source
    raise VolumeError(
        volume.name or "",
        f"{has[0]} is not supported by this node's agent: use configMap, secret, projected, downwardAPI, emptyDir "
        "or hostPath",
    )


def remove_all(pods_dir: Path) -> None:
    """Unmount and remove the volumes and folders of all pods, for a reset: whoever made them. Raises OSError."""
    mount_table.remove_tree(pods_dir)
