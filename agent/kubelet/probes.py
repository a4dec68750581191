"""Probes: whether a container has started, is ready, and is alive (Kubernetes: "Configure Liveness, Readiness...").

The thresholds are pure (`count`); around them is one task for each probe of each running container, which sleeps
most of its life. A container that has just started is asked about its readiness more often than its period says, so
that it gets traffic when it can take it and not a period later (Kubernetes allows this and does it too).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from agent.kubelet.handlers import Handlers, Target
from agent.kubelet.observation import Observation
from agent.kubelet.situation import Health
from agent.runtime.runtime import ContainerState, ContainerStatus
from kube.clock import Clock
from kube.models import core_v1

STARTUP = "Startup"
READINESS = "Readiness"
LIVENESS = "Liveness"

PERIOD_SECONDS = 10
TIMEOUT_SECONDS = 1
FAILURE_THRESHOLD = 3
SUCCESS_THRESHOLD = 1
# The first waits between readiness probes of a new container, as long as they are shorter than its period.
WARM_UP_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

log = logging.getLogger(__name__)


class Tally(Struct, frozen=True):
    """What a probe's answers amount to so far. `result` None: the thresholds have not been reached yet."""

    result: bool | None = None
    last: bool | None = None
    streak: int = 0


def count(tally: Tally, ok: bool, probe: core_v1.Probe) -> Tally:
    """Take in one answer: the result turns when the threshold of equal answers in a row is reached."""
    streak = tally.streak + 1 if tally.last is ok else 1
    threshold = probe.successThreshold or SUCCESS_THRESHOLD if ok else probe.failureThreshold or FAILURE_THRESHOLD
    return Tally(ok if streak >= threshold else tally.result, ok, streak)


Unhealthy = Callable[[str, str], None]


class Prober:
    """Probes the containers of one pod.

    `unhealthy(container name, message)` is told of each failed answer, `changed()` of each turn of a result.
    """

    def __init__(self, handlers: Handlers, clock: Clock, *, unhealthy: Unhealthy, changed: Callable[[], None]) -> None:
        self._handlers = handlers
        self._clock = clock
        self._unhealthy = unhealthy
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._health: dict[str, Health] = {}

    @property
    def health(self) -> Mapping[str, Health]:
        """What is known of each running container, by ID."""
        return self._health

    def sync(
        self,
        group: asyncio.TaskGroup,
        pod: core_v1.Pod,
        observed: Observation,
        address: str,
    ) -> None:
        """Probe what runs now, and nothing else. New tasks are put into `group`; `address` is the pod's IP."""
        assert pod.spec is not None
        specs = {c.name: c for c in pod.spec.containers}
        specs |= {c.name: c for c in pod.spec.initContainers if c.restartPolicy == "Always"}
        running = {c.id: c for c in observed.containers if c.state is ContainerState.RUNNING}
        for container_id in [known for known in self._health if known not in running]:
            del self._health[container_id]
            task = self._tasks.pop(container_id, None)
            if task is not None:
                task.cancel()
        for container in running.values():
            spec = specs.get(container.name)
            if container.id in self._health or (spec is not None and _has_probes(spec) and not address):
                continue
            if spec is None or not _has_probes(spec):
                self._health[container.id] = Health()
                continue
            adopted = _reported(pod.status, container)
            self._health[container.id] = _first_health(spec, adopted)
            self._tasks[container.id] = group.create_task(
                self._probe(container, Target(container.id, spec, address), adopted=adopted is not None),
                name=f"probe-{container.name}-{container.id[:12]}",
            )

    def stop(self) -> None:
        """End all probes."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._health.clear()

    async def _probe(self, container: ContainerStatus, target: Target, *, adopted: bool) -> None:
        spec = target.spec
        if spec.startupProbe is not None and not self._health[container.id].started:
            await self._run(STARTUP, spec.startupProbe, container, target, adopted=adopted)
            if self._health[container.id].unhealthy:
                return
        async with asyncio.TaskGroup() as group:
            for kind, probe in ((READINESS, spec.readinessProbe), (LIVENESS, spec.livenessProbe)):
                if probe is not None:
                    group.create_task(self._run(kind, probe, container, target, adopted=adopted))

    async def _run(
        self, kind: str, probe: core_v1.Probe, container: ContainerStatus, target: Target, *, adopted: bool
    ) -> None:
        period = float(probe.periodSeconds or PERIOD_SECONDS)
        started = container.started_at.timestamp() if container.started_at else self._clock.time()
        initial = float(probe.initialDelaySeconds or 0)
        delay = min(initial, started + initial - self._clock.time())  # the clock may have been set back
        # After the agent's restart the probes of all adopted containers must not run at once.
        await self._clock.sleep(random.uniform(0, period) if adopted and delay <= 0 else delay)  # noqa: S311
        warm_up = [s for s in WARM_UP_SECONDS if s < period] if kind == READINESS and not adopted else []
        tally = Tally()
        while True:
            timeout = float(probe.timeoutSeconds or TIMEOUT_SECONDS)
            outcome = await self._handlers.run(probe, target, timeout=timeout)
            if outcome.ok is not None:
                tally = count(tally, outcome.ok, probe)
                if not outcome.ok and not warm_up:
                    self._unhealthy(target.spec.name or "", f"{kind} probe failed: {outcome.message}")
                if tally.result is not None and self._take(kind, probe, container, tally.result):
                    return
                if tally.result:
                    warm_up = []
            else:
                log.debug("%s probe of %s: %s", kind, container.name, outcome.message)
            await self._clock.sleep(warm_up.pop(0) if warm_up else period)

    def _take(self, kind: str, probe: core_v1.Probe, container: ContainerStatus, result: bool) -> bool:
        """Take in a result; whether this probe has nothing more to find out."""
        old = self._health.get(container.id)
        if old is None:
            return True
        new = old
        if kind == READINESS:
            new = replace(old, ready=result)
        elif kind == STARTUP and result:
            new = replace(old, started=True)
        elif not result:
            grace = probe.terminationGracePeriodSeconds
            new = replace(
                old,
                unhealthy=f"Container {container.name} failed {kind.lower()} probe, will be restarted",
                grace=None if grace is None else float(grace),
            )
        if new != old:
            self._health[container.id] = new
            self._changed()
        return kind == STARTUP or (kind == LIVENESS and not result)


def _has_probes(spec: core_v1.Container) -> bool:
    return any((spec.startupProbe, spec.readinessProbe, spec.livenessProbe))


def _reported(status: core_v1.PodStatus | None, container: ContainerStatus) -> core_v1.ContainerStatus | None:
    """What was last reported of this very container, before the agent started again."""
    if status is None:
        return None
    known: Iterable[core_v1.ContainerStatus] = [*status.containerStatuses, *status.initContainerStatuses]
    return next((c for c in known if (c.containerID or "").endswith(f"//{container.id}")), None)


def _first_health(spec: core_v1.Container, adopted: core_v1.ContainerStatus | None) -> Health:
    """Before the first answer: not started and not ready where a probe is to tell, or as it was before a restart."""
    if adopted is not None:
        return Health(
            started=spec.startupProbe is None or bool(adopted.started),
            ready=spec.readinessProbe is None or bool(adopted.ready),
        )
    return Health(started=spec.startupProbe is None, ready=spec.readinessProbe is None)
