"""One worker for each pod: look, plan, act, report, and sleep until something happens (Kubernetes: pod workers).

The problem: the steps of a pod take from milliseconds to minutes, and the pod changes meanwhile. A worker that waits
for a pull cannot see that its pod was deleted; two workers for one pod would make two sandboxes.

The answer: the worker itself never waits for a step. Each long step is a task of its own under a key (`SANDBOX`, a
container's name, ...); the worker only keeps track of them. Whatever ends or happens (a step, a runtime event, a
change of the pod, a probe's turn, a timer) wakes it; then it looks at everything again and asks `plan` what to do,
which leaves out what is under way. Wake-ups are joined: ten events while it looks are one more look. A look that was
overtaken by the end of a step is never acted upon, for it would not show what the step has just done.

Nothing here decides anything; see `plan` and `pod_status`.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from agent.kubelet import back_off
from agent.kubelet.back_off import Failure
from agent.kubelet.context import KubeletContext
from agent.kubelet.lifecycle import ContainerLifecycle
from agent.kubelet.observation import Observation, Observer
from agent.kubelet.plan import (
    Action,
    CreateSandbox,
    KillContainer,
    MountVolumes,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Retire,
    StartContainer,
    Teardown,
    plan,
)
from agent.kubelet.pod_status import pod_status
from agent.kubelet.probes import Prober
from agent.kubelet.references import pod_names
from agent.kubelet.situation import SANDBOX, TEARDOWN, VOLUMES, End, Situation
from agent.kubelet.start_error import StartError
from agent.runtime.runtime import ContainerEvent, ContainerRuntimeError, EventType
from kube import objects
from kube.errors import KtoolError
from kube.events import NORMAL, WARNING
from kube.models import core_v1
from kube.status import ApiError

REFRESH_SECONDS = 30.0
RETRY_SECONDS = 5.0
POD_RETRY_CAP_SECONDS = 20.0
# What is expected to go wrong with a step, and is tried again.
EXPECTED = (StartError, ContainerRuntimeError, KtoolError, ApiError, ConnectionError, TimeoutError, OSError)

Step = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


class PodWorker:
    """Brings one pod to where its spec wants it, until it is gone.

    `rejected` says why the node does not take the pod. `known` False: an orphan; the API has no such pod, and `pod`
    was made up from labels.
    """

    def __init__(
        self, context: KubeletContext, pod: core_v1.Pod, *, rejected: End | None = None, known: bool = True
    ) -> None:
        self._context = context
        self._lifecycle = ContainerLifecycle(context)
        self._observer = Observer(context.runtime, objects.uid(pod))
        self._api_pod = pod
        self._status: core_v1.PodStatus | None = pod.status if known else None
        self._merged: tuple[core_v1.Pod, core_v1.PodStatus, core_v1.Pod] | None = None
        self._ended = rejected
        self._removed = not known
        self._wake = asyncio.Event()
        self._stale = True
        self._observed = Observation()
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._stopping: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._failures: dict[str, Failure] = {}
        self._told: dict[str, str] = {}
        self._volumes_ready = False
        self._retired = False
        self._gone = False
        self._terminating_since: float | None = None
        self._backed_off: dict[str | None, None] = {}
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at: float | None = None
        self._refresh_at: float | None = None
        self._prober = Prober(context.handlers, context.clock, unhealthy=self._note_unhealthy, changed=self._wake.set)

    @property
    def uid(self) -> str:
        return objects.uid(self._api_pod)

    @property
    def pod(self) -> core_v1.Pod:
        """The pod with the status that this worker reports."""
        if self._status is None:
            return self._api_pod
        known = self._merged
        if known is None or known[0] is not self._api_pod or known[1] is not self._status:
            merged = copy.copy(self._api_pod)  # shallow: metadata and spec are shared and never changed
            merged.status = self._status
            self._merged = known = (self._api_pod, self._status, merged)
        return known[2]

    @property
    def rejected(self) -> bool:
        """Whether the node did not take the pod, which then holds nothing here."""
        return self._ended is not None

    @property
    def observed(self) -> Observation:
        """What the runtime had at the last look."""
        return self._observed

    def update(self, pod: core_v1.Pod) -> None:
        """The pod has changed in the API."""
        self._api_pod = pod
        self._wake.set()

    def remove(self, last: core_v1.Pod) -> None:
        """The pod is gone from the API: stop it and report nothing more."""
        self._api_pod = last
        self._removed = True
        self._wake.set()

    def runtime_event(self, event: ContainerEvent) -> None:
        """Something happened to the pod's containers or sandbox."""
        if event.type in (EventType.CREATED, EventType.STARTED):
            if self._steps:
                return  # one of our own steps, at whose end we look anyway
        else:
            self._observer.suspect(event.container_id)
        self.runtime_changed()

    def runtime_changed(self) -> None:
        """What the runtime has of the pod may be different now."""
        self._stale = True
        self._wake.set()

    async def run(self) -> None:
        """Work until the pod is gone. A cancelled worker leaves the pod as it is: it will be adopted."""
        while not self._gone:
            try:
                async with asyncio.TaskGroup() as group:
                    await self._loop(group)
            except* Exception as errors:
                # A mistake in the handling of one pod must not end the others: said aloud, and tried again.
                log.error("worker of pod %s failed", objects.key(self._api_pod), exc_info=errors)
                self._steps.clear()
                self._stopping.clear()
                self._alarm, self._alarm_at = None, None
                self._stale = True
            if not self._gone:
                await self._context.clock.sleep(RETRY_SECONDS)

    async def _loop(self, group: asyncio.TaskGroup) -> None:
        try:
            while not self._gone:
                self._wake.clear()
                if await self._look():
                    self._work(group)
                if not self._gone:
                    await self._wake.wait()
        finally:
            self._prober.stop()
            if self._alarm is not None:
                self._alarm.cancel()
            for task in [*self._steps.values(), *(task for task, _ in self._stopping.values())]:
                task.cancel()

    async def _look(self) -> bool:
        """Bring the observation up to date; False when the runtime does not answer."""
        while self._stale:
            self._stale = False
            try:
                self._observed = await self._observer.observe()
            except ContainerRuntimeError as error:
                log.info("pod %s cannot be looked at: %s", objects.key(self._api_pod), error)
                self._stale = True
                # The runtime's events begin anew when it is back and wake us; this is for when they don't.
                self._wake_later(self._context.clock.time() + RETRY_SECONDS)
                return False
        return True

    def _work(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        situation = self._situation()
        if situation.terminating and self._terminating_since is None:
            self._terminating_since = situation.now
        # Retired pods have no address and nothing to probe; their last results stand.
        self._prober.sync(group, situation.pod, self._observed, self._address(situation))
        situation = self._situation()
        if not self._removed:
            self._report(situation)
            situation = self._situation()
        self._carry_out(plan(situation), situation)

    def _situation(self) -> Situation:
        return Situation(
            pod=self.pod,
            observed=self._observed,
            now=self._context.clock.time(),
            health=dict(self._prober.health),
            failures=dict(self._failures),
            busy=frozenset(self._steps),
            stopping={container_id: until for container_id, (_, until) in self._stopping.items()},
            volumes_ready=self._volumes_ready,
            removed=self._removed,
            ended=self._ended,
            terminating_since=self._terminating_since,
            retired=self._retired,
        )

    def _report(self, situation: Situation) -> None:
        if TEARDOWN in self._steps:
            return  # the containers are disappearing: what was reported before was the truth
        written = self._context.statuses.written(self.uid)
        self._status = pod_status(situation, self._context.host, written=written)
        self._context.statuses.set(self.uid, self._status)
        self._note_back_offs(self._status)

    def _carry_out(self, what: Plan, situation: Situation) -> None:
        for key in what.cancel:
            if not self._steps[key].cancelling():
                self._steps[key].cancel()
        for action in what.actions:
            log.debug("pod %s: %s", objects.key(self._api_pod), action)
            self._begin(action, situation)
        if situation.terminating:
            self._refresh_at = None
        elif self._refresh_at is not None and situation.now >= self._refresh_at:
            self._refresh_at = None  # set again at the step's end
            self._step(VOLUMES, partial(self._refresh, situation.pod))
        wakes = [at for at in (what.wake_at, self._refresh_at) if at is not None]
        self._wake_later(min(wakes, default=None))

    def _begin(self, action: Action, situation: Situation) -> None:
        pod = situation.pod
        match action:
            case MountVolumes():
                self._step(VOLUMES, partial(self._mount, pod))
            case CreateSandbox():
                self._step(SANDBOX, partial(self._create_sandbox, pod, action))
            case StartContainer():
                self._step(action.name, partial(self._start, pod, action))
            case KillContainer():
                self._stop(pod, action, self._address(situation))
            case RemoveContainer():
                self._step(f"/remove-{action.id}", partial(self._context.runtime.remove_container, action.id))
            case RemoveSandbox():
                self._step(f"/remove-{action.id}", partial(self._context.runtime.remove_sandbox, action.id))
            case Retire():
                self._step(TEARDOWN, partial(self._retire, action))
            case Teardown():
                self._step(TEARDOWN, partial(self._tear_down, action))

    # --- steps

    def _step(self, key: str, work: Step) -> None:
        """Run a step under a key; its end wakes the worker, its failure is remembered under the key."""
        if key in self._steps:
            return
        task = self._group.create_task(self._guarded(key, work), name=f"{objects.key(self._api_pod)}:{key}")
        self._steps[key] = task
        task.add_done_callback(lambda _: self._ended_step(key))

    def _ended_step(self, key: str) -> None:
        self._steps.pop(key, None)
        self.runtime_changed()

    async def _guarded(self, key: str, work: Step) -> None:
        try:
            await work()
        except EXPECTED as error:
            self._failures[key] = self._failure(key, error)
        else:
            self._failures.pop(key, None)
            self._told.pop(key, None)

    def _failure(self, key: str, error: Exception) -> Failure:
        now = self._context.clock.time()
        before = self._failures.get(key)
        last = before.seconds if before is not None else 0.0
        seconds = back_off.doubled(last)
        self._tell(key, error)
        if isinstance(error, StartError):
            waiting = error.waiting
            return Failure(
                error.reason,
                error.message,
                at=now,
                retry_at=now + (seconds if error.retry_seconds is None else error.retry_seconds),
                seconds=seconds,
                waiting_reason=waiting.reason if waiting is not None else "",
                waiting_message=waiting.message if waiting is not None else "",
            )
        reason = {
            VOLUMES: "FailedMount",
            SANDBOX: "FailedCreatePodSandBox",
            TEARDOWN: "FailedKillPod",
        }.get(key, "CreateContainerError")
        if key in (VOLUMES, SANDBOX, TEARDOWN):
            self._note(WARNING, reason, str(error))
            # Short, for the pod as a whole waits: the runtime or a ConfigMap may be there in a moment.
            seconds = min(POD_RETRY_CAP_SECONDS, max(1.0, 2 * last))
        return Failure(reason, str(error), at=now, retry_at=now + seconds, seconds=seconds)

    def _tell(self, key: str, error: Exception) -> None:
        """Log a failure once: what is tried again for days must not fill the log with one sentence."""
        pulls = isinstance(error, StartError) and error.reason == "ImagePullBackOff"  # its ErrImagePull was logged
        known = pulls or self._told.get(key) == str(error)
        log.log(logging.DEBUG if known else logging.INFO, "pod %s: %s: %s", objects.key(self._api_pod), key, error)
        if not pulls:
            self._told[key] = str(error)

    async def _mount(self, pod: core_v1.Pod) -> None:
        self._context.references.expire(objects.namespace(pod), pod_names(pod))
        await self._context.volumes.mount(pod)
        self._volumes_ready = True
        if _has_watched_volumes(pod):
            self._refresh_at = self._context.clock.time() + REFRESH_SECONDS

    async def _refresh(self, pod: core_v1.Pod) -> None:
        try:
            await self._context.volumes.refresh(pod)
            excess = await self._context.volumes.over_limit(pod)
        finally:
            self._refresh_at = self._context.clock.time() + REFRESH_SECONDS
        if excess and self._ended is None:
            self._ended = End("Evicted", excess)
            self._note(WARNING, "Evicted", excess)

    async def _create_sandbox(self, pod: core_v1.Pod, action: CreateSandbox) -> None:
        if action.changed:
            self._note(NORMAL, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        await self._context.runtime.run_sandbox(self._lifecycle.sandbox_config(pod, action.attempt))

    async def _start(self, pod: core_v1.Pod, action: StartContainer) -> None:
        assert pod.spec is not None
        spec = next(c for c in [*pod.spec.initContainers, *pod.spec.containers] if c.name == action.name)
        sandbox = self._observed.sandbox
        if sandbox is None:
            return
        await self._lifecycle.start(pod, spec, action, sandbox)

    def _stop(self, pod: core_v1.Pod, action: KillContainer, address: str) -> None:
        """Stop a container beside whatever else is done; a shorter grace period takes the place of a longer one."""
        assert pod.spec is not None
        spec = next((c for c in [*pod.spec.initContainers, *pod.spec.containers] if c.name == action.name), None)
        running = self._stopping.pop(action.id, None)
        if running is not None:
            running[0].cancel()
        key = f"/stop-{action.id}"
        task = self._group.create_task(
            self._guarded(key, partial(self._lifecycle.stop, pod, spec, action, address)),
            name=f"{objects.key(pod)}:{key}",
        )
        self._stopping[action.id] = (task, self._context.clock.time() + action.grace)
        task.add_done_callback(lambda done: self._ended_stop(action.id, done))

    def _ended_stop(self, container_id: str, task: asyncio.Task[None]) -> None:
        known = self._stopping.get(container_id)
        if known is None or known[0] is not task:
            return
        del self._stopping[container_id]
        if f"/stop-{container_id}" in self._failures:
            # Not at once again: the runtime refuses for a reason. The timer wakes us.
            self._stale = True
            self._wake_later(self._context.clock.time() + RETRY_SECONDS)
        else:
            self.runtime_changed()

    async def _retire(self, action: Retire) -> None:
        for sandbox_id in action.sandboxes:
            await self._context.runtime.stop_sandbox(sandbox_id)
        await self._context.volumes.unmount(self.uid)
        self._volumes_ready, self._retired, self._refresh_at = False, True, None

    async def _tear_down(self, action: Teardown) -> None:
        """Remove everything the pod had, then its object. The last status was taken while the containers were there."""
        context = self._context
        for sandbox_id in action.sandboxes:
            await context.runtime.stop_sandbox(sandbox_id)
        await context.volumes.unmount(self.uid)
        for sandbox_id in action.sandboxes:
            await context.runtime.remove_sandbox(sandbox_id)
        for container in self._observed.containers:
            await context.runtime.remove_container(container.id)
        await self._lifecycle.clean(self.uid)
        context.images.forget(self.uid)
        if not self._removed:
            await context.statuses.finish(self.uid, self._status)
        self._gone = True

    # --- small things

    def _address(self, situation: Situation) -> str:
        """The pod's IP, as probes and hooks reach it."""
        if situation.spec.hostNetwork:
            return next(iter(self._context.host.addresses), "")
        return self._observed.sandbox.ip if self._observed.sandbox is not None else ""

    def _wake_later(self, at: float | None) -> None:
        """Set the alarm clock to one moment (None: to no moment)."""
        if at == self._alarm_at and self._alarm is not None and not self._alarm.done():
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = None, at
        if at is not None:
            self._alarm = asyncio.get_running_loop().create_task(self._ring(at - self._context.clock.time()))

    async def _ring(self, seconds: float) -> None:
        await self._context.clock.sleep(seconds)
        self._wake.set()

    def _note_unhealthy(self, container: str, message: str) -> None:
        pod = self._api_pod
        spec = next((c for c in (pod.spec.containers if pod.spec else []) if c.name == container), None)
        self._note(WARNING, "Unhealthy", message, spec=spec)

    def _note_back_offs(self, status: core_v1.PodStatus) -> None:
        """One event for each container that has begun to wait in a crash loop."""
        for container in [*status.initContainerStatuses, *status.containerStatuses]:
            waiting = container.state.waiting if container.state is not None else None
            if waiting is None or waiting.reason != "CrashLoopBackOff" or container.containerID in self._backed_off:
                continue
            self._backed_off[container.containerID] = None
            pod = f"{self._api_pod.metadata.name}_{self._api_pod.metadata.namespace}({self.uid})"
            message = f"Back-off restarting failed container {container.name} in pod {pod}"
            path = f"spec.containers{{{container.name}}}"
            self._context.recorder.event(self._api_pod, WARNING, "BackOff", message, field_path=path)
        while len(self._backed_off) > 2 * len(status.containerStatuses) + 2:
            self._backed_off.pop(next(iter(self._backed_off)))

    def _note(self, type_: str, reason: str, message: str, *, spec: core_v1.Container | None = None) -> None:
        path = f"spec.containers{{{spec.name}}}" if spec is not None else ""
        self._context.recorder.event(self._api_pod, type_, reason, message, field_path=path)


def _has_watched_volumes(pod: core_v1.Pod) -> bool:
    """Whether some volume must be looked at again: it follows changes in the API, or may grow beyond its limit."""
    assert pod.spec is not None
    return any(
        v.configMap or v.secret or v.projected or v.downwardAPI or (v.emptyDir and v.emptyDir.sizeLimit)
        for v in pod.spec.volumes
    )
