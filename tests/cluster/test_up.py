"""`ktool up`, `status` and `down` as a user sees them."""

from __future__ import annotations

import json
import os
import re

import psutil
import pytest

from kube import quantity
from tests.cluster.real_cluster import NODE_ADDRESS, Cluster, get


def test_up_shows_nodes_pods_answers_of_several_pods_and_what_to_do_next(cluster: Cluster) -> None:
    assert cluster.first_up is not None
    told = cluster.first_up.stdout
    assert re.search(r"The cluster is up \(\d+\.\d s\)", told)
    assert re.search(rf"^\S+ +Ready .*{re.escape(NODE_ADDRESS)}", told, re.MULTILINE)
    assert len(re.findall(r"^web +web-\S+ +1/1 +Running", told, re.MULTILINE)) == 3
    answers = re.findall(r"^  (http://\S+) +(\d+) × Hello from pod (web-\S+) on node (\S+)$", told, re.MULTILINE)
    assert len({pod for _, _, pod, _ in answers}) >= 2, "the load is not spread"
    assert {url for url, *_ in answers} >= {f"http://{NODE_ADDRESS}:30080/"}
    assert len({url for url, *_ in answers}) == 2, "cluster IP and node port"
    assert sum(int(count) for _, count, *_ in answers) == 18
    assert f"kubeconfig: {cluster.kubeconfig}" in told
    assert len(told.split("Try next:\n")[1].strip().splitlines()) == 3
    assert "Traceback" not in cluster.first_up.stderr
    assert "\x1b[" not in told + cluster.first_up.stderr, "plain lines where there is no terminal"


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    pids = {name: cluster.pid(name) for name in cluster.services.names()}
    before = {p.metadata.uid: p.metadata.resource_version for p in cluster.pods("web")}
    generation = cluster.apps.read_namespaced_deployment("web", "web").metadata.generation
    told = cluster.up("--example")
    steps = [line for line in told.stderr.splitlines() if line]
    assert steps
    assert [line for line in steps if not line.startswith("·")] == []
    assert {name: cluster.pid(name) for name in cluster.services.names()} == pids
    assert {p.metadata.uid: p.metadata.resource_version for p in cluster.pods("web")} == before
    assert cluster.apps.read_namespaced_deployment("web", "web").metadata.generation == generation


def test_the_node_has_the_machines_real_capacity(cluster: Cluster) -> None:
    node = cluster.core.list_node().items[0]
    assert node.status.capacity["cpu"] == str(psutil.cpu_count())
    memory = int(node.status.capacity["memory"].removesuffix("Ki")) * 1024
    assert memory == psutil.virtual_memory().total // 1024 * 1024
    addresses = {a.type: a.address for a in node.status.addresses}
    assert addresses["InternalIP"] == NODE_ADDRESS
    assert node.status.node_info.kernel_version == os.uname().release
    assert node.status.node_info.container_runtime_version.startswith("docker://")
    conditions = {c.type: c.status for c in node.status.conditions}
    pressure = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    assert conditions.items() >= {"Ready": "True", **pressure}.items()


def test_the_agent_joined_as_any_other_agent_will(cluster: Cluster) -> None:
    import kubernetes.client

    node = cluster.core.list_node().items[0].metadata.name
    requests = kubernetes.client.CertificatesV1Api(cluster.api_client).list_certificate_signing_request().items
    joined = [r for r in requests if r.spec.signer_name == "kubernetes.io/kube-apiserver-client-kubelet"]
    assert joined
    assert joined[0].spec.username.startswith("system:bootstrap:")
    assert "system:bootstrappers" in joined[0].spec.groups
    assert {c.type for c in joined[0].status.conditions} == {"Approved"}
    tokens = [s for s in cluster.core.list_namespaced_secret("kube-system").items if "bootstrap" in s.type]
    assert all(s.data.get("expiration") for s in tokens), "a join token must end"
    leases = kubernetes.client.CoordinationV1Api(cluster.api_client)
    assert leases.read_namespaced_lease(node, "kube-node-lease").spec.holder_identity == node


