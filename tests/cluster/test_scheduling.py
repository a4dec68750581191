"""Where pods go, and what is told when they can go nowhere."""

from __future__ import annotations

import subprocess

from tests.cluster.manifests import container, pod
from tests.cluster.real_cluster import Cluster, eventually


def why_pending(cluster: Cluster, namespace: str, name: str) -> str:
    """Message of the pod's condition PodScheduled=False."""
    found = eventually(
        lambda: [
            c
            for c in cluster.core.read_namespaced_pod(name, namespace).status.conditions or ()
            if c.type == "PodScheduled"
        ],
        timeout=10,
    )
    assert (found[0].status, found[0].reason) == ("False", "Unschedulable")
    return found[0].message


def test_an_unschedulable_pod_explains_itself_and_waits(cluster: Cluster, namespace: str) -> None:
    huge = container(resources={"requests": {"cpu": "400", "memory": "1Mi"}})
    cluster.core.create_namespaced_pod(namespace, pod("huge", huge))
    message = why_pending(cluster, namespace, "huge")
    assert message.startswith("0/1 nodes are available: 1 Insufficient cpu.")
    told = eventually(
        lambda: [
            e.message for e in cluster.core.list_namespaced_event(namespace).items if e.reason == "FailedScheduling"
        ]
    )
    assert told[0] == message
    assert cluster.ktool("get", "pod", "huge", "-n", namespace).stdout.splitlines()[1].split()[2] == "Pending"


def test_a_node_selector_is_obeyed_as_soon_as_it_can_be(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("picky", nodeSelector={"disk": "fast"}))
    assert "1 node(s) didn't match Pod's node affinity/selector" in why_pending(cluster, namespace, "picky")
    node = cluster.core.list_node().items[0].metadata.name
    cluster.core.patch_node(node, {"metadata": {"labels": {"disk": "fast"}}})
    try:
        cluster.running(namespace, "picky", timeout=15)
    finally:
        cluster.core.patch_node(node, {"metadata": {"labels": {"disk": None}}})


def test_cordon_and_taints(cluster: Cluster, namespace: str) -> None:
    node = cluster.core.list_node().items[0].metadata.name
    cluster.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        eventually(
            lambda: [t.key for t in cluster.core.read_node(node).spec.taints or ()],
            lambda keys: "node.kubernetes.io/unschedulable" in keys,
        )
        cluster.core.create_namespaced_pod(namespace, pod("waits"))
        assert "unschedulable" in why_pending(cluster, namespace, "waits")
        tolerant = pod("goes", tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
        cluster.core.create_namespaced_pod(namespace, tolerant)
        cluster.running(namespace, "goes")
    finally:
        cluster.core.patch_node(node, {"spec": {"unschedulable": None}})
    cluster.running(namespace, "waits", timeout=20)


def test_host_ports_exclude_each_other(cluster: Cluster, namespace: str) -> None:
    listener = container("exec httpd -f -p 8080", ports=[{"containerPort": 8080, "hostPort": 18080}])
    cluster.core.create_namespaced_pod(namespace, pod("first", listener))
    first = cluster.running(namespace, "first").status.pod_ip
    eventually(forwarded, lambda found: f"{first} . 8080" in found)
    cluster.core.create_namespaced_pod(namespace, pod("second", listener))
    assert "didn't have free ports for the requested pod ports" in why_pending(cluster, namespace, "second")
    cluster.core.delete_namespaced_pod("first", namespace)
    second = cluster.running(namespace, "second", timeout=20).status.pod_ip
    eventually(forwarded, lambda found: f"{second} . 8080" in found)
    cluster.core.delete_namespaced_pod("second", namespace)
    eventually(forwarded, lambda found: "18080" not in found, timeout=20)


def forwarded() -> str:
    """Where the proxy's rules send what comes from outside to the node's ports."""
    lists = ["nft", "list", "map", "ip", "ktool-proxy", "local-node-port-tcp-endpoints"]
    return subprocess.run(lists, capture_output=True, text=True, timeout=10, check=False).stdout
