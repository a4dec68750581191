"""ConfigMaps and Secrets that pods refer to, fetched when needed and kept for half a minute.

Kubernetes' kubelet can watch each of them or fetch and keep them for a while; this is the second way. A watch is a
connection each, for objects that are read when a container starts and when volumes are refreshed now and then; so a
short cache is lighter on the master, and pods that start together share one request. If the master does not answer,
what was read before still counts: a container that died is started again meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from msgspec import Struct, field

from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.models import core_v1
from kube.status import ApiError, is_not_found, is_retryable

T = TypeVar("T")

# With the refresh of volumes as often: a change is in running pods within a minute.
TTL_SECONDS = 30.0

log = logging.getLogger(__name__)


class _Entry(Struct):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    object: Any = None
    fetched: float = float("-inf")


class References:
    """Objects by kind, namespace and name, at most half a minute old while the master answers."""

    def __init__(self, client: Client, *, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._entries: dict[tuple[type[Any], str, str], _Entry] = {}

    async def get(self, kind: type[T], namespace: str, name: str) -> T | None:
        """The object, None if there is none.

        Raises ApiError (Forbidden: nothing bound to this node refers to it) and ConnectionError when it was never
        read and cannot be read now.
        """
        entry = self._entries.setdefault((kind, namespace, name), _Entry())
        async with entry.lock:
            if self._clock.monotonic() - entry.fetched < TTL_SECONDS and entry.object is not None:
                known: T = entry.object
                return known
            try:
                entry.object = await self._client.get(kind, name, namespace=namespace)
                entry.fetched = self._clock.monotonic()
            except (ApiError, ConnectionError, TimeoutError) as error:
                if is_not_found(error):
                    entry.object = None
                    return None
                stale = entry.object is not None
                if not stale or (isinstance(error, ApiError) and not is_retryable(error)):
                    raise
                log.info("%s %s/%s is used as it was read before: %s", kind.__name__, namespace, name, error)
            found: T = entry.object
            return found

    async def config_maps(self, namespace: str, names: Iterable[str]) -> dict[str, core_v1.ConfigMap]:
        """Those of the named ConfigMaps that exist, by name."""
        return await self._named(core_v1.ConfigMap, namespace, names)

    async def secrets(self, namespace: str, names: Iterable[str]) -> dict[str, core_v1.Secret]:
        """Those of the named Secrets that exist, by name."""
        return await self._named(core_v1.Secret, namespace, names)

    def expire(self, namespace: str, names: Iterable[str]) -> None:
        """Fetch these anew the next time: a new pod must not see a ConfigMap from before its creation."""
        wanted = set(names)
        for (_, its_namespace, name), entry in self._entries.items():
            if its_namespace == namespace and name in wanted:
                entry.fetched = float("-inf")

    def keep_only(self, namespaces_and_names: Iterable[tuple[str, str]]) -> None:
        """Forget what no pod refers to any more."""
        wanted = set(namespaces_and_names)
        for key in [key for key in self._entries if key[1:] not in wanted]:
            del self._entries[key]

    async def _named(self, kind: type[T], namespace: str, names: Iterable[str]) -> dict[str, T]:
        found = {name: await self.get(kind, namespace, name) for name in sorted(set(names))}
        return {name: obj for name, obj in found.items() if obj is not None}


def environment_names(container: core_v1.Container) -> tuple[set[str], set[str]]:
    """Names of the (ConfigMaps, Secrets) that a container's environment refers to."""
    maps, secrets = set(), set()
    for source in container.envFrom:
        if source.configMapRef is not None and source.configMapRef.name:
            maps.add(source.configMapRef.name)
        if source.secretRef is not None and source.secretRef.name:
            secrets.add(source.secretRef.name)
    for variable in container.env:
        origin = variable.valueFrom
        if origin is None:
            continue
        if origin.configMapKeyRef is not None and origin.configMapKeyRef.name:
            maps.add(origin.configMapKeyRef.name)
        if origin.secretKeyRef is not None and origin.secretKeyRef.name:
            secrets.add(origin.secretKeyRef.name)
    return maps, secrets


def volume_names(volumes: Iterable[core_v1.Volume]) -> tuple[set[str], set[str]]:
    """Names of the (ConfigMaps, Secrets) that volumes refer to."""
    maps, secrets = set(), set()
    for volume in volumes:
        projections = volume.projected.sources if volume.projected is not None else []
        for config_map in (volume.configMap, *(source.configMap for source in projections)):
            if config_map is not None and config_map.name:
                maps.add(config_map.name)
        if volume.secret is not None and volume.secret.secretName:
            secrets.add(volume.secret.secretName)
        secrets |= {source.secret.name for source in projections if source.secret is not None and source.secret.name}
    return maps, secrets


def pod_names(pod: core_v1.Pod) -> set[str]:
    """Names of all ConfigMaps and Secrets that a pod refers to, in its environment, volumes and image pulls."""
    spec = pod.spec
    assert spec is not None
    names = {reference.name for reference in spec.imagePullSecrets}
    for container in [*spec.initContainers, *spec.containers]:
        for found in environment_names(container):
            names |= found
    for found in volume_names(spec.volumes):
        names |= found
    return {name for name in names if name}
