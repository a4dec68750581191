from __future__ import annotations

import time

import pytest

from control.controllers import controller_ref, replica_set_plan
from control.controllers.expectations import Expectations
from control.controllers.replica_set import ReplicaSetController
from control.controllers.replica_set_plan import Observed, plan, rank_for_deletion, slow_start_batches, status
from kube import objects, selector
from kube.clock import VirtualClock
from kube.models import meta_v1
from kube.status import ApiError
from kube.transport import Request
from tests.control.controllers.cluster import NOW, kubelet, pod, replica_set, running


def observed(count: int, replicas: int) -> Observed:
    return Observed(replica_set(replicas=replicas), [pod(f"p{i}") for i in range(count)], [], NOW)


@pytest.mark.parametrize(
    ("count", "replicas", "create", "delete"),
    [(0, 3, 3, 0), (3, 3, 0, 0), (5, 3, 0, 2), (0, 2000, 500, 0), (700, 0, 0, 500)],
)
def test_plan_is_the_difference(count: int, replicas: int, create: int, delete: int) -> None:
    planned = plan(observed(count, replicas))
    assert (planned.create, len(planned.delete)) == (create, delete)


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        (pod(), pod(node="n")),
        (pod(node="n", phase="Pending"), pod(node="n", phase="Unknown")),
        (pod(node="n", phase="Unknown"), pod(node="n")),
        (pod(node="n"), pod(node="n", ready=True)),
        (pod(node="n", ready=True, cost="-1"), pod(node="n", ready=True)),
        (pod(node="n", ready=True, cost="9"), pod(node="n", ready=True, cost="10")),
        (pod(node="n", ready=True, ready_for=5), pod(node="n", ready=True, ready_for=500)),
        (pod(node="n", ready=True, ready_for=60, restarts=3), pod(node="n", ready=True, ready_for=60)),
        (pod(node="n", age=2), pod(node="n", age=2000)),
    ],
)
def test_which_of_two_pods_goes_first(goes: object, stays: object) -> None:
    assert rank_for_deletion([stays, goes], [], NOW)[0] is goes  # type: ignore[list-item]
    assert rank_for_deletion([goes, stays], [], NOW)[0] is goes  # type: ignore[list-item]


def test_the_pod_on_the_crowded_node_goes_first() -> None:
    crowded, alone = pod("a", node="n1", ready=True), pod("b", node="n2", ready=True)
    siblings = [crowded, alone, pod("c", node="n1", ready=True)]
    assert rank_for_deletion([alone, crowded], siblings, NOW) == [crowded, alone]


def test_malformed_deletion_cost_counts_as_zero() -> None:
    assert replica_set_plan.deletion_cost(pod(cost="cheap")) == 0
    assert replica_set_plan.deletion_cost(pod(cost=str(2**40))) == 0


def test_slow_start() -> None:
    assert slow_start_batches(0) == []
    assert slow_start_batches(10) == [1, 2, 4, 3]


def test_status_counts() -> None:
    rs = replica_set(replicas=3, minReadySeconds=10)
    pods = [
        pod("a", ready=True, ready_for=60),
        pod("b", ready=True, ready_for=3),
        pod("c", labels={"app": "web", "x": "y"}),
    ]
    rs.spec.template.metadata.labels = {"app": "web", "x": "y"}  # type: ignore[union-attr]
    found = status(Observed(rs, pods, [], NOW), None)
    counts = (found.replicas, found.readyReplicas, found.availableReplicas, found.fullyLabeledReplicas)
    assert counts == (3, 2, 1, 1)
    assert found.observedGeneration == 1
    again = replica_set_plan.next_available_in(Observed(rs, pods, [], NOW))
    assert again == pytest.approx(7.01)


def test_failure_becomes_a_condition_and_goes_away() -> None:
    rs = replica_set()
    rs.status = status(Observed(rs, [], [], NOW), ("FailedCreate", "quota"))
    (found,) = rs.status.conditions
    assert (found.type, found.status, found.reason) == ("ReplicaFailure", "True", "FailedCreate")
    later = status(Observed(rs, [], [], NOW + 60), ("FailedCreate", "quota"))
    assert later.conditions[0].lastTransitionTime == found.lastTransitionTime
    assert status(Observed(rs, [], [], NOW), None).conditions == []


def test_claim_adopts_releases_and_leaves_others_alone() -> None:
    rs = replica_set()
    mine = objects.owner_reference(rs)
    theirs = meta_v1.OwnerReference(kind="ReplicaSet", name="other", uid="other", controller=True)
    owned, lost = pod("owned", owner=mine), pod("lost", owner=mine, labels={"app": "x"})
    orphan, dying = pod("orphan"), pod("dying", deleting=True)
    foreign, stranger = pod("foreign", owner=theirs), pod("stranger", labels={"app": "x"})
    found = controller_ref.plan(
        rs, selector.from_label_selector(rs.spec.selector), [owned, lost, orphan, dying, foreign, stranger]
    )
    assert (found.owned, found.adopt, found.release) == ((owned,), (orphan,), (lost,))
    rs.metadata.deletionTimestamp = "2025-01-01T00:00:00Z"
    found = controller_ref.plan(rs, selector.from_label_selector(rs.spec.selector), [owned, lost, orphan])
    assert (found.owned, found.adopt, found.release) == ((owned,), (), ())


