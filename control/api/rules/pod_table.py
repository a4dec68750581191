"""What `kubectl get pods` shows of a pod: readiness, one word of status, restarts."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules.columns import since
from kube import times


def ready_cell(obj: Object) -> str:
    """`1/2`: ready containers (sidecars included) of all."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    sidecars = {c.get("name") for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or ()) + len(sidecars)
    ready = sum(bool(c.get("ready")) for c in status.get("containerStatuses") or ())
    ready += sum(bool(c.get("ready")) for c in status.get("initContainerStatuses") or () if c.get("name") in sidecars)
    return f"{ready}/{total}"


def status_cell(obj: Object) -> str:
    """The most telling word: why a container waits or ended, else the pod's reason or phase."""
    metadata, spec, status = obj.get("metadata") or {}, obj.get("spec") or {}, obj.get("status") or {}
    word = status.get("reason") or status.get("phase") or ""
    gated = any(
        c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in status.get("conditions") or ()
    )
    if gated:
        word = "SchedulingGated"
    word = _init_word(spec, status) or _container_word(status, word)
    if metadata.get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return word


def restarts_cell(obj: Object, now: float) -> Any:
    """Restarts of all containers, with the time since the last one."""
    status = obj.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    count = sum(c.get("restartCount", 0) for c in containers)
    ended = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in containers]
    last = max((t for t in ended if t), key=times.parse, default=None)
    return f"{count} ({since(last, now)} ago)" if count and last else str(count)


def _init_word(spec: Object, status: Object) -> str:
    """`Init:1/3`, `Init:CrashLoopBackOff`: how far the init containers are; empty when they are done."""
    declared = spec.get("initContainers") or ()
    sidecars = {c.get("name") for c in declared if c.get("restartPolicy") == "Always"}
    for position, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if container.get("name") in sidecars and container.get("started"):
            continue
        if terminated is not None:
            return f"Init:{_ended(terminated)}"
        if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{position}/{len(declared)}"
    return ""


def _container_word(status: Object, word: str) -> str:
    running = False
    for container in reversed(status.get("containerStatuses") or ()):
        state = container.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            word = waiting["reason"]
        elif terminated is not None:
            word = _ended(terminated)
        elif state.get("running") is not None and container.get("ready"):
            running = True
    if word == "Completed" and running:
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
        return "Running" if ready else "NotReady"
    return word


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"
