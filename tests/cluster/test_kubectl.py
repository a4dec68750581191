"""The machine's stock kubectl against a cluster."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster import manifests
from tests.cluster.real_cluster import Cluster, Follower, eventually, get
from tests.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "web.yaml"

pytestmark = pytest.mark.usefixtures("kubectl")


def test_get_nodes_pods_services(cluster: Cluster) -> None:
    told = cluster.kubectl("get", "nodes,pods,svc", "-A", "-o", "wide").stdout
    assert re.search(r"^node/\S+ +Ready ", told, re.MULTILINE)
    assert re.search(r"INTERNAL-IP +EXTERNAL-IP +OS-IMAGE +KERNEL-VERSION +CONTAINER-RUNTIME", told)
    assert len(re.findall(r"^web +pod/web-\S+ +1/1 +Running +\d+", told, re.MULTILINE)) == 3
    assert re.search(r"^web +service/web +NodePort +10\.96\.\d+\.\d+ +<none> +80:30080/TCP", told, re.MULTILINE)
    assert re.search(r"^default +service/kubernetes +ClusterIP +10\.96\.0\.1 ", told, re.MULTILINE)


def test_apply_twice_change_and_delete(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    manifest = tmp_path / "all.yaml"
    objects = [manifests.config_map("settings", a="1"), manifests.deployment("web", replicas=1)]
    manifest.write_text(yaml.safe_dump_all(objects))
    told = cluster.kubectl("-n", namespace, "apply", "-f", str(manifest)).stdout.splitlines()
    assert told == ["configmap/settings created", "deployment.apps/web created"]
    told = cluster.kubectl("-n", namespace, "apply", "-f", str(manifest)).stdout.splitlines()
    assert told == ["configmap/settings unchanged", "deployment.apps/web unchanged"]
    # ktool and kubectl remember what was applied in the same place
    told = cluster.ktool("apply", "-n", namespace, "-f", str(manifest)).stdout.splitlines()
    assert told == ["configmap/settings unchanged", "deployment.apps/web unchanged"]

    objects[1]["spec"]["replicas"] = 2
    objects[1]["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "MORE", "value": "1"})
    manifest.write_text(yaml.safe_dump_all(objects))
    told = cluster.kubectl("-n", namespace, "apply", "-f", str(manifest)).stdout.splitlines()
    assert told == ["configmap/settings unchanged", "deployment.apps/web configured"]
    found = cluster.available(namespace, "web")
    assert [e.name for e in found.spec.template.spec.containers[0].env] == ["ANSWER", "MORE"]

    told = cluster.kubectl("-n", namespace, "delete", "-f", str(manifest)).stdout.splitlines()
    assert len(told) == 2
    eventually(lambda: cluster.pods(namespace), lambda pods: not pods, what="the pods are gone")


def test_the_example_applied_again_is_unchanged(cluster: Cluster) -> None:
    told = cluster.kubectl("apply", "-f", str(EXAMPLE)).stdout.splitlines()
    assert [line.split()[1] for line in told] == ["unchanged"] * 4


def test_server_side_apply_and_diff_free_dry_run(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    manifest = tmp_path / "map.yaml"
    manifest.write_text(yaml.safe_dump(manifests.config_map("dry", a="1")))
    told = cluster.kubectl("-n", namespace, "apply", "-f", str(manifest), "--dry-run=server").stdout
    assert told == "configmap/dry created (server dry run)\n"
    missing = cluster.kubectl("-n", namespace, "get", "configmap", "dry", check=False)
    assert "not found" in missing.stderr


def test_get_watch(cluster: Cluster, namespace: str) -> None:
    with kubectl_beside(cluster, "-n", namespace, "get", "pods", "-w") as beside:
        cluster.core.create_namespaced_pod(namespace, manifests.pod("seen"))
        eventually(beside.text, lambda text: re.search(r"^seen +1/1 +Running", text, re.MULTILINE), timeout=30)
        cluster.core.delete_namespaced_pod("seen", namespace)
        eventually(
            beside.text, lambda text: re.search(r"^seen +\d/1 +(Terminating|Completed|Error)", text, re.MULTILINE)
        )


def test_scale_rollout_status_restart_undo(cluster: Cluster, namespace: str) -> None:
    kubectl = lambda *arguments: cluster.kubectl("-n", namespace, *arguments).stdout  # noqa: E731
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=1))
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert kubectl("scale", "deployment/web", "--replicas=3") == "deployment.apps/web scaled\n"
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert len([p for p in cluster.pods(namespace) if p.metadata.deletion_timestamp is None]) == 3
    kubectl("scale", "deployment/web", "--replicas=1")

    kubectl("set", "env", "deployment/web", "ANSWER=goodbye")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pod = answering_pod(cluster, namespace)
    assert get(f"http://{pod.status.pod_ip}:8080/").split()[0] == "goodbye"
    assert len(re.findall(r"^\d+ ", kubectl("rollout", "history", "deployment/web"), re.MULTILINE)) == 2

    assert "rolled back" in kubectl("rollout", "undo", "deployment/web")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pod = answering_pod(cluster, namespace)
    assert get(f"http://{pod.status.pod_ip}:8080/").split()[0] == "hello"

    kubectl("rollout", "restart", "deployment/web")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert answering_pod(cluster, namespace).metadata.name != pod.metadata.name


def answering_pod(cluster: Cluster, namespace: str) -> object:
    (pod,) = [p for p in cluster.pods(namespace) if p.metadata.deletion_timestamp is None]
    return pod


def test_describe_and_events(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, manifests.pod("told"))
    cluster.running(namespace, "told")
    text = eventually(
        lambda: cluster.kubectl("-n", namespace, "describe", "pod", "told").stdout,
        lambda text: "Started container main" in text,
    )
    for reason in ("Scheduled", "Created", "Started"):
        assert re.search(rf"Normal +{reason} ", text)
    assert "Successfully assigned" in text
    node = cluster.kubectl("describe", "nodes").stdout
    assert "Allocated resources" in node
    assert re.search(rf"^ +{namespace} +told ", node, re.MULTILINE)
    web = cluster.kubectl("-n", "web", "describe", "deployment", "web").stdout
    assert "3 desired | 3 updated | 3 total | 3 available" in web
    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in web
    service = cluster.kubectl("-n", "web", "describe", "service", "web").stdout
    assert len(re.findall(r"10\.244\.\d+\.\d+:8080", service)) == 3


def test_logs(cluster: Cluster, namespace: str) -> None:
    script = "echo first; echo oops >&2; sleep 1; echo last; exec sleep 60"
    cluster.core.create_namespaced_pod(namespace, manifests.pod("talker", manifests.container(script)))
    cluster.running(namespace, "talker")
    with kubectl_beside(cluster, "-n", namespace, "logs", "-f", "talker") as beside:
        # the order between standard output and standard error is nobody's promise
        eventually(beside.text, lambda text: sorted(text.splitlines()) == ["first", "last", "oops"], timeout=10)
    assert cluster.kubectl("-n", namespace, "logs", "talker", "--tail=1").stdout in ("last\n", "oops\n")
    selected = cluster.kubectl("-n", "web", "logs", "-l", "app.kubernetes.io/name=web", "--tail=1").stdout
    assert len(selected.splitlines()) == 3


def test_exec_passes_output_input_and_exit_status(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, manifests.pod("box"))
    cluster.running(namespace, "box")
    run = lambda *command, stdin=None: cluster.kubectl(  # noqa: E731
        "-n", namespace, "exec", *(["-i"] if stdin else []), "box", "--", *command, check=False, stdin=stdin
    )
    told = run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (told.returncode, told.stdout) == (7, "out\n")
    assert told.stderr.startswith("err\n")
    assert run("true").returncode == 0
    assert run("cat", stdin="through the wire\n").stdout == "through the wire\n"
    big = "0123456789abcdef" * 40_000
    assert run("md5sum", stdin=big).stdout.split()[0] == hashlib.md5(big.encode()).hexdigest()
    assert run("no-such-command").returncode != 0


def test_port_forward(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=1))
    cluster.core.create_namespaced_service(namespace, manifests.service("web"))
    cluster.available(namespace, "web")
    port = free_port()
    with kubectl_beside(cluster, "-n", namespace, "port-forward", "service/web", f"{port}:80") as beside:
        eventually(beside.text, lambda text: f"Forwarding from 127.0.0.1:{port}" in text, timeout=15)
        for _ in range(3):
            assert get(f"http://127.0.0.1:{port}/").startswith("hello web-")


def test_wait_label_patch_and_delete(cluster: Cluster, namespace: str) -> None:
    kubectl = lambda *arguments: cluster.kubectl("-n", namespace, *arguments).stdout  # noqa: E731
    cluster.core.create_namespaced_pod(namespace, manifests.pod("one"))
    assert "condition met" in kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=30s")
    assert kubectl("label", "pod", "one", "tier=front") == "pod/one labeled\n"
    assert kubectl("get", "pods", "-l", "tier=front", "-o", "name") == "pod/one\n"
    kubectl("annotate", "pod", "one", "note=hello")
    patch = json.dumps({"metadata": {"labels": {"tier": None}}})
    assert kubectl("patch", "pod", "one", "-p", patch) == "pod/one patched\n"
    assert kubectl("get", "pods", "-l", "tier=front", "-o", "name") == ""
    assert kubectl("delete", "pod", "one", "--timeout=30s").startswith('pod "one" deleted')
    assert cluster.pods(namespace) == []


def test_explain_api_resources_and_can_i(cluster: Cluster) -> None:
    told = cluster.kubectl("explain", "deployment.spec.replicas").stdout
    assert "FIELD: replicas <integer>" in told
    listed = cluster.kubectl("api-resources", "--no-headers", "-o", "name").stdout.split()
    wanted = {"pods", "services", "deployments.apps", "replicasets.apps", "leases.coordination.k8s.io"}
    assert wanted | {"endpointslices.discovery.k8s.io", "certificatesigningrequests.certificates.k8s.io"} <= set(listed)
    assert cluster.kubectl("auth", "can-i", "create", "pods").stdout == "yes\n"
    refused = cluster.kubectl(
        "auth", "can-i", "create", "pods", "--as=system:serviceaccount:default:default", check=False
    )
    assert refused.stdout == "no\n"


def test_create_run_expose(cluster: Cluster, namespace: str) -> None:
    kubectl = lambda *arguments: cluster.kubectl("-n", namespace, *arguments).stdout  # noqa: E731
    kubectl("create", "configmap", "made", "--from-literal=a=1")
    assert kubectl("get", "configmap", "made", "-o", "jsonpath={.data.a}") == "1"
    kubectl("create", "secret", "generic", "hidden", "--from-literal=password=x")
    assert kubectl("get", "secret", "hidden", "-o", "jsonpath={.data.password}") == "eA=="
    kubectl("create", "deployment", "quick", "--image=ktool.test/busybox:1", "--", "sleep", "600")
    kubectl("expose", "deployment", "quick", "--port=80")
    assert kubectl("get", "service", "quick", "-o", "jsonpath={.spec.selector.app}") == "quick"


def kubectl_beside(cluster: Cluster, *arguments: str) -> Follower:
    return cluster.follow(cluster.kubectl_command(*arguments))


def test_cluster_answers_kubectl_quickly(cluster: Cluster) -> None:
    cluster.kubectl("get", "nodes")

    def seconds() -> float:
        start = time.monotonic()
        cluster.kubectl("get", "pods", "-A")
        return time.monotonic() - start

    # one of a few: the machine may have other things to do for a while
    assert any(seconds() < 2 for _ in range(5))
