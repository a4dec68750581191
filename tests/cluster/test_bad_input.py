"""What is wrong is told as field, found, wanted and mend; without a traceback, and with nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import machine
from tests.cluster import manifests
from tests.cluster.real_cluster import API_PORT, Cluster


def refused(told: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command failed in a way that a user can understand: exit status 1, an error with all `parts`."""
    text = told.stdout + told.stderr
    assert told.returncode == 1, text
    assert "error: " in told.stderr
    assert "Traceback" not in text
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"


def changed(deployment: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    """A copy of the manifest with another value at the path."""
    copy = json.loads(json.dumps(deployment))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


WEB = manifests.deployment("web")
CONTAINER = ("spec", "template", "spec", "containers", 0)

BAD = {
    "unknown field": (
        changed(WEB, "spec", "replcas", value=3),
        ('unknown field "spec.replcas"',),
    ),
    "unknown field deep inside": (
        changed(WEB, *CONTAINER, "imagePullPolice", value="Always"),
        ('unknown field "spec.template.spec.containers[0].imagePullPolice"',),
    ),
    "wrong type": (
        changed(WEB, "spec", "replicas", value="three"),
        ("spec.replicas", "three"),
    ),
    "bad quantity": (
        changed(WEB, *CONTAINER, "resources", value={"requests": {"memory": "12Mega"}}),
        ("spec.template.spec.containers[0].resources.requests", "12Mega"),
    ),
    "name too long": (
        changed(WEB, "metadata", "name", value="x" * 254),
        ("metadata.name", "253"),
    ),
    "name with capitals": (
        changed(WEB, "metadata", "name", value="Web"),
        ("metadata.name", '"Web"', "lower-case"),
    ),
    "selector that does not match the template": (
        changed(WEB, "spec", "template", "metadata", "labels", value={"app": "other"}),
        ("spec.template.metadata.labels", "`selector` does not match template `labels`"),
    ),
    "negative replicas": (
        changed(WEB, "spec", "replicas", value=-1),
        ("spec.replicas", "-1", "greater than or equal to 0"),
    ),
    "request above the limit": (
        changed(WEB, *CONTAINER, "resources", value={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        ("resources.requests", "must be less than or equal to cpu limit"),
    ),
    "no such kind": (
        {**WEB, "kind": "Deploymint"},
        ("Deploymint", "apps/v1"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_apply_refuses(cluster: Cluster, namespace: str, case: str) -> None:
    manifest, parts = BAD[case]
    refused(cluster.ktool("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(manifest), check=False), *parts)
    assert cluster.apps.list_namespaced_deployment(namespace).items == []


def test_malformed_yaml_tells_the_line(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n data: {\n")
    refused(cluster.ktool("apply", "-n", namespace, "-f", str(file), check=False), str(file), "line 5")
    file.write_text("just a text\n")
    refused(cluster.ktool("apply", "-n", namespace, "-f", str(file), check=False), str(file), "mapping")
    file.write_text("kind: ConfigMap\nmetadata: {name: a}\n")
    refused(cluster.ktool("apply", "-n", namespace, "-f", str(file), check=False), "apiVersion is missing", "mend:")
    refused(cluster.ktool("apply", "-f", str(tmp_path / "absent.yaml"), check=False), "cannot read", "No such file")


def test_a_bad_document_leaves_nothing_of_a_broken_file(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """A file that cannot be read as a whole is not applied in part."""
    file = tmp_path / "half.yaml"
    file.write_text(yaml.safe_dump(manifests.config_map("first")) + "---\nkind: [\n")
    refused(cluster.ktool("apply", "-n", namespace, "-f", str(file), check=False), str(file))
    names = [m.metadata.name for m in cluster.core.list_namespaced_config_map(namespace).items]
    assert names == ["kube-root-ca.crt"]


def test_an_immutable_field(cluster: Cluster, namespace: str) -> None:
    cluster.ktool("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(manifests.deployment("web", replicas=0)))
    other = changed(manifests.deployment("web", replicas=0), "spec", "selector", value={"matchLabels": {"app": "new"}})
    other = changed(other, "spec", "template", "metadata", "labels", value={"app": "new"})
    told = cluster.ktool("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(other), check=False)
    refused(told, "spec.selector", "field is immutable")
    found = cluster.apps.read_namespaced_deployment("web", namespace)
    assert found.spec.selector.match_labels == {"app": "web"}
    assert found.spec.template.metadata.labels == {"app": "web"}


def test_an_object_that_is_too_large(cluster: Cluster, namespace: str) -> None:
    large = manifests.config_map("large", text="x" * (1_600 * 1024))
    told = cluster.ktool("apply", "-n", namespace, "-f", "-", stdin=json.dumps(large), check=False)
    refused(told, "large" if "large" in told.stderr else "limit")
    names = [m.metadata.name for m in cluster.core.list_namespaced_config_map(namespace).items]
    assert names == ["kube-root-ca.crt"]


def test_what_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    refused(cluster.ktool("get", "pods", "nobody", check=False), 'pods "nobody" not found')
    refused(cluster.ktool("get", "podz", check=False), "podz")
    absent = tmp_path / "absent.kubeconfig"
    refused(cluster.ktool("--kubeconfig", str(absent), "get", "pods", check=False), str(absent))
    nobody = tmp_path / "nobody.kubeconfig"
    nobody.write_text(cluster.kubeconfig.read_text().replace("127.0.0.1:6443", "127.0.0.1:6444"))
    told = cluster.ktool("--kubeconfig", str(nobody), "get", "pods", check=False)
    refused(told, "the API server cannot be reached", "127.0.0.1:6444", "ktool up")
    typo = cluster.ktool("statsu", check=False)
    assert typo.returncode == 2
    assert "Did you mean 'status'?" in typo.stderr


# ---- up on a machine that cannot become a cluster; each time nothing is changed


def test_up_where_a_port_is_in_use(no_cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", API_PORT)):
        told = no_cluster.up(check=False)
    refused(told, f"port {API_PORT} is in use", f"pid {os.getpid()}", "wanted:", "mend:")
    assert not no_cluster.data_dir.exists()


def test_up_without_root(no_cluster: Cluster) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    no_cluster.root.chmod(0o777)
    told = no_cluster.ktool("up", prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"), check=False)
    refused(told, "ktool up needs root", "user id 65534", "sudo ktool up")
    assert not no_cluster.data_dir.exists()


def instead_of_dockerd(program: str) -> tuple[str, ...]:
    """Words before a command that give it a machine where dockerd is another program."""
    dockerd = machine.find_command("dockerd")
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {program} {dockerd} && exec "$@"', "sh")


def test_up_where_docker_is_not_there(no_cluster: Cluster) -> None:
    told = no_cluster.up(prefix=instead_of_dockerd("/dev/null"), check=False)
    refused(told, "Docker Engine does not answer and is not installed", "wanted:", "apt-get install docker.io")
    assert not no_cluster.data_dir.exists()


def test_up_where_docker_does_not_start(no_cluster: Cluster) -> None:
    """It gives up, says why, and `down` takes back what there is."""
    told = no_cluster.up(prefix=instead_of_dockerd("/bin/false"), check=False)
    refused(told, "Docker Engine does not start", "an answer on", "mend:")
    assert no_cluster.down().returncode == 0
    assert not no_cluster.data_dir.exists()


def test_image_load_without_an_engine(no_cluster: Cluster, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"")
    absent = tmp_path / "absent.sock"
    told = no_cluster.ktool("image", "load", str(archive), "--docker-socket", str(absent), check=False)
    refused(told, "Docker Engine does not answer", str(absent))


def test_up_over_the_state_of_another_version(no_cluster: Cluster) -> None:
    no_cluster.data_dir.mkdir()
    note = no_cluster.data_dir / "version.json"
    note.write_text(json.dumps({"layout": 99, "ktool": "9.9"}))
    refused(no_cluster.up(check=False), "another version", "layout 99, written by ktool 9.9", "wanted:", "mend:")
    refused(no_cluster.down(check=False), "another version", "layout 99, written by ktool 9.9")
    assert [path.name for path in no_cluster.data_dir.iterdir()] == ["version.json"]
    shutil.rmtree(no_cluster.data_dir)


def test_up_over_somebody_elses_files(no_cluster: Cluster) -> None:
    no_cluster.data_dir.mkdir()
    (no_cluster.data_dir / "letter").write_text("mine")
    refused(no_cluster.up(check=False), "not ktool's", "--data-dir")
    assert (no_cluster.data_dir / "letter").read_text() == "mine"
    shutil.rmtree(no_cluster.data_dir)


def test_up_with_ranges_that_overlap(no_cluster: Cluster) -> None:
    told = no_cluster.up("--pod-cidr", "10.96.0.0/12", check=False)
    refused(told, "overlap", "10.96.0.0/12", "--service-cidr")
    assert not no_cluster.data_dir.exists()
