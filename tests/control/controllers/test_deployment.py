from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.controllers import deployment_revision as revisions
from control.controllers import deployment_size as size
from control.controllers import deployment_status as conditions
from control.controllers.deployment import DeploymentController
from control.controllers.deployment_plan import (
    CreateReplicaSet,
    DeleteReplicaSet,
    Observed,
    SetRevision,
    UpdateReplicaSet,
    plan,
)
from control.controllers.replica_set import ReplicaSetController
from kube import objects
from kube.models import apps_v1
from tests.control.controllers.cluster import NOW, Cluster, deployment, kubelet, pod, running, stamp, template


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (10, None, None, (3, 2)),
        (4, 1, 0, (1, 0)),
        (3, 0, 0, (0, 1)),
        (1, "25%", "25%", (1, 0)),
        (2, 0, 5, (0, 2)),
        (10, "10%", "0%", (1, 0)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_limits(replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]) -> None:
    assert size.limits(deployment(replicas, surge=surge, unavailable=unavailable)) == expected


def test_malformed_percentage() -> None:
    with pytest.raises(size.PercentError, match="25"):
        size.limits(deployment(surge="25 percent"))


def rs_of(
    found: apps_v1.Deployment, replicas: int, *, available: int | None = None, number: int = 1, age: float = 100
) -> apps_v1.ReplicaSet:
    """A settled ReplicaSet of a Deployment's template."""
    annotations = {revisions.REVISION: str(number)}
    annotations |= revisions.size_annotations(size.replicas(found), size.limits(found)[0])
    made = revisions.new_replica_set(found, replicas=replicas, annotations=annotations)
    made.metadata.uid = f"uid-of-{made.metadata.name}"
    made.metadata.generation = 1
    made.metadata.creationTimestamp = stamp(age)
    ready = replicas if available is None else available
    made.status = apps_v1.ReplicaSetStatus(
        replicas=replicas, readyReplicas=ready, availableReplicas=ready, observedGeneration=1
    )
    return made


def step(found: apps_v1.Deployment, *sets: apps_v1.ReplicaSet, now: float = NOW) -> Any:
    return plan(Observed(found, sets, {}, now))


def sizes(planned: Any) -> list[tuple[int, int]]:
    """(before, after) of all resized ReplicaSets."""
    return [
        (size.wanted(a.before), size.wanted(a.after))
        for a in planned.actions
        if isinstance(a, UpdateReplicaSet) and size.wanted(a.before) != size.wanted(a.after)
    ]


def progressing(status: apps_v1.DeploymentStatus) -> tuple[str, str]:
    found = objects.condition(status.conditions, "Progressing")
    assert found is not None
    return found.status, found.reason


def test_first_step_creates_the_replica_set() -> None:
    planned = step(deployment(3))
    create, revision = planned.actions
    assert isinstance(create, CreateReplicaSet)
    made = create.replica_set
    hashed = made.metadata.labels["pod-template-hash"]
    assert made.metadata.name == f"web-{hashed}"
    assert made.spec.selector.matchLabels == {"app": "web", "pod-template-hash": hashed}
    assert made.spec.template.metadata.labels == {"app": "web", "pod-template-hash": hashed}
    assert made.spec.replicas == 3
    assert made.metadata.annotations[revisions.DESIRED_REPLICAS] == "3"
    assert made.metadata.annotations[revisions.MAX_REPLICAS] == "4"
    assert revision == SetRevision("1")
    assert progressing(planned.status) == ("True", "NewReplicaSetCreated")
    assert planned.again == pytest.approx(601)


def test_hash_is_stable_and_depends_on_template_and_collisions() -> None:
    one = revisions.template_hash(template("web:1"))
    assert one == revisions.template_hash(objects.copy(template("web:1")))
    assert len({one, revisions.template_hash(template("web:2")), revisions.template_hash(template("web:1"), 1)}) == 3
    # it names ReplicaSets that exist already: it must never change
    assert one == "99qbwk42kb"


def test_new_template_surges_first_then_shrinks_the_old() -> None:
    old = rs_of(deployment(10), 10)
    found = deployment(10, image="web:2")
    planned = step(found, old)
    assert planned.actions[0].replica_set.spec.replicas == 3  # 25 % of surge
    new = rs_of(found, 3, available=0, number=2, age=1)
    assert sizes(step(found, old, new)) == [(10, 8)]  # 25 % may be unavailable
    new = rs_of(found, 3, available=3, number=2, age=1)
    old8 = rs_of(deployment(10), 8)
    assert sizes(step(found, old8, new)) == [(3, 5)]


def test_unhealthy_old_pods_go_first() -> None:
    found = deployment(10, image="web:2", surge=0, unavailable=2)
    broken = rs_of(deployment(10), 10, available=5)
    new = rs_of(found, 0, number=2, age=1)
    assert sizes(step(found, broken, new)) == [(10, 8)]


