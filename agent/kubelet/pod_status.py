"""A pod's status as the kubelet reports it: phase, conditions, container statuses (Kubernetes: PodStatus). Pure.

The same situation always gives the same status, so that it is written only when something has really changed: times
of conditions are carried over from the status before, times of containers come from the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from agent.kubelet import back_off, phase, resources
from agent.kubelet.observation import back_off_of
from agent.kubelet.situation import SANDBOX, TERMINAL, VOLUMES, Situation
from agent.runtime.runtime import ContainerState, ContainerStatus
from kube import objects, times
from kube.models import core_v1

POD_SCHEDULED = "PodScheduled"
READY_TO_START = "PodReadyToStartContainers"
INITIALIZED = "Initialized"
CONTAINERS_READY = "ContainersReady"
READY = "Ready"
OWN_CONDITIONS = (READY_TO_START, INITIALIZED, READY, CONTAINERS_READY, POD_SCHEDULED)

_TERMINATED_REASONS = {"": "Error", "ContainerCannotRun": "StartError"}


class Host(Struct, frozen=True):
    """What a pod's status says of its node: the addresses, and the runtime's name in container IDs."""

    addresses: tuple[str, ...]
    runtime_name: str


def pod_status(s: Situation, host: Host, *, written: core_v1.PodStatus | None = None) -> core_v1.PodStatus:
    """The status that the pod should have.

    `s.pod.status` is the last one that we know; `written` the one in the API, which others write to as well:
    conditions of types that are not the kubelet's are taken from there (readiness gates).
    """
    before = s.pod.status or core_v1.PodStatus()
    status = core_v1.PodStatus(
        phase=phase.phase(s),
        startTime=before.startTime or times.rfc3339(s.now),
        qosClass=before.qosClass or resources.qos_class(s.pod),
        hostIP=host.addresses[0] if host.addresses else None,
        hostIPs=[core_v1.HostIP(ip=address) for address in host.addresses],
        nominatedNodeName=before.nominatedNodeName,
        resourceClaimStatuses=before.resourceClaimStatuses,
        ephemeralContainerStatuses=before.ephemeralContainerStatuses,
    )
    end = s.end
    status.reason, status.message = (end.reason, end.message) if end else (before.reason, before.message)
    over = end is not None or before.phase in TERMINAL
    if over and not s.observed.containers and not before.containerStatuses and not before.initContainerStatuses:
        # Rejected, perhaps by an agent that ran before: there never was anything to report on.
        status.conditions = _conditions(s, status, before, written)
        return status
    known = {c.name: c for c in [*before.initContainerStatuses, *before.containerStatuses]}
    status.initContainerStatuses = [
        _container(s, host, c, known.get(c.name), phase.init_policy(s.spec), init=True) for c in s.spec.initContainers
    ]
    status.containerStatuses = [
        _container(s, host, c, known.get(c.name), s.spec.restartPolicy, init=False) for c in s.spec.containers
    ]
    address = _pod_ip(s, host) or before.podIP
    status.podIP = address
    status.podIPs = [core_v1.PodIP(ip=address)] if address else []
    status.conditions = _conditions(s, status, before, written)
    return status


def _pod_ip(s: Situation, host: Host) -> str | None:
    if s.spec.hostNetwork:
        return host.addresses[0] if host.addresses else None
    return s.observed.sandbox.ip if s.observed.sandbox is not None else None


def _container(
    s: Situation,
    host: Host,
    spec: core_v1.Container,
    before: core_v1.ContainerStatus | None,
    policy: str | None,
    *,
    init: bool,
) -> core_v1.ContainerStatus:
    name = spec.name or ""
    latest = s.observed.latest(name)
    sidecar = init and spec.restartPolicy == "Always"
    status = core_v1.ContainerStatus(
        name=name, image=spec.image, imageID="", ready=False, started=False, restartCount=0, state=None
    )
    if latest is None:
        return _absent(s, status, spec, before)
    status.restartCount = latest.attempt
    status.imageID = latest.image_id
    status.containerID = f"{host.runtime_name}://{latest.id}"
    previous = next((c for c in s.observed.attempts(name)[1:] if c.state is ContainerState.EXITED), None)
    status.lastState = (
        core_v1.ContainerState(terminated=_terminated(previous, host, before))
        if previous is not None
        else (before.lastState if before is not None else None)
    )
    health = s.health.get(latest.id)
    if latest.state is ContainerState.EXITED:
        ended = core_v1.ContainerState(terminated=_terminated(latest, host, before))
        pause = _pause(s, latest, "Always" if sidecar else policy, name)
        if pause is None:
            status.state = ended
        else:
            status.state, status.lastState = core_v1.ContainerState(waiting=pause), ended
        status.ready = init and not sidecar and latest.exit_code == 0
    elif latest.state is ContainerState.RUNNING:
        started = times.rfc3339(latest.started_at.timestamp()) if latest.started_at else None
        status.state = core_v1.ContainerState(running=core_v1.ContainerStateRunning(startedAt=started))
        status.started = health.started if health is not None else False
        status.ready = health is not None and health.started and health.ready and not (init and not sidecar)
    else:
        status.state = core_v1.ContainerState(waiting=_reason(s, name, _not_started(s)))
    return status


def _absent(
    s: Situation,
    status: core_v1.ContainerStatus,
    spec: core_v1.Container,
    before: core_v1.ContainerStatus | None,
) -> core_v1.ContainerStatus:
    """Status of a container that the runtime does not have: not made yet, or removed by somebody."""
    if before is not None:
        status.restartCount, status.lastState = before.restartCount or 0, before.lastState
        # Remembered until the next attempt: from it that attempt's number is made.
        status.containerID, status.imageID = before.containerID, before.imageID or ""
        if before.state is not None and before.state.terminated is not None and phase.phase(s) in TERMINAL:
            before = objects.copy(before)
            before.ready = before.started = False
            return before
        if before.containerID and phase.phase(s) in TERMINAL:
            lost = core_v1.ContainerStateTerminated(
                reason="ContainerStatusUnknown",
                message="The container could not be located when the pod was terminated",
                exitCode=137,
            )
            status.state = core_v1.ContainerState(terminated=lost)
            return status
    status.state = core_v1.ContainerState(waiting=_reason(s, spec.name or "", _not_started(s)))
    return status


def _pause(s: Situation, ended: ContainerStatus, policy: str | None, name: str) -> core_v1.ContainerStateWaiting | None:
    """Why an ended container that will start again does not yet; None if it will not, or is about to."""
    if s.terminating or phase.phase(s) in TERMINAL or not phase.should_restart(policy, ended):
        return None
    if name in s.failures:
        return _reason(s, name, "")
    if s.now < back_off.restart_at(ended, now=s.now):
        seconds = round(back_off_of(ended))
        return core_v1.ContainerStateWaiting(
            reason="CrashLoopBackOff",
            message=f"back-off {_duration(seconds)} restarting failed container={name} pod={_full_name(s.pod)}",
        )
    return None


def _not_started(s: Situation) -> str:
    return "PodInitializing" if s.spec.initContainers else "ContainerCreating"


def _reason(s: Situation, name: str, default: str) -> core_v1.ContainerStateWaiting:
    failure = s.failures.get(name)
    if failure is None:
        return core_v1.ContainerStateWaiting(reason=default or None)
    reason, message = failure.shown(s.now)
    return core_v1.ContainerStateWaiting(reason=reason, message=message)


def _terminated(
    container: ContainerStatus, host: Host, before: core_v1.ContainerStatus | None
) -> core_v1.ContainerStateTerminated:
    code = container.exit_code if container.exit_code is not None else 137
    id_ = f"{host.runtime_name}://{container.id}"
    for state in (before.state, before.lastState) if before is not None else ():
        known = state.terminated if state is not None else None
        if known is not None and known.containerID == id_ and known.reason == "OOMKilled":
            # The engine may tell this once and not keep it; an agent that started since only knows it from here.
            container = replace(container, reason="OOMKilled")
    return core_v1.ContainerStateTerminated(
        exitCode=code,
        reason=_TERMINATED_REASONS.get(container.reason, container.reason) if code else container.reason or "Completed",
        message=container.message or None,
        startedAt=times.rfc3339(container.started_at.timestamp()) if container.started_at else None,
        finishedAt=times.rfc3339(container.finished_at.timestamp()) if container.finished_at else None,
        containerID=id_,
    )


def _conditions(
    s: Situation, status: core_v1.PodStatus, before: core_v1.PodStatus, written: core_v1.PodStatus | None
) -> list[core_v1.PodCondition]:
    foreign = [c for c in (written or before).conditions if c.type not in OWN_CONDITIONS]
    completed = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(status.phase or "")
    unready = [c.name or "" for c in status.containerStatuses if not c.ready]
    unready += [c.name or "" for c in status.initContainerStatuses if s.is_sidecar(c.name or "") and not c.ready]
    incomplete = phase.unfinished_init(s) if status.containerStatuses else []
    containers_ready = not unready and bool(status.containerStatuses) and not completed
    why = completed or "ContainersNotReady"
    missing = f"containers with unready status: [{' '.join(unready)}]" if not completed else ""
    gates = [
        gate.conditionType or ""
        for gate in s.spec.readinessGates
        if (found := objects.condition(foreign, gate.conditionType or "")) is None or found.status != "True"
    ]
    sandbox_ready = s.observed.sandbox is not None and bool(status.podIP)
    if containers_ready and gates:
        plural = ", ".join(f'the status of pod readiness gate "{gate}" is not "True"' for gate in gates)
        ready = _Wanted(READY, False, "ReadinessGatesNotReady", plural)
    else:
        ready = _Wanted(READY, containers_ready, why, missing)
    if status.phase == "Succeeded":
        initialized = _Wanted(INITIALIZED, True, "PodCompleted", "")
    else:
        message = f"containers with incomplete status: [{' '.join(incomplete)}]"
        initialized = _Wanted(INITIALIZED, not incomplete, "ContainersNotInitialized", message)
    blocked = s.failures.get(SANDBOX) or s.failures.get(VOLUMES)
    wanted = (
        _Wanted(READY_TO_START, sandbox_ready, blocked.reason if blocked else "", ""),
        initialized,
        ready,
        _Wanted(CONTAINERS_READY, containers_ready, why, missing),
        _Wanted(POD_SCHEDULED, True, "", ""),
    )
    return [*(w.condition(before.conditions, s.now) for w in wanted), *foreign]


class _Wanted(Struct, frozen=True):
    """A condition; reason and message explain False only (Initialized's PodCompleted excepted)."""

    type: str
    status: bool
    reason: str
    message: str

    def condition(self, before: Sequence[core_v1.PodCondition], now: float) -> core_v1.PodCondition:
        status = "True" if self.status else "False"
        explain = not self.status or self.reason == "PodCompleted"
        old = objects.condition(before, self.type)
        since = old.lastTransitionTime if old is not None and old.status == status else None
        return core_v1.PodCondition(
            type=self.type,
            status=status,
            reason=(self.reason or None) if explain else None,
            message=(self.message or None) if explain else None,
            lastTransitionTime=since or times.rfc3339(now),
        )


def _full_name(pod: core_v1.Pod) -> str:
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def _duration(seconds: int) -> str:
    """As Go prints durations: `10s`, `2m40s`."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
