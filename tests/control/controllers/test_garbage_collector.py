from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control.controllers import pod_gc
from control.controllers.controller import Context
from control.controllers.deployment import DeploymentController
from control.controllers.discovery import Metadata
from control.controllers.garbage_collector import GarbageCollector
from control.controllers.owner_graph import Attempt, OwnerGraph, Verb
from control.controllers.pod_gc import PodGCController
from control.controllers.replica_set import ReplicaSetController
from kube import kinds, objects
from kube.models import apps_v1, core_v1, meta_v1
from tests.control.controllers.cluster import Cluster, pod, running
from tests.control.controllers.test_deployment import fresh, roll

RS = kinds.known("apps", "v1", "replicasets")
POD = kinds.known("", "v1", "pods")
NODE = kinds.known("", "v1", "nodes")


def ref(name: str, *, kind: str = "ReplicaSet", uid: str | None = None, block: bool = True) -> meta_v1.OwnerReference:
    version = {"ReplicaSet": "apps/v1", "Deployment": "apps/v1"}.get(kind, "v1")
    return meta_v1.OwnerReference(
        apiVersion=version, kind=kind, name=name, uid=uid or f"uid-{name}", controller=True, blockOwnerDeletion=block
    )


def meta(name: str, *owners: meta_v1.OwnerReference, **fields: Any) -> Metadata:
    fields.setdefault("namespace", "default")
    return Metadata(name=name, uid=f"uid-{name}", ownerReferences=[*owners], **fields)


def graph() -> OwnerGraph:
    return OwnerGraph({("apps/v1", "ReplicaSet"): RS, ("v1", "Pod"): POD, ("v1", "Node"): NODE})


def test_an_owner_nobody_saw_is_verified_and_its_dependents_found() -> None:
    found = graph()
    assert found.put(POD, meta("p", ref("rs"))) == [Attempt(Verb.VERIFY, "uid-rs")]
    assert found.nodes["uid-rs"].virtual
    assert found.put(RS, meta("rs")) == []
    assert not found.nodes["uid-rs"].virtual
    assert found.remove("uid-rs") == [Attempt(Verb.DELETE, "uid-p")]


def test_foreground_deletion_tries_dependents_then_the_owner() -> None:
    found = graph()
    found.put(RS, meta("rs"))
    found.put(POD, meta("p", ref("rs")))
    going = meta("rs", deletionTimestamp="2025-01-01T00:00:00Z", finalizers=["foregroundDeletion"])
    assert found.put(RS, going) == [Attempt(Verb.DELETE, "uid-p"), Attempt(Verb.DELETE, "uid-rs")]
    assert found.put(RS, going) == [], "once"
    assert [n.identity.name for n in found.blocking(found.nodes["uid-rs"])] == ["p"]
    assert found.put(POD, meta("p", ref("rs", block=False))) == [Attempt(Verb.DELETE, "uid-rs")]
    assert found.blocking(found.nodes["uid-rs"]) == []
    assert found.remove("uid-p") == [Attempt(Verb.DELETE, "uid-rs")]


def test_orphaning_is_tried_once() -> None:
    found = graph()
    going = meta("rs", deletionTimestamp="2025-01-01T00:00:00Z", finalizers=["orphan"])
    assert found.put(RS, going) == [Attempt(Verb.ORPHAN, "uid-rs")]
    assert found.put(RS, going) == []


def test_owners_of_other_namespaces_are_no_owners() -> None:
    found = graph()
    found.put(RS, meta("rs", namespace="other"))
    assert found.put(POD, meta("p", ref("rs"))) == [Attempt(Verb.DELETE, "uid-p")]
    assert found.resolve(ref("n", kind="Node"), "default").namespace == ""


