"""The kubelet as a whole, on virtual time: what happens to pods, to the agent and to the master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from agent.kubelet.volumes.hollow import HollowVolumes
from tests.agent.kubelet.lab import NODE, Lab, lab


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab(tmp_path) as found:
        yield found


def probed(kind: str, word: str, **fields: Any) -> list[dict[str, Any]]:
    probe = {"exec": {"command": [word]}, "periodSeconds": 5, "failureThreshold": 2, **fields}
    return [{"name": "web", "image": "web:1", f"{kind}Probe": probe}]


async def test_a_pod_comes_up(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    assert node.phase() == "Running"
    status = node.pod()["status"]
    assert status["podIP"].startswith("10.244.0.")
    assert status["hostIP"] == "192.0.2.10"
    await node.until(lambda: "Started" in node.reasons())
    assert node.reasons() == ["Pulling", "Pulled", "Created", "Started"]


async def test_a_container_that_dies_is_restarted_with_back_off(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.runtime.end(code=3)
    await node.until(lambda: node.container().get("restartCount") == 1 and node.ready())
    assert node.container()["lastState"]["terminated"]["exitCode"] == 3
    node.runtime.end()
    await node.until(lambda: node.waiting() == "CrashLoopBackOff")
    assert not node.ready()
    await node.clock.advance(9)
    assert node.runtime.running() == []
    await node.clock.advance(2)
    await node.until(node.ready)
    assert node.container()["restartCount"] == 2
    await node.until(lambda: "BackOff" in node.reasons())


async def test_a_long_run_forgives(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    for expected in (1, 2, 3):
        await node.clock.advance(601)
        node.runtime.end()
        await node.until(lambda wanted=expected: node.container().get("restartCount") == wanted and node.ready())


async def test_a_deleted_pod_disappears(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    await node.delete(grace=7)
    await node.until(node.gone)
    assert node.runtime.everything == 0
    assert node.runtime.stops == [("web", 7.0)]
    assert node.kubelet is not None
    await node.until(lambda: node.kubelet is not None and not node.kubelet.pods())


async def test_a_pod_is_deleted_while_its_image_is_pulled(node: Lab) -> None:
    node.runtime.pull_seconds = 600
    node.create()
    await node.until(lambda: "Pulling" in node.reasons())
    await node.delete()
    await node.until(node.gone)
    assert node.runtime.everything == 0


async def test_a_pod_removed_by_force_is_stopped(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.api.remove("Pod", "web-1", "shop")
    await node.until(lambda: node.runtime.everything == 0)


async def test_a_pod_runs_to_its_end(node: Lab) -> None:
    node.create(restartPolicy="Never")
    await node.until(node.ready)
    node.runtime.end(code=0)
    await node.until(lambda: node.phase() == "Succeeded")
    await node.clock.settle()
    kept = await node.runtime.list_sandboxes()
    assert [s.state.value for s in kept] == ["NOT_READY"]
    await node.delete()
    await node.until(node.gone)
    assert node.runtime.everything == 0


async def test_init_containers_run_one_after_the_other(node: Lab) -> None:
    inits = [{"name": name, "image": "init:1"} for name in ("first", "second")]
    node.create(initContainers=inits)
    await node.until(lambda: node.runtime.running("first"))
    assert not node.runtime.running("second")
    node.runtime.end("first", 0)
    await node.until(lambda: node.runtime.running("second"))
    assert not node.runtime.running()
    node.runtime.end("second", 0)
    await node.until(node.ready)
    assert [c["ready"] for c in node.pod()["status"]["initContainerStatuses"]] == [True, True]


async def test_an_adopted_pod_is_not_touched(node: Lab) -> None:
    node.create(containers=probed("readiness", "ready"))
    await node.until(node.ready)
    running = node.runtime.running()
    await node.stop()
    version = node.pod()["metadata"]["resourceVersion"]
    await node.start()
    await node.clock.advance(30)
    assert node.runtime.running() == running
    assert node.ready()
    assert node.pod()["metadata"]["resourceVersion"] == version  # Ready did not flap
    node.runtime.end()
    await node.until(lambda: node.container()["restartCount"] == 1)


async def test_the_back_off_survives_the_agent(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.runtime.end()
    await node.until(lambda: node.container().get("restartCount") == 1 and node.ready())
    node.runtime.end()
    await node.until(lambda: node.waiting() == "CrashLoopBackOff")
    await node.stop()
    await node.start()
    await node.clock.advance(5)
    assert node.runtime.running() == []
    await node.clock.advance(6)
    await node.until(node.ready)
    assert node.container()["restartCount"] == 2


async def test_orphans_are_removed_when_the_master_has_answered(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    await node.stop()
    node.api.remove("Pod", "web-1", "shop")
    node.api.away = True
    await node.start()
    await node.clock.advance(300)
    assert node.runtime.running()
    await node.stop()
    node.api.away = False
    await node.start()
    await node.until(lambda: node.runtime.everything == 0, 10)


async def test_pods_live_without_the_master(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.api.away = True
    node.runtime.end()
    await node.until(node.runtime.running)
    await node.clock.advance(60)
    assert node.container()["restartCount"] == 0  # nobody could be told
    node.api.away = False
    await node.until(lambda: node.container()["restartCount"] == 1, 30)
    assert node.ready()


async def test_a_pod_marked_not_ready_by_the_master_is_set_right(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    status = node.pod()["status"]
    conditions = [{**c, "status": "False"} if c["type"] == "Ready" else c for c in status["conditions"]]
    node.api.change("Pod", "web-1", "shop", status={"conditions": conditions})
    assert not node.ready()
    await node.until(node.ready)


async def test_readiness_follows_the_probe(node: Lab) -> None:
    node.handlers.failing = {"ready"}
    node.create(containers=probed("readiness", "ready"))
    await node.until(lambda: node.phase() == "Running")
    await node.clock.advance(20)
    assert not node.ready()
    node.handlers.failing = set()
    await node.until(node.ready, 6)
    node.handlers.failing = {"ready"}
    await node.clock.advance(4)
    assert node.ready()
    await node.until(lambda: not node.ready(), 12)
    assert node.container()["restartCount"] == 0
    await node.until(lambda: "Unhealthy" in node.reasons())


async def test_a_new_container_is_ready_soon_after_it_says_so(node: Lab) -> None:
    node.handlers.failing = {"ready"}
    node.create(containers=probed("readiness", "ready", periodSeconds=30))
    await node.until(lambda: node.phase() == "Running")
    await node.clock.advance(1)
    node.handlers.failing = set()
    await node.until(node.ready, 2)


async def test_a_failed_liveness_probe_restarts(node: Lab) -> None:
    node.create(containers=probed("liveness", "alive"))
    await node.until(node.ready)
    node.handlers.failing = {"alive"}
    await node.until(lambda: node.container()["restartCount"] == 1, 12)
    assert "Killing" in node.reasons()
    node.handlers.failing = set()
    await node.until(node.ready, 12)


async def test_other_probes_wait_for_the_startup_probe(node: Lab) -> None:
    containers = probed("startup", "started", failureThreshold=10)
    containers[0]["livenessProbe"] = {"exec": {"command": ["alive"]}, "periodSeconds": 1}
    node.handlers.failing = {"started"}
    node.create(containers=containers)
    await node.until(lambda: node.phase() == "Running")
    await node.clock.advance(20)
    assert node.container()["started"] is False
    assert "alive" not in node.handlers.asked
    node.handlers.failing = set()
    await node.until(node.ready, 6)
    await node.clock.advance(2)
    assert "alive" in node.handlers.asked


async def test_an_image_that_cannot_be_pulled(node: Lab) -> None:
    node.runtime.registry = False
    node.create()
    await node.until(lambda: node.waiting() == "ErrImagePull")
    await node.until(lambda: node.waiting() == "ImagePullBackOff", 5)
    assert node.phase() == "Pending"
    await node.clock.advance(60)
    # Somebody loads it by hand: noticed although the next pull is far away.
    node.runtime.registry = True
    await node.runtime.pull_image("web:1")
    node.runtime.registry = False
    await node.until(node.ready, 12)


async def test_pulls_are_put_off_longer_each_time(node: Lab) -> None:
    node.runtime.registry = False
    node.create()
    await node.clock.advance(200)
    pulls = [e for e in node.api.all("Event") if e["reason"] == "Pulling"]
    assert sum(e["count"] for e in pulls) == 5  # after 0, 10, 30, 70, 150 s


async def test_never_pull(node: Lab) -> None:
    node.create(containers=[{"name": "web", "image": "web:1", "imagePullPolicy": "Never"}])
    await node.until(lambda: node.waiting() == "ErrImageNeverPull")
    await node.runtime.pull_image("web:1")
    await node.until(node.ready, 12)


async def test_a_missing_config_map(node: Lab) -> None:
    container = {"name": "web", "image": "web:1", "envFrom": [{"configMapRef": {"name": "settings"}}]}
    node.create(containers=[container])
    await node.until(lambda: node.waiting() == "CreateContainerConfigError")
    node.api.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "shop"},
            "data": {"COLOUR": "blue"},
        }
    )
    await node.until(node.ready, 12)
    (container_id,) = node.runtime.running()
    assert ("COLOUR", "blue") in node.runtime.configs[container_id].env


async def test_a_pod_that_does_not_fit_fails(node: Lab) -> None:
    big = {"name": "web", "image": "web:1", "resources": {"requests": {"cpu": "64"}}}
    node.create(containers=[big])
    await node.until(lambda: node.phase() == "Failed")
    assert node.pod()["status"]["reason"] == "OutOfcpu"
    assert node.runtime.everything == 0
    await node.delete()
    await node.until(node.gone)


async def test_a_rejected_pod_takes_no_room(node: Lab) -> None:
    def sized(cpu: str) -> list[dict[str, Any]]:
        return [{"name": "web", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]

    # An agent that starts meets both at once.
    await node.stop()
    node.create("big", containers=sized("64"))
    node.create("small", containers=sized("1"))
    await node.start()
    await node.until(lambda: node.ready("small"))
    assert node.phase("big") == "Failed"


async def test_a_pod_that_disappears_while_the_agent_adopts(node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def meanwhile(volumes: HollowVolumes, known: Collection[str]) -> list[str]:
        node.api.remove("Pod", "web-1", "shop")
        for _ in range(100):
            await asyncio.sleep(0)
        return []

    node.create()
    await node.until(node.ready)
    await node.stop()
    monkeypatch.setattr(HollowVolumes, "remove_orphans", meanwhile)
    await node.start()
    await node.until(lambda: node.runtime.everything == 0)


async def test_the_deadline(node: Lab) -> None:
    node.create(activeDeadlineSeconds=60)
    await node.until(node.ready)
    await node.clock.advance(61)
    await node.until(lambda: node.phase() == "Failed")
    assert node.pod()["status"]["reason"] == "DeadlineExceeded"
    assert node.runtime.running() == []


async def test_a_pre_stop_hook_has_its_part_of_the_grace_period(node: Lab) -> None:
    hook = {"preStop": {"exec": {"command": ["drain"]}}}
    node.create(containers=[{"name": "web", "image": "web:1", "lifecycle": hook}])
    await node.until(node.ready)
    node.handlers.seconds = 10
    await node.delete(grace=30)
    await node.until(node.gone, 40)
    ((_, left),) = node.runtime.stops
    assert left == pytest.approx(20, abs=1)
    assert "drain" in node.handlers.asked


async def test_a_failing_post_start_hook_stops_the_container(node: Lab) -> None:
    hook = {"postStart": {"exec": {"command": ["begin"]}}}
    node.handlers.failing = {"begin"}
    node.create(containers=[{"name": "web", "image": "web:1", "lifecycle": hook}])
    await node.until(lambda: node.waiting() == "PostStartHookError")
    assert node.runtime.running() == []
    node.handlers.failing = set()
    await node.until(node.ready, 25)


async def test_a_shorter_grace_period_overtakes_a_longer_one(node: Lab) -> None:
    hook = {"preStop": {"exec": {"command": ["drain"]}}}
    node.create(containers=[{"name": "web", "image": "web:1", "lifecycle": hook}])
    await node.until(node.ready)
    node.handlers.seconds = 1000
    await node.delete(grace=600)
    await node.clock.advance(5)
    assert not node.gone()
    found = node.pod()
    node.api.put({**found, "metadata": {**found["metadata"], "deletionGracePeriodSeconds": 1}})
    await node.until(node.gone, 10)


async def test_a_sandbox_that_died_is_replaced(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    (sandbox,) = await node.runtime.list_sandboxes()
    await node.runtime.stop_sandbox(sandbox.id)
    await node.until(lambda: node.ready() and node.container()["restartCount"] == 1, 15)
    assert "SandboxChanged" in node.reasons()


async def test_restarts_are_counted_even_if_the_runtime_forgot_them(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    for container_id in node.runtime.running():
        await node.runtime.remove_container(container_id)
    await node.until(lambda: node.container()["restartCount"] == 1 and node.ready())


async def test_a_runtime_that_was_down(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.runtime.down = True
    node.runtime.end()
    await node.clock.advance(30)
    assert node.container()["restartCount"] == 0
    node.runtime.down = False
    await node.until(lambda: node.container()["restartCount"] == 1, 10)


async def test_an_end_is_seen_before_the_runtimes_lists_show_it(node: Lab) -> None:
    """Docker tells that a container has died while its lists still say that it runs."""
    node.create()
    await node.until(node.ready)
    node.runtime.lists_lag = True
    node.runtime.end()
    await node.until(lambda: len(node.runtime.running()) == 1 and node.container().get("restartCount") == 1)


async def test_a_hundred_pods(node: Lab) -> None:
    for number in range(100):
        node.create(f"web-{number}")
    await node.until(lambda: all(node.ready(f"web-{number}") for number in range(100)))


async def test_too_many_pods(node: Lab) -> None:
    for number in range(111):
        node.create(f"web-{number}")
    await node.until(lambda: [node.phase(f"web-{n}") for n in range(111)].count("Running") == 110)
    (refused,) = [n for n in range(111) if node.phase(f"web-{n}") == "Failed"]
    assert node.pod(f"web-{refused}")["status"]["reason"] == "OutOfpods"


async def test_the_node_is_registered_and_reports(node: Lab) -> None:
    found = node.api.find("Node", NODE)
    assert found is not None
    await node.clock.advance(20)
    found = node.api.find("Node", NODE)
    assert found is not None
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == NODE
    assert found["metadata"]["annotations"]["ktool.io/memory-available"].endswith("Mi")
    ready = [c for c in found["status"]["conditions"] if c["type"] == "Ready"]
    assert ready[0]["status"] == "True"
    lease = node.api.find("Lease", NODE, "kube-node-lease")
    assert lease is not None
    assert lease["spec"]["leaseDurationSeconds"] == 40
    before = lease["spec"]["renewTime"]
    await node.clock.advance(11)
    lease = node.api.find("Lease", NODE, "kube-node-lease")
    assert lease is not None
    assert lease["spec"]["renewTime"] > before


async def test_a_quiet_node_writes_nothing_but_its_lease(node: Lab) -> None:
    node.create(containers=probed("readiness", "ready"))
    await node.until(node.ready)
    await node.clock.advance(60)
    node.api.requests.clear()
    await node.clock.advance(120)
    paths = [path for _, path in node.api.requests]
    assert len([path for path in paths if "/leases/" in path]) == 12
    # The machine's own numbers may move while this test runs.
    assert [path for path in paths if "/leases/" not in path and not path.endswith(f"/nodes/{NODE}")] == []


async def test_a_deleted_node_is_registered_again(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.api.remove("Node", NODE)
    await node.until(lambda: node.api.find("Node", NODE), 30)
    found = node.api.find("Node", NODE)
    assert found is not None
    assert found["spec"]["podCIDR"] == "10.244.0.0/24"  # the pods have addresses of it
    assert node.ready()


async def test_what_the_kubelets_server_asks(node: Lab) -> None:
    node.create()
    await node.until(node.ready)
    node.runtime.end()
    await node.until(lambda: node.container()["restartCount"] == 1)
    kubelet = node.kubelet
    assert kubelet is not None
    assert [pod.metadata.name for pod in kubelet.pods()] == ["web-1"]
    assert kubelet.pod("shop", "web-1") is not None
    assert kubelet.pod("shop", "other") is None
    now = kubelet.container("shop", "web-1", "web")
    before = kubelet.container("shop", "web-1", "web", previous=True)
    assert now is not None
    assert before is not None
    assert (now.attempt, before.attempt) == (1, 0)
    assert kubelet.container("shop", "web-1", "other") is None


async def test_a_pod_whose_volume_outgrows_its_limit_is_evicted(node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told = ""

    async def over_limit(volumes: HollowVolumes, pod: Any) -> str:
        return told

    monkeypatch.setattr(HollowVolumes, "over_limit", over_limit)
    node.create(volumes=[{"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}}])
    await node.until(node.ready)
    await node.clock.advance(120)
    assert node.phase() == "Running"
    told = 'Usage of EmptyDir volume "cache" exceeds the limit "1Mi"'
    await node.clock.advance(60)
    await node.until(lambda: node.phase() == "Failed")
    assert (node.pod()["status"]["reason"], node.pod()["status"]["message"]) == ("Evicted", told)
    assert node.runtime.running() == []
    await node.until(lambda: "Evicted" in node.reasons())
