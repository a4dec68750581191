"""What all pod workers of a kubelet share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from agent.kubelet.handlers import Handlers
from agent.kubelet.images import ImagePuller
from agent.kubelet.pod_status import Host
from agent.kubelet.references import References
from agent.kubelet.status import StatusWriter
from agent.runtime.runtime import DNSConfig, Mount, Runtime
from kube.clock import Clock
from kube.events import EventRecorder
from kube.models import core_v1


class ResolveEnvironment(Protocol):
    """`agent.kubelet.environment.resolve`: a container's variables, in order; raises `start_error.ConfigError`."""

    def __call__(
        self,
        container: core_v1.Container,
        pod: core_v1.Pod,
        *,
        config_maps: Mapping[str, core_v1.ConfigMap],
        secrets: Mapping[str, core_v1.Secret],
        services: Sequence[core_v1.Service],
        node: core_v1.Node | None,
    ) -> list[tuple[str, str]]: ...


class Volumes(Protocol):
    """`agent.kubelet.volumes.VolumeSet`: the volumes of this node's pods."""

    async def mount(self, pod: core_v1.Pod) -> dict[str, str]:
        """Make a pod's volumes ready; host path by volume name. Idempotent. KtoolError, ApiError, ConnectionError."""
        ...

    async def unmount(self, pod_uid: str) -> None:
        """Give back a pod's volumes. Idempotent."""
        ...

    async def refresh(self, pod: core_v1.Pod) -> None:
        """Bring changed ConfigMaps and Secrets into mounted volumes."""
        ...

    async def over_limit(self, pod: core_v1.Pod) -> str:
        """Why a pod must be evicted: a volume holds more than its limit. Empty if none does."""
        ...

    async def remove_orphans(self, known: Collection[str]) -> list[str]:
        """Give back what pods other than the `known` (UIDs) left behind; their UIDs. Raises OSError."""
        ...

    def mounts(
        self, pod: core_v1.Pod, container: core_v1.Container, env: Sequence[tuple[str, str]] = ()
    ) -> list[Mount]:
        """The mounts of one container, once the pod's volumes are ready; `env` is for subPathExpr. ConfigError."""
        ...


class KubeletContext(Struct, frozen=True, kw_only=True):
    """The shared parts.

    `node` gives the Node as known now, `services` all Services (for environment variables). `pods_dir` holds pods'
    files on this machine; None on a hollow node, which has none.
    """

    runtime: Runtime
    volumes: Volumes
    resolve: ResolveEnvironment
    images: ImagePuller
    handlers: Handlers
    references: References
    statuses: StatusWriter
    recorder: EventRecorder
    clock: Clock
    host: Host
    pods_dir: Path | None
    node: Callable[[], core_v1.Node | None]
    services: Callable[[], Sequence[core_v1.Service]]
    node_hostname: str
    node_memory: int
    node_dns: DNSConfig = field(default_factory=DNSConfig)
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    cgroup_parent: str = "/ktool"
