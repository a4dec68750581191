"""Short ways to write pods, containers and what the runtime says of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agent.kubelet.observation import BACK_OFF, Observation
from agent.kubelet.situation import Health, Situation
from agent.runtime.runtime import ContainerState, ContainerStatus, SandboxState, SandboxStatus
from kube import objects
from kube.models import core_v1

NOW = 1_750_000_000.0
SANDBOX_ID = "s0"


def pod(*names: str, init: tuple[str, ...] = (), policy: str = "Always", **spec: Any) -> core_v1.Pod:
    """A pod with containers of these names (default: one, `web`); further fields of its spec as plain data."""
    containers = [{"name": name, "image": f"{name}:1"} for name in names or ("web",)]
    inits: list[dict[str, Any]] = []
    for name in init:
        sidecar = {"restartPolicy": "Always"} if name.endswith("+") else {}
        inits.append({"name": name.rstrip("+"), "image": f"{name.rstrip('+')}:1", **sidecar})
    data = {
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "resourceVersion": "1"},
        "spec": {"containers": containers, "initContainers": inits, "restartPolicy": policy, **spec},
    }
    return objects.from_dict(data, core_v1.Pod)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


def running(name: str = "web", attempt: int = 0, *, since: float = -60, sandbox: str = SANDBOX_ID) -> ContainerStatus:
    return _container(name, attempt, ContainerState.RUNNING, sandbox, started_at=moment(since))


def exited(
    name: str = "web",
    attempt: int = 0,
    *,
    code: int = 1,
    ran: float = 5,
    ago: float = 1,
    back_off: float = 0,
    sandbox: str = SANDBOX_ID,
    reason: str = "",
    message: str = "",
) -> ContainerStatus:
    """A container that ended `ago` seconds ago, after it `ran` for some seconds."""
    return _container(
        name,
        attempt,
        ContainerState.EXITED,
        sandbox,
        annotations={BACK_OFF: str(back_off)},
        started_at=moment(-ago - ran),
        finished_at=moment(-ago),
        exit_code=code,
        reason=reason or ("Error" if code else "Completed"),
        message=message,
    )


def created(name: str = "web", attempt: int = 0) -> ContainerStatus:
    return _container(name, attempt, ContainerState.CREATED, SANDBOX_ID)


def _container(name: str, attempt: int, state: ContainerState, sandbox: str, **fields: Any) -> ContainerStatus:
    return ContainerStatus(
        id=f"{name}-{attempt}",
        sandbox_id=sandbox,
        name=name,
        attempt=attempt,
        state=state,
        image=f"{name}:1",
        image_id=f"sha256:{name}",
        created_at=moment(-100),
        labels={},
        annotations=fields.pop("annotations", {}),
        **fields,
    )


def sandbox(attempt: int = 0, *, ready: bool = True, id_: str = "") -> SandboxStatus:
    return SandboxStatus(
        id=id_ or f"s{attempt}",
        name="web-1",
        namespace="shop",
        uid="u1",
        attempt=attempt,
        state=SandboxState.READY if ready else SandboxState.NOT_READY,
        created_at=moment(-100),
        labels={},
        annotations={},
        ip="10.244.0.5" if ready else "",
    )


def situation(
    pod_: core_v1.Pod, *containers: ContainerStatus, sandboxes: tuple[SandboxStatus, ...] | None = None, **fields: Any
) -> Situation:
    """A pod and what runs; one ready sandbox unless said otherwise, and every running container healthy."""
    found = (sandbox(),) if sandboxes is None else sandboxes
    ordered = tuple(sorted(containers, key=lambda c: (-c.attempt, c.name)))
    health = {c.id: Health() for c in containers if c.state is ContainerState.RUNNING}
    fields.setdefault("health", health)
    return Situation(pod=pod_, observed=Observation(found, ordered), now=fields.pop("now", NOW), **fields)


def deleting(pod_: core_v1.Pod, *, grace: int = 30) -> core_v1.Pod:
    """The pod with its deletion asked for."""
    found = objects.copy(pod_)
    found.metadata.deletionTimestamp = "2025-06-15T15:06:40Z"
    found.metadata.deletionGracePeriodSeconds = grace
    return found
