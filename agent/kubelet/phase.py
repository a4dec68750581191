"""Where a pod is in its life (Kubernetes: "Pod Lifecycle"): initialization, phase, who restarts. Pure."""

from __future__ import annotations

from agent.kubelet.observation import Observation
from agent.kubelet.situation import Situation
from agent.runtime.runtime import ContainerState, ContainerStatus
from kube.models import core_v1

PENDING = "Pending"
RUNNING = "Running"
SUCCEEDED = "Succeeded"
FAILED = "Failed"


def should_restart(policy: str | None, ended: ContainerStatus) -> bool:
    """Whether a container that has ended is started again under a restartPolicy."""
    if policy == "Never":
        return False
    return policy != "OnFailure" or not succeeded(ended)


def succeeded(container: ContainerStatus | None) -> bool:
    """Whether a container has ended with exit code 0."""
    return container is not None and container.state is ContainerState.EXITED and container.exit_code == 0


def failed(container: ContainerStatus | None) -> bool:
    """Whether a container has ended with another exit code."""
    return container is not None and container.state is ContainerState.EXITED and container.exit_code != 0


def init_policy(spec: core_v1.PodSpec) -> str:
    """The restartPolicy of init containers that are no sidecars: they run to success, whatever Always means else."""
    return "Never" if spec.restartPolicy == "Never" else "OnFailure"


def current_sandbox(observed: Observation) -> str:
    """ID of the pod's newest sandbox, working or not; empty if it never had one."""
    if observed.sandboxes:
        return observed.sandboxes[0].id
    return observed.containers[0].sandbox_id if observed.containers else ""


def in_sandbox(observed: Observation, name: str) -> ContainerStatus | None:
    """The newest attempt of a container, if it is in the newest sandbox: with a new one, initialization starts anew."""
    latest = observed.latest(name)
    return latest if latest is not None and latest.sandbox_id == current_sandbox(observed) else None


def unfinished_init(s: Situation) -> list[str]:
    """Init containers that the pod's containers still wait for, in order; empty: initialized.

    Once a container of the pod has been started in this sandbox, initialization is over, come what may.
    """
    if any(in_sandbox(s.observed, c.name or "") for c in s.spec.containers):
        return []
    names = [c.name or "" for c in s.spec.initContainers]
    # An init container that was started shows that all before it were done.
    started = [i for i, name in enumerate(names) if in_sandbox(s.observed, name)]
    first = max(started, default=0)
    return [name for name in names[first:] if not _init_done(s, name)]


def _init_done(s: Situation, name: str) -> bool:
    container = in_sandbox(s.observed, name)
    if s.is_sidecar(name):
        if container is None or container.state is not ContainerState.RUNNING:
            return False
        health = s.health.get(container.id)
        return health is not None and health.started
    return succeeded(container)


def phase(s: Situation) -> str:
    """Pending, Running, Succeeded or Failed."""
    before = s.pod.status.phase if s.pod.status is not None else None
    if before in (SUCCEEDED, FAILED):
        return before
    regular = [s.observed.latest(c.name or "") for c in s.spec.containers]
    if s.terminating and not s.observed.alive:
        if s.end is not None:
            return FAILED
        return SUCCEEDED if regular and all(succeeded(c) for c in regular) else FAILED
    return _of_containers(s, regular)


def _of_containers(s: Situation, regular: list[ContainerStatus | None]) -> str:
    inits = [in_sandbox(s.observed, c.name or "") for c in s.spec.initContainers if c.restartPolicy != "Always"]
    if s.spec.restartPolicy == "Never" and any(failed(c) for c in inits):
        return FAILED
    if any(c is None or c.state is ContainerState.CREATED for c in regular):
        return PENDING
    ended = [c for c in regular if c is not None and c.state is ContainerState.EXITED]
    if len(ended) < len(regular):
        return RUNNING
    policy = s.spec.restartPolicy
    if any(should_restart(policy, c) for c in ended):
        return RUNNING
    return SUCCEEDED if all(succeeded(c) for c in ended) else FAILED