def test_complete_rollout_is_reported_and_stays_so() -> None:
    found = deployment(3)
    found.status = apps_v1.DeploymentStatus(replicas=3, updatedReplicas=3, readyReplicas=2, availableReplicas=2)
    rs = rs_of(found, 3)
    planned = step(found, rs)
    assert progressing(planned.status) == ("True", "NewReplicaSetAvailable")
    assert 'ReplicaSet "' in planned.status.conditions[-1].message
    assert planned.again is None
    found.status = planned.status
    worse = rs_of(found, 3, available=1)
    later = step(found, worse, now=NOW + 5000)
    assert progressing(later.status) == ("True", "NewReplicaSetAvailable")
    available = objects.condition(later.status.conditions, "Available")
    assert (available.status, available.reason) == ("False", "MinimumReplicasUnavailable")


def test_progress_deadline() -> None:
    found = deployment(3, deadline=60)
    found.status = step(found).status
    rs = rs_of(found, 3, available=0)
    found.status.replicas = found.status.updatedReplicas = found.status.unavailableReplicas = 3
    assert progressing(step(found, rs, now=NOW + 59).status) == ("True", "NewReplicaSetCreated")
    late = step(found, rs, now=NOW + 61)
    assert progressing(late.status) == ("False", "ProgressDeadlineExceeded")
    found.status = late.status
    recovered = step(found, rs_of(found, 3, available=1), now=NOW + 100)
    assert progressing(recovered.status) == ("True", "ReplicaSetUpdated")


def test_without_deadline_no_progress_condition() -> None:
    assert objects.condition(step(deployment(deadline=None)).status.conditions, "Progressing") is None


def test_recreate_waits_for_the_last_old_pod() -> None:
    old = rs_of(deployment(3, strategy="Recreate"), 3)
    found = deployment(3, strategy="Recreate", image="web:2")
    assert sizes(step(found, old)) == [(3, 0)]
    emptied = rs_of(deployment(3, strategy="Recreate"), 0)
    pods = {emptied.metadata.uid: [pod("a", deleting=True)]}
    waiting = plan(Observed(found, [emptied], pods, NOW))
    assert not any(isinstance(a, CreateReplicaSet) for a in waiting.actions)
    pods = {emptied.metadata.uid: [pod("a", phase="Succeeded")]}
    going = plan(Observed(found, [emptied], pods, NOW))
    assert going.actions[0].replica_set.spec.replicas == 3


def test_paused_scales_but_rolls_nothing_out() -> None:
    old = rs_of(deployment(3), 3)
    found = deployment(5, image="web:2", paused=True)
    planned = step(found, old)
    assert sizes(planned) == [(3, 5)]
    assert not any(isinstance(a, CreateReplicaSet) for a in planned.actions)
    assert progressing(planned.status) == ("Unknown", "DeploymentPaused")
    found.status = planned.status
    resumed = deployment(5, image="web:2")
    resumed.status = planned.status
    (condition,) = [c for c in conditions.paused_conditions(resumed, NOW) if c.type == "Progressing"]
    assert (condition.status, condition.reason) == ("Unknown", "DeploymentResumed")


def test_proportional_scaling_in_the_middle_of_a_rollout() -> None:
    before = deployment(10, surge=3, unavailable=2)
    old = rs_of(before, 8)
    half = deployment(10, image="web:2", surge=3, unavailable=2)
    new = rs_of(half, 5, available=0, number=2, age=1)
    scaled = deployment(15, image="web:2", surge=3, unavailable=2)
    assert sizes(step(scaled, old, new)) == [(8, 11), (5, 7)]


def test_scaling_down_to_zero_and_saturated_new() -> None:
    old, found = rs_of(deployment(4), 2), deployment(4, image="web:2")
    new = rs_of(found, 4, number=2, age=1)
    scaled = deployment(0, image="web:2")
    assert sizes(step(scaled, old, new)) == [(2, 0), (4, 0)]


def test_history_beyond_the_limit_is_deleted() -> None:
    found = deployment(1, image="web:9", history=2)
    current = rs_of(found, 1, number=9, age=1)
    old = [rs_of(deployment(1, image=f"web:{n}"), 0, number=n, age=100 - n) for n in range(1, 6)]
    busy = rs_of(deployment(1, image="web:0"), 0, number=0, age=200)
    busy.status.replicas = 1  # type: ignore[union-attr]
    found.status = apps_v1.DeploymentStatus(replicas=1, updatedReplicas=1, availableReplicas=1, observedGeneration=1)
    planned = step(found, current, busy, *old)
    gone = [a.replica_set.metadata.name for a in planned.actions if isinstance(a, DeleteReplicaSet)]
    assert gone == [rs.metadata.name for rs in old[:3]]


