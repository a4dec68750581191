"""What to do next for one pod: a pure function from what is known to a list of actions (Kubernetes: computePodActions).

The problem: a pod is wanted in one state, the runtime has it in another, and between the two lie steps that take
long, fail, and are overtaken by events: containers end, probes fail, the pod is deleted while its image is pulled,
the agent is killed in the middle of anything.

The answer: nothing is a procedure. `plan` looks at all that is known and names the steps that can be taken now; the
pod worker takes them, looks again and asks again. Steps that are under way are in `busy` and `stopping` and are not
named twice. Where nothing can be done before some moment, the plan says when to ask again (`wake_at`). So being
killed, or doing a step twice, is no special case, and each decision is a row in a table test.

What would go wrong otherwise: a procedure ("create, pull, start, wait") that is interrupted leaves a state that no
line of it expects.
"""

from __future__ import annotations

from msgspec import Struct

from agent.kubelet import back_off, phase
from agent.kubelet.observation import IMAGE, is_alive
from agent.kubelet.situation import SANDBOX, TEARDOWN, TERMINAL, VOLUMES, Situation, deadline
from agent.runtime.runtime import ContainerState, ContainerStatus, SandboxState
from kube.models import core_v1

# Attempts of a container that are kept: the present one and the one before, for its logs and its last state.
KEPT_ATTEMPTS = 2
MIN_SIDECAR_GRACE = 2.0


class MountVolumes(Struct, frozen=True):
    """Make the pod's volumes ready."""


class CreateSandbox(Struct, frozen=True):
    """Make a sandbox; `changed` if there was one before, which died."""

    attempt: int
    changed: bool


class StartContainer(Struct, frozen=True):
    """Pull, create and start a container.

    `back_off` is what must be waited after it ends (seconds); `replace` is a container that was created and never
    started, to be removed first.
    """

    name: str
    attempt: int
    back_off: float
    replace: str = ""


class KillContainer(Struct, frozen=True):
    """Stop a container: preStop hook, stop signal, and SIGKILL after `grace` seconds in all."""

    id: str
    name: str
    message: str
    grace: float


class RemoveContainer(Struct, frozen=True):
    """Remove an old, ended attempt."""

    id: str


class RemoveSandbox(Struct, frozen=True):
    """Remove an old sandbox in which nothing is left."""

    id: str


class Retire(Struct, frozen=True):
    """The pod has ended and its object stays: give back its network and volumes, keep the containers for their logs."""

    sandboxes: tuple[str, ...]


class Teardown(Struct, frozen=True):
    """Nothing runs and the pod is to disappear: remove all that is left of it, then its object."""

    sandboxes: tuple[str, ...]


Action = (
    MountVolumes | CreateSandbox | StartContainer | KillContainer | RemoveContainer | RemoveSandbox | Retire | Teardown
)


class Plan(Struct, frozen=True):
    """What to do now, what to give up (keys of `Situation.busy`), and when to ask again at the latest."""

    actions: tuple[Action, ...] = ()
    cancel: frozenset[str] = frozenset()
    wake_at: float | None = None


class _Draft:
    """A plan in the making."""

    def __init__(self, s: Situation) -> None:
        self.s = s
        self.actions: list[Action] = []
        self.wakes: list[float] = []
        # One container starts at a time, in order: a postStart hook may rely on that.
        names = {c.name for c in [*s.spec.initContainers, *s.spec.containers]}
        self.starting = bool(names & s.busy)

    def add(self, action: Action) -> None:
        self.actions.append(action)

    def wake(self, at: float) -> None:
        self.wakes.append(at)

    def blocked(self, key: str) -> bool:
        """Whether what failed under this key must not be tried yet."""
        failure = self.s.failures.get(key)
        if failure is None or failure.due(self.s.now):
            return False
        shown = failure.at + back_off.SHOW_SECONDS
        self.wake(min(failure.retry_at, shown) if self.s.now < shown else failure.retry_at)
        return True

    def kill(self, container: ContainerStatus, message: str, grace: float) -> None:
        """Stop a container, unless that is under way and not slower than `grace`."""
        until = self.s.stopping.get(container.id)
        if until is None or until > self.s.now + grace + 1.0:
            self.add(KillContainer(container.id, container.name, message, grace))

    def done(self, cancel: frozenset[str] = frozenset()) -> Plan:
        return Plan(tuple(self.actions), cancel, min(self.wakes, default=None))


def plan(s: Situation) -> Plan:
    """The steps that can be taken now."""
    draft = _Draft(s)
    if s.terminating or phase.phase(s) in TERMINAL:
        return _terminate(s, draft)
    at = deadline(s.pod)
    if at is not None:
        draft.wake(at)
    _stop_unwanted(s, draft)
    if not s.volumes_ready:
        if VOLUMES not in s.busy and not draft.blocked(VOLUMES):
            draft.add(MountVolumes())
    elif s.observed.sandbox is None:
        _create_sandbox(s, draft)
    elif _initialize(s, draft):
        for container in s.spec.containers:
            _keep(s, draft, container, s.spec.restartPolicy)
    _collect(s, draft)
    return draft.done()


