"""All that is known about one pod at one moment: what the pure parts (plan, phase, status) decide by."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from agent.kubelet.back_off import Failure
from agent.kubelet.observation import Observation
from kube import times
from kube.models import core_v1

# What is being done, or did not work, besides starting a container (known by its name). No container is called so.
VOLUMES = "/volumes"
SANDBOX = "/sandbox"
TEARDOWN = "/teardown"

DEFAULT_GRACE_SECONDS = 30
TERMINAL = ("Succeeded", "Failed")


class Health(Struct, frozen=True):
    """What the probes say of one running container.

    `started`: the startup probe succeeded, or there is none; `ready` likewise for readiness. `unhealthy` is why the
    container must be restarted (empty: it need not), `grace` how long it may then take to stop (None: as the pod says).
    """

    started: bool = True
    ready: bool = True
    unhealthy: str = ""
    grace: float | None = None


class End(Struct, frozen=True):
    """Why the kubelet itself ended a pod: its status becomes Failed with this reason."""

    reason: str
    message: str


class Situation(Struct, frozen=True, kw_only=True):
    """One pod at one moment.

    `pod` is the API's object. `health` is by container ID, `failures` and `busy` by container name or one of the
    constants above. `stopping` has the containers (IDs) that are being stopped, and when they will be killed at the
    latest. `removed`: the API has the pod no more. `ended`: the kubelet ended it. `terminating_since` is when it was
    first seen that the pod must end. `retired`: its sandbox and volumes have been given back.
    Times are seconds since 1970.
    """

    pod: core_v1.Pod
    observed: Observation
    now: float
    health: Mapping[str, Health] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    stopping: Mapping[str, float] = field(default_factory=dict)
    volumes_ready: bool = True
    removed: bool = False
    ended: End | None = None
    terminating_since: float | None = None
    retired: bool = False

    @property
    def spec(self) -> core_v1.PodSpec:
        assert self.pod.spec is not None
        return self.pod.spec

    @property
    def deleting(self) -> bool:
        """Whether the pod is to disappear: deletion was asked for, or it has happened."""
        return self.removed or self.pod.metadata.deletionTimestamp is not None

    @property
    def end(self) -> End | None:
        """Why the kubelet ended the pod, activeDeadlineSeconds included."""
        if self.ended is not None:
            return self.ended
        if self._was_over:  # what ended before its deadline did not exceed it
            return None
        at = deadline(self.pod)
        if at is not None and self.now >= at:
            return End("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        return None

    @property
    def terminating(self) -> bool:
        """Whether every container must stop and none may start."""
        return self.deleting or self.end is not None or self._was_over

    @property
    def _was_over(self) -> bool:
        return self.pod.status is not None and self.pod.status.phase in TERMINAL

    @property
    def grace(self) -> float:
        """Seconds that the pod's containers may take to stop, all together."""
        found = self.pod.metadata.deletionGracePeriodSeconds if self.deleting else None
        if found is None:
            found = self.spec.terminationGracePeriodSeconds
        return float(DEFAULT_GRACE_SECONDS if found is None else max(0, found))

    def is_sidecar(self, name: str) -> bool:
        """Whether this is an init container that goes on running beside the others."""
        return any(c.name == name and c.restartPolicy == "Always" for c in self.spec.initContainers)


def deadline(pod: core_v1.Pod) -> float | None:
    """When activeDeadlineSeconds is over; None if there is none or the pod has not started."""
    assert pod.spec is not None
    seconds = pod.spec.activeDeadlineSeconds
    started = pod.status.startTime if pod.status is not None else None
    return times.parse(started) + seconds if seconds is not None and started else None