def test_rollback_brings_the_old_replica_set_forward() -> None:
    first = rs_of(deployment(3), 0, number=1)
    second = rs_of(deployment(3, image="web:2"), 3, number=2, age=50)
    back = deployment(3)
    back.metadata.annotations = {revisions.REVISION: "2", "kubernetes.io/change-cause": "undo"}
    planned = step(back, first, second)
    (update,) = [a for a in planned.actions if isinstance(a, UpdateReplicaSet)]
    assert update.after.metadata.name == first.metadata.name
    annotations = update.after.metadata.annotations
    assert annotations[revisions.REVISION] == "3"
    assert annotations[revisions.REVISION_HISTORY] == "1"
    assert annotations["kubernetes.io/change-cause"] == "undo"
    assert planned.actions[-1] == SetRevision("3")


def test_a_settled_deployment_plans_nothing() -> None:
    found = deployment(3)
    found.metadata.annotations = {revisions.REVISION: "1"}
    rs = rs_of(found, 3)
    found.status = step(found, rs).status
    planned = step(found, rs)
    assert planned.actions == ()
    assert planned.status == found.status


def test_conditions_keep_their_transition_time() -> None:
    one = conditions.make_condition("Available", "True", "A", "", now=NOW)
    same = conditions.with_condition([one], conditions.make_condition("Available", "True", "A", "new", now=NOW + 9))
    assert same == [one]
    (other,) = conditions.with_condition([one], conditions.make_condition("Available", "True", "B", "", now=NOW + 9))
    assert other.lastTransitionTime == one.lastTransitionTime
    assert other.lastUpdateTime != one.lastUpdateTime


# --- the invariants of a rolling update, whatever happens meanwhile -------------------------------------------------