async def test_expectations_hold_until_seen_or_too_old() -> None:
    clock = VirtualClock()
    expected = Expectations(clock)
    assert expected.satisfied("k")
    expected.expect("k", creations=2)
    expected.observe_creation("k")
    assert not expected.satisfied("k")
    expected.observe_creation("k")
    expected.observe_creation("k")
    assert expected.satisfied("k")
    expected.expect("k", deletions=["a", "b"])
    expected.observe_deletion("k", "a")
    expected.observe_deletion("k", "a")
    assert not expected.satisfied("k")
    await clock.advance(301)
    assert expected.satisfied("k")


async def test_creates_and_deletes_to_the_wanted_number() -> None:
    async with running(ReplicaSetController) as cluster:
        await cluster.client.create(replica_set(replicas=10))
        await cluster.settle()
        pods = cluster.api.all("Pod")
        assert len(pods) == 10
        assert all(p["metadata"]["name"].startswith("web-") for p in pods)
        assert pods[0]["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
        kubelet(cluster.api)
        await cluster.settle()
        rs = cluster.api.find("ReplicaSet", "web", "default")
        assert rs["status"]["availableReplicas"] == 10
        await cluster.client.patch(type(replica_set()), "web", {"spec": {"replicas": 4}}, namespace="default")
        await cluster.settle()
        assert len(cluster.api.all("Pod")) == 4
        assert cluster.notes.reasons().count("SuccessfulCreate") == 10
        assert cluster.notes.reasons().count("SuccessfulDelete") == 6


async def test_a_stale_cache_does_not_create_twice() -> None:
    async with running(ReplicaSetController) as cluster:
        cluster.api.hold("pods")
        await cluster.client.create(replica_set(replicas=3))
        for number in range(3):
            patch = {"metadata": {"annotations": {"look": str(number)}}}
            await cluster.client.patch(type(replica_set()), "web", patch, namespace="default")
            await cluster.advance(1)
        assert len(cluster.api.all("Pod")) == 3
        cluster.api.release()
        await cluster.settle()
        assert len(cluster.api.all("Pod")) == 3


async def test_a_stale_cache_does_not_delete_twice() -> None:
    async with running(ReplicaSetController, graceful_pods=True) as cluster:
        await cluster.client.create(replica_set(replicas=4))
        await cluster.settle()
        cluster.api.hold("pods")
        for replicas in (3, 2):
            patch = {"spec": {"replicas": replicas}}
            await cluster.client.patch(type(replica_set()), "web", patch, namespace="default")
            await cluster.advance(1)
        assert len(cluster.api.all("Pod")) == 3, "the second step waits until the first is seen"
        cluster.api.release()
        await cluster.settle()
        assert len(cluster.api.all("Pod")) == 2


async def test_a_deleted_pod_is_replaced_and_an_ended_one_too() -> None:
    async with running(ReplicaSetController) as cluster:
        await cluster.client.create(replica_set(replicas=2))
        await cluster.settle()
        first, second = (p["metadata"]["name"] for p in cluster.api.all("Pod"))
        cluster.api.remove("Pod", first, "default")
        cluster.api.change("Pod", second, "default", status={"phase": "Failed"})
        await cluster.settle()
        assert sum(p["status"]["phase"] == "Pending" for p in cluster.api.all("Pod")) == 2


async def test_adopts_an_orphan_instead_of_creating() -> None:
    orphan = objects.to_dict(pod("orphan"))
    async with running(ReplicaSetController, seed=(orphan,)) as cluster:
        await cluster.client.create(replica_set(replicas=1))
        await cluster.settle()
        (found,) = cluster.api.all("Pod")
        assert found["metadata"]["ownerReferences"][0]["name"] == "web"
        cluster.api.change("Pod", "orphan", "default", metadata={"labels": {"app": "debug"}})
        await cluster.settle()
        released = cluster.api.find("Pod", "orphan", "default")
        assert released["metadata"].get("ownerReferences", []) == []
        assert len(cluster.api.all("Pod")) == 2


async def test_a_refused_pod_is_reported_and_tried_slowly() -> None:
    async with running(ReplicaSetController) as cluster:

        def refuse(request: Request) -> ApiError | None:
            if request.method == "POST" and request.path.endswith("/pods"):
                return ApiError(403, "Forbidden", "exceeded quota")
            return None

        cluster.api.refuse = refuse
        await cluster.client.create(replica_set(replicas=100))
        await cluster.clock.advance(1)
        tried = sum(path.endswith("/pods") for _, path in cluster.api.requests)
        assert 2 <= tried <= 20  # one of each round, and rounds get rarer
        rs = cluster.api.find("ReplicaSet", "web", "default")
        assert rs["status"]["conditions"][0]["reason"] == "FailedCreate"
        cluster.api.refuse = lambda _: None
        await cluster.advance(5)
        assert len(cluster.api.all("Pod")) == 100
        assert "conditions" not in cluster.api.find("ReplicaSet", "web", "default")["status"]


async def test_available_after_min_ready_seconds() -> None:
    async with running(ReplicaSetController) as cluster:
        await cluster.client.create(replica_set(replicas=1, minReadySeconds=30))
        await cluster.settle()
        kubelet(cluster.api)
        await cluster.settle()
        assert not cluster.api.find("ReplicaSet", "web", "default")["status"].get("availableReplicas")
        await cluster.advance(31)
        assert cluster.api.find("ReplicaSet", "web", "default")["status"]["availableReplicas"] == 1


async def test_a_hundred_pods_take_little_cpu() -> None:
    async with running(ReplicaSetController) as cluster:
        began = time.process_time()
        await cluster.client.create(replica_set(replicas=100))
        await cluster.settle()
        assert len(cluster.api.all("Pod")) == 100
        assert time.process_time() - began < 2.0  # with the fake API and all; about 0.1 s on a quiet machine