def test_a_virtual_owner_without_dependents_is_forgotten() -> None:
    found = graph()
    found.put(POD, meta("p", ref("rs")))
    found.put(POD, meta("p"))
    assert "uid-rs" not in found.nodes
    found.put(POD, meta("q", ref("rs")))
    found.remove("uid-q")
    assert found.nodes.keys() == {"uid-p"}


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 5), max_size=3), st.booleans()), max_size=30))
def test_edges_are_symmetric_whatever_happens(steps: list[tuple[int, set[int], bool]]) -> None:
    found = graph()
    for number, owners, gone in steps:
        if gone:
            found.remove(f"uid-o{number}")
        else:
            references = [ref(f"o{o}", kind="Pod") for o in sorted(owners) if o != number]
            found.put(POD, meta(f"o{number}", *references))
        for uid, node in found.nodes.items():
            assert all(d in found.nodes and uid in found.nodes[d].owners for d in node.dependents)
            assert not (node.virtual and not node.dependents)


# --- the controller ---------------------------------------------------------------------------------------------------


def count(cluster: Cluster, *names: str) -> list[int]:
    return [len(cluster.api.all(kind)) for kind in names]


async def test_background_deletion_of_a_deployment() -> None:
    async with running(DeploymentController, ReplicaSetController, GarbageCollector) as cluster:
        await cluster.client.create(fresh(5))
        await roll(cluster)
        assert count(cluster, "ReplicaSet", "Pod") == [1, 5]
        await cluster.client.delete(apps_v1.Deployment, "web", namespace="default")
        await roll(cluster)
        assert count(cluster, "Deployment", "ReplicaSet", "Pod") == [0, 0, 0]
        before = len(cluster.api.requests)
        await cluster.advance(600)
        assert len(cluster.api.requests) == before


async def test_foreground_deletion_of_a_deployment() -> None:
    async with running(DeploymentController, ReplicaSetController, GarbageCollector, graceful_pods=True) as cluster:
        await cluster.client.create(fresh(2))
        await roll(cluster)
        for found in cluster.api.all("Pod"):
            cluster.api.change("Pod", found["metadata"]["name"], "default", spec={"nodeName": "n1"})
        await cluster.client.delete(apps_v1.Deployment, "web", namespace="default", propagation_policy="Foreground")
        await cluster.settle()
        assert count(cluster, "Deployment", "ReplicaSet", "Pod") == [1, 1, 2], "pods take their time, owners wait"
        assert all(p["metadata"].get("deletionTimestamp") for p in cluster.api.all("Pod"))
        await roll(cluster)
        assert count(cluster, "Deployment", "ReplicaSet", "Pod") == [0, 0, 0]


async def test_orphaning_keeps_the_dependents() -> None:
    async with running(GarbageCollector) as cluster:
        rs = fresh_set()
        made = await cluster.client.create(rs)
        await cluster.client.create(owned("p", made))
        await cluster.settle()
        await cluster.client.delete(apps_v1.ReplicaSet, "rs", namespace="default", propagation_policy="Orphan")
        await cluster.settle()
        assert count(cluster, "ReplicaSet", "Pod") == [0, 1]
        assert cluster.api.all("Pod")[0]["metadata"].get("ownerReferences", []) == []


def fresh_set(name: str = "rs") -> apps_v1.ReplicaSet:
    return apps_v1.ReplicaSet(metadata=meta_v1.ObjectMeta(name=name, namespace="default"))


def owned(name: str, *owners: Any) -> core_v1.Pod:
    references = [o if isinstance(o, meta_v1.OwnerReference) else objects.owner_reference(o) for o in owners]
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, namespace="default", ownerReferences=references))


async def test_only_dependents_of_owners_that_are_really_gone() -> None:
    async with running(GarbageCollector) as cluster:
        rs = await cluster.client.create(fresh_set())
        await cluster.client.create(owned("kept", rs))
        await cluster.client.create(owned("absent", ref("never", uid="no-such-uid")))
        await cluster.client.create(owned("renewed", ref("rs", uid="an-older-uid")))
        await cluster.client.create(owned("strange", ref("x", kind="Widget", uid="unknown-kind")))
        await cluster.client.create(owned("shared", rs, ref("never", uid="no-such-uid")))
        await cluster.client.create(core_v1.Pod(metadata=meta_v1.ObjectMeta(name="free", namespace="default")))
        await cluster.settle()
        left = {p["metadata"]["name"] for p in cluster.api.all("Pod")}
        assert left == {"kept", "strange", "shared", "free"}
        shared = cluster.api.find("Pod", "shared", "default")
        assert shared is not None
        assert [o["name"] for o in shared["metadata"]["ownerReferences"]] == ["rs"]


