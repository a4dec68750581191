"""What to do next, as a table: situation → actions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.kubelet.back_off import Failure
from agent.kubelet.observation import IMAGE, Observation
from agent.kubelet.plan import (
    Action,
    CreateSandbox,
    KillContainer,
    MountVolumes,
    RemoveContainer,
    RemoveSandbox,
    Retire,
    StartContainer,
    Teardown,
    plan,
)
from agent.kubelet.situation import SANDBOX, TEARDOWN, VOLUMES, End, Health, Situation
from agent.runtime.runtime import ContainerState
from kube import objects
from kube.models import core_v1
from tests.agent.kubelet.build import NOW, created, deleting, exited, pod, running, sandbox, situation


def failure(retry: float, reason: str = "ErrImagePull") -> Failure:
    return Failure(reason, "no", at=NOW - 30, retry_at=NOW + retry)


def with_status(pod_: core_v1.Pod, **status: Any) -> core_v1.Pod:
    found = objects.copy(pod_)
    found.status = objects.from_dict(status, core_v1.PodStatus)
    return found


def kill(name: str, attempt: int = 0, *, message: str = "", grace: float = 30) -> KillContainer:
    return KillContainer(f"{name}-{attempt}", name, message or f"Stopping container {name}", grace)


CASES: dict[str, tuple[Situation, list[Action]]] = {
    # --- coming up
    "volumes come first": (situation(pod(), sandboxes=(), volumes_ready=False), [MountVolumes()]),
    "volumes are being mounted": (
        situation(pod(), sandboxes=(), volumes_ready=False, busy=frozenset({VOLUMES})),
        [],
    ),
    "volumes failed a moment ago": (
        situation(pod(), sandboxes=(), volumes_ready=False, failures={VOLUMES: failure(5)}),
        [],
    ),
    "volumes failed long ago": (
        situation(pod(), sandboxes=(), volumes_ready=False, failures={VOLUMES: failure(-1)}),
        [MountVolumes()],
    ),
    "then the sandbox": (situation(pod(), sandboxes=()), [CreateSandbox(0, changed=False)]),
    "the sandbox is being made": (situation(pod(), sandboxes=(), busy=frozenset({SANDBOX})), []),
    "then the container": (situation(pod()), [StartContainer("web", 0, 0.0)]),
    "one container at a time": (situation(pod("a", "b")), [StartContainer("a", 0, 0.0)]),
    "the second waits for the first": (situation(pod("a", "b"), busy=frozenset({"a"})), []),
    "the second after the first": (situation(pod("a", "b"), running("a")), [StartContainer("b", 0, 0.0)]),
    "a failing first does not hold up the second": (
        situation(pod("a", "b"), failures={"a": failure(5)}),
        [StartContainer("b", 0, 0.0)],
    ),
    "everything runs": (situation(pod("a", "b"), running("a"), running("b")), []),
    "created and never started": (situation(pod(), created()), [StartContainer("web", 0, 0.0, replace="web-0")]),
    "created and never started, again": (
        situation(pod(), exited(back_off=10, ago=60), created(attempt=1)),
        [StartContainer("web", 1, 20.0, replace="web-1")],
    ),
    "being started": (situation(pod(), created(), busy=frozenset({"web"})), []),
    # --- restarts
    "first restart at once": (situation(pod(), exited()), [StartContainer("web", 1, 10.0)]),
    "also after success, with Always": (situation(pod(), exited(code=0)), [StartContainer("web", 1, 10.0)]),
    "second restart waits": (situation(pod(), exited(attempt=1, back_off=10, ago=9)), []),
    "second restart": (situation(pod(), exited(attempt=1, back_off=10, ago=10)), [StartContainer("web", 2, 20.0)]),
    "the back-off ends at five minutes": (
        situation(pod(), exited(attempt=7, back_off=300, ago=301)),
        [StartContainer("web", 8, 300.0)],
    ),
    "a long run is no crash loop": (
        situation(pod(), exited(attempt=7, back_off=300, ran=600, ago=1)),
        [StartContainer("web", 8, 10.0)],
    ),
    "OnFailure restarts a failure": (situation(pod(policy="OnFailure"), exited()), [StartContainer("web", 1, 10.0)]),
    "OnFailure lets success be": (
        situation(pod("web", "b", policy="OnFailure"), exited(code=0), running("b")),
        [],
    ),
    "Never lets failure be": (situation(pod("web", "b", policy="Never"), exited(), running("b")), []),
    "unhealthy": (
        situation(pod(), running(), health={"web-0": Health(unhealthy="failed liveness probe")}),
        [kill("web", message="failed liveness probe")],
    ),
    "unhealthy, with a grace period of the probe": (
        situation(pod(), running(), health={"web-0": Health(unhealthy="failed liveness probe", grace=3)}),
        [kill("web", message="failed liveness probe", grace=3)],
    ),
    "unhealthy and being stopped": (
        situation(
            pod(),
            running(),
            health={"web-0": Health(unhealthy="failed liveness probe")},
            stopping={"web-0": NOW + 20},
        ),
        [],
    ),
    # --- the sandbox dies
    "what ran in a dead sandbox is stopped": (
        situation(pod(), running(), sandboxes=(sandbox(ready=False),)),
        [kill("web", message="Pod sandbox changed, it will be killed and re-created")],
    ),
    "a dead sandbox is replaced": (
        situation(pod(), exited(), sandboxes=(sandbox(ready=False),)),
        [CreateSandbox(1, changed=True)],
    ),
    "a container of a former sandbox starts anew": (
        situation(pod(), exited(ago=50), sandboxes=(sandbox(1), sandbox(ready=False))),
        [StartContainer("web", 1, 10.0)],
    ),
    "an old sandbox with nothing left is removed": (
        situation(pod(), running(sandbox="s1", attempt=1), sandboxes=(sandbox(1), sandbox(ready=False))),
        [RemoveSandbox("s0")],
    ),
    "old attempts are removed": (
        situation(pod(), exited(), exited(attempt=1), running(attempt=2)),
        [RemoveContainer("web-0")],
    ),
    # --- initialization
    "the first init container": (situation(pod(init=("i1", "i2"))), [StartContainer("i1", 0, 0.0)]),
    "it runs": (situation(pod(init=("i1", "i2")), running("i1")), []),
    "the second init container": (
        situation(pod(init=("i1", "i2")), exited("i1", code=0)),
        [StartContainer("i2", 0, 0.0)],
    ),
    "init containers are done": (
        situation(pod(init=("i1", "i2")), exited("i1", code=0), exited("i2", code=0)),
        [StartContainer("web", 0, 0.0)],
    ),
    "a failed init container is tried again": (
        situation(pod(init=("i1",)), exited("i1")),
        [StartContainer("i1", 1, 10.0)],
    ),
    "but not under Never: the pod has failed": (
        situation(pod(init=("i1",), policy="Never"), exited("i1")),
        [Retire(("s0",))],
    ),
    "no initialization while the pod runs": (
        situation(pod(init=("i1",)), exited("web", ago=20)),
        [StartContainer("web", 1, 10.0)],
    ),
    "a new sandbox is initialized anew": (
        situation(
            pod(init=("i1",)),
            exited("i1", code=0, ago=50),
            exited(ago=40),
            sandboxes=(sandbox(1), sandbox(ready=False)),
        ),
        [StartContainer("i1", 1, 10.0)],
    ),
    "a sidecar starts first": (situation(pod(init=("log+",))), [StartContainer("log", 0, 0.0)]),
    "others wait until the sidecar has started": (
        situation(pod(init=("log+",)), running("log"), health={"log-0": Health(started=False)}),
        [],
    ),
    "then they start": (situation(pod(init=("log+",)), running("log")), [StartContainer("web", 0, 0.0)]),
    "a sidecar that died is started again": (
        situation(pod(init=("log+",)), exited("log", code=0, ago=30), running()),
        [StartContainer("log", 1, 10.0)],
    ),
    "a sidecar is started again under Never, too": (
        situation(pod(init=("log+",), policy="Never"), exited("log", ago=30), running()),
        [StartContainer("log", 1, 10.0)],
    ),
    # --- the end
    "all succeeded": (situation(pod(policy="Never"), exited(code=0)), [Retire(("s0",))]),
    "all succeeded, sidecars run": (
        situation(pod(init=("log+",), policy="Never"), running("log"), exited(code=0)),
        [kill("log")],
    ),
    "retired": (situation(pod(policy="Never"), exited(code=0), retired=True), []),
    "the deadline is over": (
        situation(
            with_status(pod(activeDeadlineSeconds=60), startTime="2025-06-15T15:05:00Z", phase="Running"), running()
        ),
        [kill("web")],
    ),
    "rejected": (situation(pod(), sandboxes=(), ended=End("OutOfcpu", "no")), [Retire(())]),
    "it failed before the agent started": (
        situation(with_status(pod(), phase="Failed"), sandboxes=()),
        [Retire(())],
    ),
    "deleted": (situation(deleting(pod("a", "b")), running("a"), running("b")), [kill("a"), kill("b")]),
    "deleted with a grace period": (situation(deleting(pod(), grace=5), running()), [kill("web", grace=5)]),
    "deleted a while ago": (
        situation(deleting(pod()), running(), terminating_since=NOW - 10),
        [kill("web", grace=20)],
    ),
    "deleted and being stopped": (situation(deleting(pod()), running(), stopping={"web-0": NOW + 30}), []),
    "deleted again, faster": (
        situation(deleting(pod(), grace=2), running(), stopping={"web-0": NOW + 30}, terminating_since=NOW),
        [kill("web", grace=2)],
    ),
    "deleted: sidecars stay for the others": (
        situation(deleting(pod(init=("x+", "y+"))), running("x"), running("y"), running()),
        [kill("web")],
    ),
    "deleted: then sidecars, the last first": (
        situation(deleting(pod(init=("x+", "y+"))), running("x"), running("y"), exited()),
        [kill("y")],
    ),
    "deleted: a sidecar gets a moment even when the time is over": (
        situation(deleting(pod(init=("x+",))), running("x"), exited(), terminating_since=NOW - 40),
        [kill("x", grace=2)],
    ),
    "deleted and nothing runs": (situation(deleting(pod()), exited()), [Teardown(("s0",))]),
    "deleted before anything was made": (situation(deleting(pod()), sandboxes=()), [Teardown(())]),
    "deleted and being torn down": (situation(deleting(pod()), exited(), busy=frozenset({TEARDOWN})), []),
    "deleted, and the runtime resists": (
        situation(deleting(pod()), exited(), failures={TEARDOWN: failure(3)}),
        [],
    ),
    "gone from the API": (situation(pod(), running(), removed=True), [kill("web")]),
    "gone from the API, nothing runs": (situation(pod(), exited(), removed=True), [Teardown(("s0",))]),
    "no restart while deleted": (situation(deleting(pod("a", "b")), exited("a"), running("b")), [kill("b")]),
}


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    found, expected = CASES[name]
    assert list(plan(found).actions) == expected


def test_steps_under_way_are_given_up_when_the_pod_is_deleted() -> None:
    found = plan(situation(deleting(pod()), busy=frozenset({"web", VOLUMES})))
    assert found.cancel == {"web", VOLUMES}
    assert found.actions == ()


def test_wakes_when_the_back_off_is_over() -> None:
    found = plan(situation(pod(), exited(attempt=1, back_off=10, ago=4)))
    assert found.wake_at == pytest.approx(NOW + 6)


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    early = NOW - 3600
    again = plan(situation(pod(), exited(back_off=300), now=early))
    assert [type(action) for action in again.actions] == [StartContainer]
    failed = plan(situation(pod(), failures={"web": failure(300)}, now=early))
    assert [type(action) for action in failed.actions] == [StartContainer]
    ending = plan(situation(deleting(pod()), running(), now=early, terminating_since=NOW))
    assert ending.actions == (kill("web", message="Stopping container web"),)


def test_wakes_when_a_failure_may_be_tried_again() -> None:
    assert plan(situation(pod(), failures={"web": failure(7)})).wake_at == NOW + 7


def test_wakes_when_a_fresh_failure_becomes_old_news() -> None:
    fresh = Failure("ErrImagePull", "no", at=NOW, retry_at=NOW + 10, waiting_reason="ImagePullBackOff")
    assert plan(situation(pod(), failures={"web": fresh})).wake_at == NOW + 2


def test_wakes_at_the_deadline() -> None:
    started = with_status(pod(activeDeadlineSeconds=300), startTime="2025-06-15T15:06:40Z")
    assert plan(situation(started, running())).wake_at == NOW + 300


def test_a_quiet_pod_needs_no_waking() -> None:
    assert plan(situation(pod(), running())).wake_at is None


def test_a_changed_image_restarts_the_container() -> None:
    old = replace(running(), annotations={IMAGE: "web:0"})
    message = "Container web definition changed, it will be restarted"
    assert plan(situation(pod(), old)).actions == (kill("web", message=message),)


def test_a_container_of_unknown_state_is_stopped() -> None:
    odd = replace(running(), state=ContainerState.UNKNOWN)
    (action,) = plan(situation(pod(), odd)).actions
    assert isinstance(action, KillContainer)


def test_an_orphan_is_taken_down_whatever_its_containers_are_called() -> None:
    orphan = deleting(objects.from_dict({"metadata": {"name": "o", "uid": "u"}, "spec": {}}, core_v1.Pod))
    found = plan(situation(orphan, running("whatever"), removed=True))
    assert found.actions == (kill("whatever"),)
    assert plan(situation(orphan, exited("whatever"), removed=True)).actions == (Teardown(("s0",)),)


def test_observation_prefers_the_newest() -> None:
    seen = Observation((sandbox(1, ready=False), sandbox()), (running(attempt=1), exited()))
    assert seen.sandbox is None
    latest = seen.latest("web")
    assert latest is not None
    assert latest.attempt == 1
