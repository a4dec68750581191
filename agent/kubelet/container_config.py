"""From a pod's spec to what the runtime is told: sandbox and container configurations (CRI). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from agent.kubelet import resources
from agent.kubelet.expansion import expand
from agent.kubelet.observation import BACK_OFF, GRACE_PERIOD, IMAGE, TERMINATION_LOG, TERMINATION_POLICY
from agent.kubelet.situation import DEFAULT_GRACE_SECONDS
from agent.runtime.runtime import (
    ContainerConfig,
    DNSConfig,
    Image,
    Mount,
    PortMapping,
    SandboxConfig,
    Security,
)
from kube.models import core_v1

MAX_HOSTNAME = 63
DEFAULT_TERMINATION_PATH = "/dev/termination-log"


class Attempt(Struct, frozen=True):
    """Which attempt of a container this is, and what its end will mean: see `observation` for the annotations."""

    number: int
    back_off: float
    termination_log: str


def sandbox_config(
    pod: core_v1.Pod, *, attempt: int, dns: DNSConfig, cgroup_parent: str, node_hostname: str
) -> SandboxConfig:
    """What the pod's containers will share."""
    spec = pod.spec
    assert spec is not None
    ports = [p for c in [*spec.initContainers, *spec.containers] for p in c.ports if p.hostPort and p.containerPort]
    security = spec.securityContext
    grace = spec.terminationGracePeriodSeconds
    return SandboxConfig(
        name=pod.metadata.name or "",
        namespace=pod.metadata.namespace or "",
        uid=pod.metadata.uid or "",
        attempt=attempt,
        hostname=node_hostname if spec.hostNetwork else hostname(pod),
        annotations={GRACE_PERIOD: str(DEFAULT_GRACE_SECONDS if grace is None else grace)},
        port_mappings=tuple(
            PortMapping(p.containerPort or 0, p.hostPort or 0, p.protocol or "TCP", p.hostIP or "") for p in ports
        ),
        dns=dns,
        sysctls={s.name or "": s.value or "" for s in security.sysctls} if security is not None else {},
        cgroup_parent=cgroup_parent,
        host_network=bool(spec.hostNetwork),
        host_pid=bool(spec.hostPID),
        host_ipc=bool(spec.hostIPC),
        share_process_namespace=bool(spec.shareProcessNamespace),
    )


def hostname(pod: core_v1.Pod) -> str:
    """The pod's host name: its spec's, or its own name cut to what a host name may have."""
    assert pod.spec is not None
    return pod.spec.hostname or (pod.metadata.name or "")[:MAX_HOSTNAME].rstrip("-.")


def container_config(
    pod: core_v1.Pod,
    container: core_v1.Container,
    attempt: Attempt,
    *,
    image: Image,
    env: Sequence[tuple[str, str]],
    mounts: Sequence[Mount],
    node_memory: int,
) -> ContainerConfig:
    """What one container is to be. `env` is resolved, `mounts` are the volumes' (paths of the host that exist)."""
    variables = dict(env)
    log: tuple[Mount, ...] = ()
    if attempt.termination_log:
        log = (Mount(attempt.termination_log, container.terminationMessagePath or DEFAULT_TERMINATION_PATH),)
    annotations = {BACK_OFF: f"{attempt.back_off:g}", IMAGE: container.image or ""}
    if attempt.termination_log:
        annotations[TERMINATION_LOG] = attempt.termination_log
    if container.terminationMessagePolicy:
        annotations[TERMINATION_POLICY] = container.terminationMessagePolicy
    return ContainerConfig(
        name=container.name or "",
        image=image.id,
        attempt=attempt.number,
        command=tuple(expand(word, variables) for word in container.command),
        args=tuple(expand(word, variables) for word in container.args),
        working_dir=container.workingDir or "",
        env=tuple(env),
        mounts=(*mounts, *log),
        annotations=annotations,
        stdin=bool(container.stdin),
        stdin_once=bool(container.stdinOnce),
        tty=bool(container.tty),
        resources=resources.container_resources(pod, container, node_memory=node_memory),
        security=security_of(pod, container),
    )


def security_of(pod: core_v1.Pod, container: core_v1.Container) -> Security:
    """Who the container's process is and what it may: the container's securityContext over the pod's."""
    assert pod.spec is not None
    shared = pod.spec.securityContext or core_v1.PodSecurityContext()
    own = container.securityContext or core_v1.SecurityContext()
    capabilities = own.capabilities or core_v1.Capabilities()
    groups = [*shared.supplementalGroups, *([shared.fsGroup] if shared.fsGroup is not None else [])]
    return Security(
        privileged=bool(own.privileged),
        run_as_user=own.runAsUser if own.runAsUser is not None else shared.runAsUser,
        run_as_group=own.runAsGroup if own.runAsGroup is not None else shared.runAsGroup,
        supplemental_groups=tuple(groups),
        read_only_root=bool(own.readOnlyRootFilesystem),
        add_capabilities=tuple(capabilities.add),
        drop_capabilities=tuple(capabilities.drop),
        no_new_privileges=own.allowPrivilegeEscalation is False,
    )


def refused_as_root(pod: core_v1.Pod, container: core_v1.Container, image: Image) -> str:
    """Why runAsNonRoot forbids this container to start; empty if it does not."""
    assert pod.spec is not None
    shared = pod.spec.securityContext or core_v1.PodSecurityContext()
    own = container.securityContext or core_v1.SecurityContext()
    wanted = own.runAsNonRoot if own.runAsNonRoot is not None else shared.runAsNonRoot
    if not wanted:
        return ""
    user = security_of(pod, container).run_as_user
    if user is not None:
        return "container's runAsUser breaks non-root policy" if user == 0 else ""
    name = image.user.partition(":")[0]
    if name in ("", "0", "root"):
        return "container has runAsNonRoot and image will run as root"
    if not name.isdigit():
        return f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
    return ""
