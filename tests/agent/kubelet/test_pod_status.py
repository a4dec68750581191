"""What is reported of a pod: situation → status."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kubelet.back_off import Failure
from agent.kubelet.pod_status import Host, pod_status
from agent.kubelet.situation import SANDBOX, End, Health, Situation
from agent.kubelet.status import difference
from kube import objects
from kube.models import core_v1
from tests.agent.kubelet.build import NOW, created, deleting, exited, pod, running, sandbox, situation

HOST = Host(("192.0.2.10",), "docker")
MOMENT = "2025-06-15T15:06:40Z"


def report(s: Situation, written: core_v1.PodStatus | None = None) -> dict[str, Any]:
    return objects.to_dict(pod_status(s, HOST, written=written))


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def state(status: dict[str, Any], index: int = 0, *, init: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = status["initContainerStatuses" if init else "containerStatuses"][index]["state"]
    return found


def with_status(pod_: core_v1.Pod, status: core_v1.PodStatus) -> core_v1.Pod:
    found = objects.copy(pod_)
    found.status = status
    return found


def test_a_new_pod() -> None:
    found = report(situation(pod(), sandboxes=(), volumes_ready=False))
    assert found == {
        "phase": "Pending",
        "startTime": MOMENT,
        "qosClass": "BestEffort",
        "hostIP": "192.0.2.10",
        "hostIPs": [{"ip": "192.0.2.10"}],
        "containerStatuses": [
            {
                "name": "web",
                "image": "web:1",
                "imageID": "",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}},
            }
        ],
        "conditions": [
            {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": MOMENT},
            {"type": "Initialized", "status": "True", "lastTransitionTime": MOMENT},
            {
                "type": "Ready",
                "status": "False",
                "reason": "ContainersNotReady",
                "message": "containers with unready status: [web]",
                "lastTransitionTime": MOMENT,
            },
            {
                "type": "ContainersReady",
                "status": "False",
                "reason": "ContainersNotReady",
                "message": "containers with unready status: [web]",
                "lastTransitionTime": MOMENT,
            },
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": MOMENT},
        ],
    }


def test_a_running_pod() -> None:
    found = report(situation(pod(), running()))
    assert found["phase"] == "Running"
    assert found["podIP"] == "10.244.0.5"
    assert found["podIPs"] == [{"ip": "10.244.0.5"}]
    assert set(conditions(found).values()) == {"True"}
    assert found["containerStatuses"] == [
        {
            "name": "web",
            "image": "web:1",
            "imageID": "sha256:web",
            "containerID": "docker://web-0",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": "2025-06-15T15:05:40Z"}},
        }
    ]


@pytest.mark.parametrize(
    ("s", "phase"),
    [
        (situation(pod("a", "b"), running("a")), "Pending"),
        (situation(pod("a", "b"), running("a"), created("b")), "Pending"),
        (situation(pod("a", "b"), running("a"), running("b")), "Running"),
        (situation(pod("a", "b"), running("a"), exited("b")), "Running"),
        (situation(pod("a", "b"), exited("a"), exited("b")), "Running"),
        (situation(pod("a", "b", policy="OnFailure"), exited("a", code=0), exited("b")), "Running"),
        (situation(pod("a", "b", policy="OnFailure"), exited("a", code=0), exited("b", code=0)), "Succeeded"),
        (situation(pod("a", "b", policy="Never"), exited("a", code=0), exited("b", code=0)), "Succeeded"),
        (situation(pod("a", "b", policy="Never"), exited("a", code=0), exited("b")), "Failed"),
        (situation(pod("a", "b", policy="Never"), running("a"), exited("b")), "Running"),
        (situation(pod(init=("i",)), running("i")), "Pending"),
        (situation(pod(init=("i",)), exited("i")), "Pending"),
        (situation(pod(init=("i",), policy="Never"), exited("i")), "Failed"),
        (situation(pod(init=("log+",), policy="Never"), running("log"), exited(code=0)), "Succeeded"),
        (situation(deleting(pod()), running()), "Running"),
        (situation(deleting(pod()), exited(code=0)), "Succeeded"),
        (situation(deleting(pod()), exited(code=143)), "Failed"),
        (situation(deleting(pod()), sandboxes=()), "Failed"),
        (situation(pod(), sandboxes=(), ended=End("OutOfcpu", "no")), "Failed"),
        (situation(pod(), running(), ended=End("Evicted", "no")), "Running"),
        (situation(pod(), exited(ago=20), sandboxes=(sandbox(1), sandbox(ready=False))), "Running"),
    ],
)
def test_phase(s: Situation, phase: str) -> None:
    assert report(s)["phase"] == phase


def test_crash_loop() -> None:
    found = report(situation(pod(), exited(attempt=1), exited(attempt=2, back_off=20, code=3, message="bye")))
    (container,) = found["containerStatuses"]
    assert container["state"]["waiting"] == {
        "reason": "CrashLoopBackOff",
        "message": "back-off 20s restarting failed container=web pod=web-1_shop(u1)",
    }
    assert container["lastState"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "message": "bye",
        "startedAt": "2025-06-15T15:06:34Z",
        "finishedAt": "2025-06-15T15:06:39Z",
        "containerID": "docker://web-2",
    }
    assert container["restartCount"] == 2
    assert conditions(found)["Ready"] == "False"


def test_about_to_restart_shows_how_it_ended() -> None:
    found = report(situation(pod(), exited(attempt=1, back_off=10, ago=11)))
    assert state(found)["terminated"]["exitCode"] == 1


def test_restarted() -> None:
    (container,) = report(situation(pod(), exited(code=137, reason="OOMKilled"), running(attempt=1)))[
        "containerStatuses"
    ]
    assert "running" in container["state"]
    assert container["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert container["restartCount"] == 1


def test_completed() -> None:
    found = report(situation(pod(policy="Never"), exited(code=0)))
    assert state(found)["terminated"]["reason"] == "Completed"
    ready = objects.condition(objects.from_dict(found, core_v1.PodStatus).conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "PodCompleted")


@pytest.mark.parametrize(
    ("age", "shown"), [(0, ("ErrImagePull", "no registry")), (3, ("ImagePullBackOff", "Back-off pulling"))]
)
def test_image_pull_failures(age: float, shown: tuple[str, str]) -> None:
    failure = Failure(
        "ErrImagePull",
        "no registry",
        at=NOW - age,
        retry_at=NOW + 10,
        waiting_reason="ImagePullBackOff",
        waiting_message="Back-off pulling",
    )
    found = report(situation(pod(), failures={"web": failure}))
    assert state(found)["waiting"] == {"reason": shown[0], "message": shown[1]}


def test_configuration_error_while_a_former_attempt_exists() -> None:
    failure = Failure("CreateContainerConfigError", 'configmap "x" not found', at=NOW, retry_at=NOW + 10)
    (container,) = report(situation(pod(), exited(), failures={"web": failure}))["containerStatuses"]
    assert container["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    assert container["lastState"]["terminated"]["exitCode"] == 1


@pytest.mark.parametrize(
    ("health", "started", "ready"),
    [
        (Health(), True, True),
        (Health(ready=False), True, False),
        (Health(started=False, ready=False), False, False),
        (Health(started=False), False, False),
    ],
)
def test_probes_decide_about_readiness(health: Health, started: bool, ready: bool) -> None:
    found = report(situation(pod(), running(), health={"web-0": health}))
    (container,) = found["containerStatuses"]
    assert (container["started"], container["ready"]) == (started, ready)
    assert conditions(found)["Ready"] == ("True" if ready else "False")


def test_initialization() -> None:
    found = report(situation(pod(init=("a", "b")), exited("a", code=0), running("b")))
    assert conditions(found)["Initialized"] == "False"
    initialized = objects.condition(objects.from_dict(found, core_v1.PodStatus).conditions, "Initialized")
    assert initialized is not None
    assert initialized.message == "containers with incomplete status: [b]"
    assert [c["ready"] for c in found["initContainerStatuses"]] == [True, False]
    assert state(found)["waiting"]["reason"] == "PodInitializing"
    done = report(situation(pod(init=("a",)), exited("a", code=0), running()))
    assert conditions(done)["Initialized"] == "True"
    assert conditions(done)["Ready"] == "True"


def test_an_unready_sidecar_makes_the_pod_unready() -> None:
    found = report(situation(pod(init=("log+",)), running("log"), running(), health={"web-0": Health()}))
    assert conditions(found)["Ready"] == "False"


def test_readiness_gates() -> None:
    gated = pod(readinessGates=[{"conditionType": "lb"}])
    found = report(situation(gated, running()))
    assert conditions(found)["ContainersReady"] == "True"
    assert conditions(found)["Ready"] == "False"
    opened = core_v1.PodStatus(conditions=[core_v1.PodCondition(type="lb", status="True")])
    found = report(situation(gated, running()), opened)
    assert conditions(found)["Ready"] == "True"
    assert conditions(found)["lb"] == "True"


def test_times_of_conditions_stay_while_nothing_turns() -> None:
    first = pod_status(situation(pod(), running()), HOST)
    later = situation(with_status(pod(), first), running(), now=NOW + 500)
    assert difference(first, pod_status(later, HOST)) == {}
    unready = situation(with_status(pod(), first), running(), now=NOW + 500, health={"web-0": Health(ready=False)})
    times = {c.type: c.lastTransitionTime for c in pod_status(unready, HOST).conditions}
    assert times["Ready"] == "2025-06-15T15:15:00Z"
    assert times["Initialized"] == MOMENT


def test_rejected() -> None:
    found = report(situation(pod(), sandboxes=(), ended=End("OutOfcpu", "Node didn't have enough resource: cpu")))
    assert (found["phase"], found["reason"]) == ("Failed", "OutOfcpu")
    assert "containerStatuses" not in found


def test_rejected_by_an_agent_that_ran_before() -> None:
    first = pod_status(situation(pod(), sandboxes=(), ended=End("NodePorts", "taken")), HOST)
    found = report(situation(with_status(pod(), first), sandboxes=()))
    assert (found["phase"], found["reason"]) == ("Failed", "NodePorts")
    assert "containerStatuses" not in found


def test_who_ended_in_time_did_not_exceed_the_deadline() -> None:
    it = pod(policy="Never", activeDeadlineSeconds=60)
    done = pod_status(situation(with_status(it, core_v1.PodStatus(startTime=MOMENT)), exited(code=0)), HOST)
    found = report(situation(with_status(it, done), exited(code=0), now=NOW + 3600))
    assert found["phase"] == "Succeeded"
    assert "reason" not in found


def test_out_of_memory_is_remembered_where_the_engine_forgets() -> None:
    killed = pod_status(situation(pod(policy="Never"), exited(code=137, reason="OOMKilled")), HOST)
    found = report(situation(with_status(pod(policy="Never"), killed), exited(code=137)))
    assert state(found)["terminated"]["reason"] == "OOMKilled"
    other = report(situation(with_status(pod(policy="Never"), killed), exited(attempt=1, code=137)))
    assert state(other)["terminated"]["reason"] == "Error"


def test_a_clock_that_was_set_back_ends_the_back_off() -> None:
    found = report(situation(pod(), exited(back_off=10), now=NOW - 3600))
    assert "terminated" in state(found)


def test_host_network() -> None:
    found = report(situation(pod(hostNetwork=True), running()))
    assert found["podIP"] == "192.0.2.10"


def test_the_address_is_remembered_when_the_sandbox_is_gone() -> None:
    first = pod_status(situation(pod(policy="Never"), running()), HOST)
    found = report(situation(with_status(pod(policy="Never"), first), exited(code=0), sandboxes=()))
    assert found["podIP"] == "10.244.0.5"


def test_a_container_that_vanished_is_told_as_lost() -> None:
    first = pod_status(situation(pod(policy="Never"), running()), HOST)
    found = report(situation(deleting(with_status(pod(policy="Never"), first)), sandboxes=()))
    assert state(found)["terminated"]["reason"] == "ContainerStatusUnknown"


def test_an_ended_container_that_was_removed_keeps_its_status() -> None:
    first = pod_status(situation(pod(policy="Never"), exited(code=0)), HOST)
    found = report(situation(with_status(pod(policy="Never"), first), sandboxes=()))
    assert found["phase"] == "Succeeded"
    assert state(found)["terminated"]["exitCode"] == 0


def test_why_no_sandbox() -> None:
    failure = Failure("FailedCreatePodSandBox", "no", at=NOW, retry_at=NOW + 1)
    found = pod_status(situation(pod(), sandboxes=(), failures={SANDBOX: failure}), HOST)
    condition = objects.condition(found.conditions, "PodReadyToStartContainers")
    assert condition is not None
    assert condition.reason == "FailedCreatePodSandBox"