def _terminate(s: Situation, draft: _Draft) -> Plan:
    """Stop what runs, in order; then give back what the pod had."""
    since = s.now if s.terminating_since is None else s.terminating_since
    # Not more than all of it: the clock may have been set back.
    left = min(s.grace, max(0.0, since + s.grace - s.now))
    alive = s.observed.alive
    sidecars = [c.name for c in s.spec.initContainers if c.restartPolicy == "Always"]
    first = [c for c in alive if c.name not in sidecars]
    for container in first:
        draft.kill(container, f"Stopping container {container.name}", left)
    if not first and alive:
        # Sidecars serve the others to the end, and stop in the reverse order of their start.
        last = max(alive, key=lambda c: sidecars.index(c.name))
        draft.kill(last, f"Stopping container {last.name}", max(left, min(s.grace, MIN_SIDECAR_GRACE)))
    unfinished = s.busy - {TEARDOWN}
    if alive or unfinished or TEARDOWN in s.busy:
        return draft.done(cancel=unfinished)
    return _give_back(s, draft)


def _give_back(s: Situation, draft: _Draft) -> Plan:
    if not draft.blocked(TEARDOWN):
        if s.deleting:
            draft.add(Teardown(tuple(sandbox.id for sandbox in s.observed.sandboxes)))
        elif not s.retired:
            ready = [sandbox.id for sandbox in s.observed.sandboxes if sandbox.state is SandboxState.READY]
            draft.add(Retire(tuple(ready)))
    return draft.done()


def _stop_unwanted(s: Situation, draft: _Draft) -> None:
    """Stop what runs and should not: outside the sandbox, unhealthy, of another image, of an unknown state."""
    sandbox = s.observed.sandbox
    specs = {c.name: c for c in [*s.spec.initContainers, *s.spec.containers]}
    for container in s.observed.alive:
        spec = specs.get(container.name)
        health = s.health.get(container.id)
        if spec is None:
            draft.kill(container, f"Stopping container {container.name}", s.grace)
        elif sandbox is None or container.sandbox_id != sandbox.id:
            draft.kill(container, "Pod sandbox changed, it will be killed and re-created", s.grace)
        elif container.state is ContainerState.UNKNOWN:
            draft.kill(container, f"Container {container.name} is in an unknown state, it will be restarted", s.grace)
        elif container.annotations.get(IMAGE, spec.image) != spec.image:
            draft.kill(container, f"Container {container.name} definition changed, it will be restarted", s.grace)
        elif health is not None and health.unhealthy:
            draft.kill(container, health.unhealthy, s.grace if health.grace is None else health.grace)


def _create_sandbox(s: Situation, draft: _Draft) -> None:
    if s.observed.alive or SANDBOX in s.busy or draft.starting:
        return
    if not draft.blocked(SANDBOX):
        attempt = max((sandbox.attempt for sandbox in s.observed.sandboxes), default=-1) + 1
        draft.add(CreateSandbox(attempt, changed=bool(s.observed.sandboxes)))


def _initialize(s: Situation, draft: _Draft) -> bool:
    """Take the next step of initialization; whether it is over."""
    waiting = phase.unfinished_init(s)
    for container in s.spec.initContainers:
        sidecar = container.restartPolicy == "Always"
        if container.name in waiting[:1]:
            _keep(s, draft, container, "Always" if sidecar else phase.init_policy(s.spec), fresh=True)
            return False
        if sidecar:
            _keep(s, draft, container, "Always")
    return True


def _keep(s: Situation, draft: _Draft, spec: core_v1.Container, policy: str | None, *, fresh: bool = False) -> None:
    """Start a container that should run and does not; `fresh`: one from another sandbox does not count as ended."""
    name = spec.name or ""
    latest = s.observed.latest(name)
    if name in s.busy or (latest is not None and is_alive(latest)):
        return
    replace = ""
    attempt = _lost_attempts(s, name) if latest is None else latest.attempt + 1
    ended: ContainerStatus | None = latest
    if latest is not None and latest.state is ContainerState.CREATED:
        # The agent went away between creating and starting it.
        replace, attempt = latest.id, latest.attempt
        ended = next((c for c in s.observed.attempts(name) if c.state is ContainerState.EXITED), None)
    elif latest is not None:
        other_sandbox = fresh and phase.in_sandbox(s.observed, name) is None
        if not other_sandbox and not phase.should_restart(policy, latest):
            return
        due = back_off.restart_at(latest, now=s.now)
        if s.now < due:
            draft.wake(due)
            return
    if draft.blocked(name) or draft.starting:
        return
    draft.add(StartContainer(name, attempt, back_off.next_seconds(ended), replace))
    draft.starting = True


def _lost_attempts(s: Situation, name: str) -> int:
    """How often a container ran that the runtime no longer has: somebody removed it, or the engine lost its data."""
    status = s.pod.status or core_v1.PodStatus()
    known = next((c for c in [*status.initContainerStatuses, *status.containerStatuses] if c.name == name), None)
    return (known.restartCount or 0) + 1 if known is not None and known.containerID else 0


def _collect(s: Situation, draft: _Draft) -> None:
    """Remove what nobody will look at again: old attempts, and sandboxes without containers."""
    kept = set()
    for name in {c.name for c in s.observed.containers}:
        for position, container in enumerate(s.observed.attempts(name)):
            if position < KEPT_ATTEMPTS or container.state is not ContainerState.EXITED:
                kept.add(container.sandbox_id)
            else:
                draft.add(RemoveContainer(container.id))
    newest = phase.current_sandbox(s.observed)
    for sandbox in s.observed.sandboxes:
        if sandbox.id not in kept and sandbox.id != newest and SANDBOX not in s.busy:
            draft.add(RemoveSandbox(sandbox.id))
