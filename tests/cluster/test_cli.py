"""ktool's commands against a cluster: get, apply, delete, logs, image, kubeconfig, version, completion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cluster import manifests
from tests.cluster.real_cluster import IMAGE, KTOOL, Cluster, eventually, run

EXAMPLE = Path(__file__).parents[2] / "examples" / "web.yaml"


def test_apply_twice_the_second_time_unchanged_then_a_change(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    manifest = tmp_path / "all.yaml"
    objects = [
        manifests.config_map("settings", color="blue"),
        manifests.deployment("web", replicas=1),
        manifests.service("web"),
    ]
    manifest.write_text(yaml.safe_dump_all(objects))
    first = cluster.ktool("apply", "-n", namespace, "-f", str(manifest)).stdout.splitlines()
    assert first == ["configmap/settings created", "deployment.apps/web created", "service/web created"]
    second = cluster.ktool("apply", "-n", namespace, "-f", str(manifest)).stdout.splitlines()
    assert second == ["configmap/settings unchanged", "deployment.apps/web unchanged", "service/web unchanged"]

    objects[0] = manifests.config_map("settings", shape="round")
    dry = cluster.ktool("apply", "-n", namespace, "-f", "-", "--dry-run", stdin=yaml.safe_dump_all(objects)).stdout
    assert dry.splitlines()[0] == "configmap/settings configured (dry run)"
    assert cluster.core.read_namespaced_config_map("settings", namespace).data == {"color": "blue"}
    third = cluster.ktool("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(objects)).stdout.splitlines()
    assert third == ["configmap/settings configured", "deployment.apps/web unchanged", "service/web unchanged"]
    assert cluster.core.read_namespaced_config_map("settings", namespace).data == {"shape": "round"}

    told = cluster.ktool("delete", "-n", namespace, "-f", str(manifest)).stdout.splitlines()
    assert told == ['service "web" deleted', 'deployment.apps "web" deleted', 'configmap "settings" deleted']
    again = cluster.ktool("delete", "-n", namespace, "configmap", "settings", check=False)
    assert again.returncode == 1
    assert 'configmaps "settings" not found' in again.stderr


def test_the_example_applied_again_is_unchanged(cluster: Cluster) -> None:
    told = cluster.ktool("apply", "-f", str(EXAMPLE)).stdout.splitlines()
    assert told == [
        "namespace/web unchanged",
        "configmap/web unchanged",
        "deployment.apps/web unchanged",
        "service/web unchanged",
    ]


def test_get_in_all_its_forms(cluster: Cluster) -> None:
    table = cluster.ktool("get", "pods", "-n", "web").stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert len(table) == 4
    wide = cluster.ktool("get", "pods", "-A", "-o", "wide").stdout.splitlines()
    assert wide[0].split()[:8] == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    names = cluster.ktool("get", "po", "-n", "web", "-o", "name").stdout.split()
    assert sorted(names) == sorted(f"pod/{p.metadata.name}" for p in cluster.pods("web"))
    found = json.loads(cluster.ktool("get", "deploy", "web", "-n", "web", "-o", "json").stdout)
    assert found["kind"] == "Deployment"
    assert found["status"]["availableReplicas"] == 3
    listed = yaml.safe_load(cluster.ktool("get", "svc", "-n", "web", "-o", "yaml").stdout)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["web"]
    selected = cluster.ktool("get", "pods", "-n", "web", "-l", "app.kubernetes.io/name!=web")
    assert "no resources found" in selected.stderr
    running = cluster.ktool("get", "pods", "-A", "--field-selector", "status.phase=Running", "-o", "name").stdout
    assert len(running.split()) >= 3
    several = cluster.ktool("get", "deploy,svc", "-n", "web").stdout
    assert "deployment/web" in several
    assert "service/web" in several


def test_get_watch_follows_changes(cluster: Cluster, namespace: str) -> None:
    command = [KTOOL, "--data-dir", str(cluster.data_dir), "get", "configmaps", "-n", namespace, "-w"]
    with cluster.follow(command) as watching:
        eventually(watching.text, lambda text: "kube-root-ca.crt" in text)
        cluster.core.create_namespaced_config_map(namespace, manifests.config_map("news", a="1"))
        eventually(watching.text, lambda text: "news" in text)


def test_logs(cluster: Cluster, namespace: str) -> None:
    told = cluster.ktool("logs", "-n", "web", cluster.pods("web")[0].metadata.name).stdout
    assert "serves on port 8080" in told
    script = "for i in 1 2 3 4 5; do echo line $i; done; sleep 1; echo the end"
    cluster.core.create_namespaced_pod(
        namespace, manifests.pod("talker", manifests.container(script), restartPolicy="Never")
    )
    eventually(lambda: cluster.core.read_namespaced_pod("talker", namespace).status.phase, lambda p: p == "Succeeded")
    assert cluster.ktool("logs", "-n", namespace, "talker", "--tail", "2").stdout == "line 5\nthe end\n"
    assert cluster.ktool("logs", "-n", namespace, "pod/talker", "-f").stdout.startswith("line 1\nline 2\n")
    stamped = cluster.ktool("logs", "-n", namespace, "talker", "--timestamps").stdout.splitlines()
    assert stamped[0].split(" ", 1)[1] == "line 1"
    wrong = cluster.ktool("logs", "-n", namespace, "nobody", check=False)
    assert wrong.returncode == 1
    assert 'pods "nobody" not found' in wrong.stderr


def test_delete_by_selector_waits_until_all_are_gone(cluster: Cluster, namespace: str) -> None:
    for name in ("a", "b"):
        cluster.core.create_namespaced_config_map(
            namespace, {"metadata": {"name": name, "labels": {"batch": "1"}}, "data": {}}
        )
    told = cluster.ktool("delete", "configmap", "-n", namespace, "-l", "batch=1").stdout.splitlines()
    assert sorted(told) == ['configmap "a" deleted', 'configmap "b" deleted']
    left = cluster.core.list_namespaced_config_map(namespace, label_selector="batch=1").items
    assert left == []


def test_images(cluster: Cluster, tmp_path: Path) -> None:
    listed = cluster.ktool("image", "list", "--docker-socket", str(cluster.socket)).stdout
    assert {IMAGE, "ktool.local/web:1"} <= {line.split()[0] for line in listed.splitlines()}
    (tmp_path / "no.tar").write_text("this is no archive")
    wrong = cluster.ktool(
        "image", "load", str(tmp_path / "no.tar"), "--docker-socket", str(cluster.socket), check=False
    )
    assert wrong.returncode == 1
    assert "cannot be loaded as an image" in wrong.stderr


def test_kubeconfig(cluster: Cluster) -> None:
    assert cluster.ktool("kubeconfig", "--path").stdout.strip() == str(cluster.kubeconfig)
    found = yaml.safe_load(cluster.ktool("kubeconfig").stdout)
    assert found["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600


def test_version_and_completion(cluster: Cluster) -> None:
    own, server = cluster.ktool("version").stdout.splitlines()
    assert own.startswith("ktool 0.")
    assert server.startswith("server v1.32")
    for shell in ("bash", "zsh", "fish"):
        assert "_KTOOL_COMPLETE" in cluster.ktool("completion", shell).stdout
    env = {**cluster.environment, "_KTOOL_COMPLETE": "bash_complete", "COMP_WORDS": "ktool st", "COMP_CWORD": "1"}
    assert run([KTOOL], check=True, timeout=20, env=env).stdout.strip().endswith("status")


@pytest.mark.parametrize("command", ["up", "down", "get", "apply", "delete", "logs", "image", "status"])
def test_help_teaches(cluster: Cluster, command: str) -> None:
    told = cluster.ktool(command, "--help").stdout
    assert told.startswith(f"Usage: ktool {command}")
    assert len(told.splitlines()) > 6