@given(
    replicas=st.integers(0, 12),
    surge=st.one_of(st.integers(0, 4), st.integers(0, 100).map("{}%".format)),
    unavailable=st.one_of(st.integers(0, 4), st.integers(0, 100).map("{}%".format)),
    luck=st.lists(st.integers(0, 5), max_size=30),
    images=st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_rolling_update_keeps_its_promises_and_converges(
    replicas: int, surge: Any, unavailable: Any, luck: list[int], images: list[int]
) -> None:
    sets: dict[str, apps_v1.ReplicaSet] = {}
    clock = 0
    for image in images:
        found = deployment(replicas, image=f"web:{image}", surge=surge, unavailable=unavailable)
        most, least = replicas + size.limits(found)[0], size.min_available(found)
        # what is left of an unfinished rollout may be above the ceiling of none: settle, then change the template
        for turn in range(300):
            clock += 1
            before = sum(size.available(rs) for rs in sets.values())
            wanted_before = size.total(sets.values())
            planned = plan(Observed(found, [*sets.values()], {}, NOW + clock))
            for action in planned.actions:
                if isinstance(action, CreateReplicaSet):
                    action.replica_set.metadata.creationTimestamp = stamp(-clock)
                    action.replica_set.status = apps_v1.ReplicaSetStatus()
                    sets[objects.name(action.replica_set)] = action.replica_set
                elif isinstance(action, UpdateReplicaSet):
                    sets[objects.name(action.after)] = action.after
            found.status = planned.status
            assert size.total(sets.values()) <= max(most, wanted_before)
            # the ReplicaSet controller deletes what is not available first
            for name, rs in sets.items():
                available = min(size.available(rs), size.wanted(rs))
                sets[name].status = apps_v1.ReplicaSetStatus(
                    replicas=size.wanted(rs), readyReplicas=available, availableReplicas=available
                )
            after = sum(size.available(rs) for rs in sets.values())
            assert after >= min(before, least), "a step took away what had to stay"
            # some pods become available, as luck has it (in the end all do)
            budget = luck[turn] if turn < len(luck) else 100
            for rs in sets.values():
                more = min(budget, size.wanted(rs) - size.available(rs))
                rs.status.availableReplicas = size.available(rs) + more  # type: ignore[union-attr]
                rs.status.readyReplicas = rs.status.availableReplicas  # type: ignore[union-attr]
                budget -= more
        new = revisions.find_new(found, sets.values())
        assert new is not None
        assert size.wanted(new) == replicas
        assert size.total(sets.values()) == replicas
        assert conditions.is_complete(found, found.status)  # type: ignore[arg-type]


@given(before=st.integers(1, 30), after=st.integers(0, 30), share=st.integers(0, 100), surge=st.integers(0, 5))
def test_proportional_scaling_hits_the_total(before: int, after: int, share: int, surge: int) -> None:
    was = deployment(before, surge=surge, unavailable=1)
    total = before + surge
    new_part = max(1, total * share // 100)
    old_part = max(1, total - new_part)
    old, new = rs_of(was, old_part), rs_of(deployment(before, image="web:2", surge=surge, unavailable=1), new_part)
    now = deployment(after, image="web:2", surge=surge, unavailable=1)
    found = size.proportional(now, [old, new])
    assert all(value >= 0 for value in found.values())
    assert sum(found.values()) == (after + surge if after else 0)


# --- with the controllers --------------------------------------------------------------------------------------------


async def roll(cluster: Cluster, *, ready: bool = True, rounds: int = 30) -> None:
    for _ in range(rounds):
        await cluster.settle()
        if not kubelet(cluster.api, ready=ready):
            return
    raise AssertionError("the rollout does not end")


def found_in(cluster: Cluster) -> dict[str, Any]:
    obj = cluster.api.find("Deployment", "web", "default")
    assert obj is not None
    return obj


def fresh(replicas: int, **fields: Any) -> apps_v1.Deployment:
    made = deployment(replicas, **fields)
    made.metadata.uid = made.metadata.creationTimestamp = made.metadata.generation = None
    return made


async def test_rollout_update_and_undo() -> None:
    async with running(DeploymentController, ReplicaSetController) as cluster:
        await cluster.client.create(fresh(4))
        await roll(cluster)
        assert found_in(cluster)["status"]["availableReplicas"] == 4
        assert found_in(cluster)["metadata"]["annotations"][revisions.REVISION] == "1"
        patch = {"spec": {"template": objects.to_dict(template("web:2"))}}
        await cluster.client.patch(apps_v1.Deployment, "web", patch, namespace="default")
        await roll(cluster)
        images = [p["spec"]["containers"][0]["image"] for p in cluster.api.all("Pod")]
        assert images == ["web:2"] * 4
        assert found_in(cluster)["metadata"]["annotations"][revisions.REVISION] == "2"
        patch = {"spec": {"template": objects.to_dict(template("web:1"))}}
        await cluster.client.patch(apps_v1.Deployment, "web", patch, namespace="default")
        await roll(cluster)
        assert [p["spec"]["containers"][0]["image"] for p in cluster.api.all("Pod")] == ["web:1"] * 4
        assert len(cluster.api.all("ReplicaSet")) == 2
        assert found_in(cluster)["metadata"]["annotations"][revisions.REVISION] == "3"
        status = found_in(cluster)["status"]
        assert status["observedGeneration"] == found_in(cluster)["metadata"]["generation"]
        before = len(cluster.api.requests)
        await cluster.advance(3600)
        assert len(cluster.api.requests) == before, "an idle controller writes nothing"


async def test_scale() -> None:
    async with running(DeploymentController, ReplicaSetController) as cluster:
        await cluster.client.create(fresh(2))
        await roll(cluster)
        await cluster.client.patch(apps_v1.Deployment, "web", {"spec": {"replicas": 5}}, namespace="default")
        await roll(cluster)
        assert found_in(cluster)["status"]["availableReplicas"] == 5
        assert ("ScalingReplicaSet" in cluster.notes.reasons()) is True


async def test_a_stuck_rollout_is_reported_in_time() -> None:
    async with running(DeploymentController, ReplicaSetController) as cluster:
        await cluster.client.create(fresh(2, deadline=60))
        await roll(cluster, ready=False)
        await cluster.advance(90)
        (found,) = [c for c in found_in(cluster)["status"]["conditions"] if c["type"] == "Progressing"]
        assert (found["status"], found["reason"]) == ("False", "ProgressDeadlineExceeded")


async def test_a_hash_collision_takes_another_name() -> None:
    async with running(DeploymentController, ReplicaSetController) as cluster:
        made = fresh(1)
        squatter = revisions.new_replica_set(made, replicas=0, annotations={})
        squatter.metadata.ownerReferences = []
        squatter.spec.template = template("other")  # type: ignore[union-attr]
        squatter.spec.selector.matchLabels = {"app": "other"}  # type: ignore[union-attr]
        squatter.metadata.labels = {"app": "other"}
        await cluster.client.create(squatter)
        await cluster.client.create(made)
        await roll(cluster)
        assert found_in(cluster)["status"]["collisionCount"] == 1
        assert found_in(cluster)["status"]["availableReplicas"] == 1


async def test_a_stale_cache_makes_no_second_replica_set() -> None:
    async with running(DeploymentController) as cluster:
        cluster.api.hold("replicasets.apps")
        await cluster.client.create(fresh(1))
        for number in range(3):
            patch = {"metadata": {"annotations": {"look": str(number)}}}
            await cluster.client.patch(apps_v1.Deployment, "web", patch, namespace="default")
            await cluster.clock.advance(1)
        assert len(cluster.api.all("ReplicaSet")) == 1
        cluster.api.release()
        await cluster.advance(10)
        assert len(cluster.api.all("ReplicaSet")) == 1
        assert not found_in(cluster)["status"].get("collisionCount")