async def test_a_cache_that_lags_behind_deletes_nothing() -> None:
    """The collector hears of a pod and not of its owner: it must ask before it acts."""
    async with running(GarbageCollector) as cluster:
        cluster.api.hold("replicasets.apps")
        rs = await cluster.client.create(fresh_set())
        await cluster.client.create(owned("p", rs))
        await cluster.advance(100)
        assert len(cluster.api.all("Pod")) == 1
        cluster.api.release()
        await cluster.settle()
        await cluster.client.delete(apps_v1.ReplicaSet, "rs", namespace="default")
        await cluster.settle()
        assert cluster.api.all("Pod") == []


async def test_a_wrong_reference_harms_nobody_else() -> None:
    async with running(GarbageCollector) as cluster:
        # the pod that names its owner wrongly is seen first, and the owner last
        cluster.api.hold("replicasets.apps")
        rs = await cluster.client.create(fresh_set())
        await cluster.client.create(owned("wrong", ref("misspelt", uid=objects.uid(rs))))
        await cluster.client.create(owned("right", rs))
        await cluster.settle()
        cluster.api.release()
        await cluster.settle()
        assert [p["metadata"]["name"] for p in cluster.api.all("Pod")] == ["right"]
        await cluster.client.delete(apps_v1.ReplicaSet, "rs", namespace="default")
        await cluster.settle()
        assert cluster.api.all("Pod") == []


async def test_a_circle_of_foreground_deletions_opens() -> None:
    async with running(GarbageCollector) as cluster:
        one = await cluster.client.create(owned("one"))
        two = await cluster.client.create(owned("two", one))
        back = {"metadata": {"ownerReferences": [objects.to_dict(objects.owner_reference(two))]}}
        await cluster.client.patch(core_v1.Pod, "one", back, namespace="default")
        await cluster.settle()
        await cluster.client.delete(core_v1.Pod, "one", namespace="default", propagation_policy="Foreground")
        await cluster.settle()
        assert cluster.api.all("Pod") == []


# --- pods that nobody cleans up ---------------------------------------------------------------------------------------


def test_surplus_takes_the_oldest_ended() -> None:
    pods = [pod(f"p{i}", phase="Succeeded", age=100 - i) for i in range(5)] + [pod("runs", age=999)]
    assert [objects.name(p) for p in pod_gc.surplus(pods, 3)] == ["p0", "p1"]
    assert pod_gc.surplus(pods, 5) == []
    assert pod_gc.surplus(pods, 0) == []


async def test_pods_of_a_node_that_is_gone() -> None:
    async with running(PodGCController) as cluster:
        cluster.api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        cluster.api.put(objects.to_dict(pod("p", node="n1")))
        await cluster.settle()
        cluster.api.remove("Node", "n1")
        await cluster.advance(30)
        assert cluster.api.find("Pod", "p", "default") is not None
        await cluster.advance(20)
        assert cluster.api.find("Pod", "p", "default") is None


async def test_a_node_that_comes_back_keeps_its_pods() -> None:
    async with running(PodGCController) as cluster:
        cluster.api.put(objects.to_dict(pod("p", node="n1")))
        await cluster.advance(30)
        cluster.api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        await cluster.advance(60)
        assert cluster.api.find("Pod", "p", "default") is not None


async def test_too_many_ended_pods() -> None:
    def make(context: Context) -> PodGCController:
        return PodGCController(context, ended_threshold=2)

    async with running(make) as cluster:
        for i in range(5):
            cluster.api.put(objects.to_dict(pod(f"p{i}", phase="Failed", age=100 - i)))
        await cluster.advance(10)
        assert sorted(p["metadata"]["name"] for p in cluster.api.all("Pod")) == ["p3", "p4"]