def test_status_at_a_glance(cluster: Cluster) -> None:
    told = cluster.ktool("status").stdout
    node = cluster.core.list_node().items[0].metadata.name
    assert re.search(r"^master +ready \(\d+ checks\), v1\.32", told, re.MULTILINE)
    assert re.search(rf"^{re.escape(node)} +Ready .* {psutil.cpu_count()} +\d+% ", told, re.MULTILINE)
    assert f"{psutil.virtual_memory().total / 2**30:.1f} GiB" in told
    assert len(re.findall(r"^web +web-\S+ +1/1 +Running", told, re.MULTILINE)) == 3


def test_status_as_data_has_the_machines_real_numbers(cluster: Cluster) -> None:
    found = json.loads(cluster.ktool("status", "-o", "json").stdout)
    assert found["healthy"] is True
    assert all(found["master"].values())
    assert {"poststarthook/scheduler", "poststarthook/controllers"} <= found["master"].keys()
    (node,) = found["nodes"]
    assert node["ready"] is True
    assert node["cpu"] == psutil.cpu_count()
    assert node["memory"] == psutil.virtual_memory().total // 1024 * 1024
    assert 0 <= float(node["measured"]["cpu-percent"]) <= 100
    available = quantity.value(node["measured"]["memory-available"])
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.25)
    assert len([p for p in found["pods"] if p["namespace"] == "web" and p["status"] == "Running"]) == 3


def test_the_example_answers_at_both_addresses(cluster: Cluster) -> None:
    address = cluster.core.read_namespaced_service("web", "web").spec.cluster_ip
    for url in (f"http://{address}/", f"http://{NODE_ADDRESS}:30080/"):
        assert {get(url).split()[3] for _ in range(30)} == {p.metadata.name for p in cluster.pods("web")}


def test_down_keep_data_then_up_brings_the_same_objects_back(no_cluster: Cluster) -> None:
    cluster = no_cluster
    cluster.up()
    cluster.core.create_namespaced_config_map("default", {"metadata": {"name": "kept"}, "data": {"a": "1"}})
    kept = cluster.core.read_namespaced_config_map("kept", "default").metadata
    ca = (cluster.data_dir / "pki" / "ca.crt").read_bytes()
    node = cluster.core.list_node().items[0].metadata.uid
    told = cluster.down("--keep-data")
    assert "kept:" in told.stdout
    assert not [name for name in cluster.services.names() if cluster.services.status(name).running]

    cluster.up()
    again = cluster.core.read_namespaced_config_map("kept", "default").metadata
    assert (again.uid, again.resource_version) == (kept.uid, kept.resource_version)
    assert (cluster.data_dir / "pki" / "ca.crt").read_bytes() == ca
    assert cluster.core.list_node().items[0].metadata.uid == node

    told = cluster.down()
    assert "Nothing of the cluster is left." in told.stdout
    assert not cluster.data_dir.exists()
    assert not (cluster.docker_root / "data").exists()
    assert not cluster.left_over(), "\n".join(cluster.left_over())
    assert "There was nothing to remove." in cluster.down().stdout


def test_programs_that_were_loaded_ahead_go_on(no_cluster: Cluster) -> None:
    cluster = no_cluster
    told = cluster.ktool("preload", "--control-plane", "--supervisor", "supervisord")
    assert "Loaded; waiting" in told.stdout
    loaded = {name: cluster.pid(name) for name in ("master", "agent")}
    assert not cluster.kubeconfig.exists()

    cluster.up()
    assert {name: cluster.pid(name) for name in loaded} == loaded
    assert cluster.core.list_node().items[0].status.node_info.kubelet_version
    told = cluster.ktool("preload", "--control-plane", "--supervisor", "supervisord")
    assert {name: cluster.pid(name) for name in loaded} == loaded, "who has work to do is left alone"
    assert [line for line in cluster.up().stderr.splitlines() if line and not line.startswith("·")] == []

    cluster.up("--api-port", "7443")
    assert cluster.pid("master") != loaded["master"], "told otherwise, it is started anew"
    cluster.down()
    assert not cluster.left_over(), "\n".join(cluster.left_over())
