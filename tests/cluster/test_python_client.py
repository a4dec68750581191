"""The official Python client against a cluster: list, watch, create, patch, exec, port-forward, errors."""

from __future__ import annotations

import threading

import kubernetes.client
import kubernetes.stream
import kubernetes.watch
import pytest

from tests.cluster import manifests
from tests.cluster.real_cluster import Cluster, eventually


def test_create_read_patch_replace_delete(cluster: Cluster, namespace: str) -> None:
    created = cluster.core.create_namespaced_config_map(namespace, manifests.config_map("one", a="1"))
    patched = cluster.core.patch_namespaced_config_map("one", namespace, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    assert int(patched.metadata.resource_version) > int(created.metadata.resource_version)
    patched = cluster.core.patch_namespaced_config_map(
        "one", namespace, [{"op": "remove", "path": "/data/a"}], _content_type="application/json-patch+json"
    )
    assert patched.data == {"b": "2"}
    patched.data = {"c": "3"}
    assert cluster.core.replace_namespaced_config_map("one", namespace, patched).data == {"c": "3"}
    with pytest.raises(kubernetes.client.ApiException) as conflict:
        cluster.core.replace_namespaced_config_map("one", namespace, created)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    cluster.core.delete_namespaced_config_map("one", namespace)
    with pytest.raises(kubernetes.client.ApiException) as gone:
        cluster.core.read_namespaced_config_map("one", namespace)
    assert gone.value.status == 404


def test_pages_are_of_one_revision(cluster: Cluster, namespace: str) -> None:
    for i in range(7):
        cluster.core.create_namespaced_config_map(namespace, manifests.config_map(f"m-{i}"))
    page = cluster.core.list_namespaced_config_map(namespace, limit=3)
    names, revision = [m.metadata.name for m in page.items], page.metadata.resource_version
    assert len(names) == 3
    cluster.core.create_namespaced_config_map(namespace, manifests.config_map("m-later"))
    while page.metadata._continue:
        page = cluster.core.list_namespaced_config_map(namespace, limit=3, _continue=page.metadata._continue)
        names += [m.metadata.name for m in page.items]
        assert page.metadata.resource_version == revision
    assert names == ["kube-root-ca.crt", *(f"m-{i}" for i in range(7))]


def test_watch_sees_what_happens(cluster: Cluster, namespace: str) -> None:
    since = cluster.core.list_namespaced_config_map(namespace).metadata.resource_version

    def change() -> None:
        cluster.core.create_namespaced_config_map(namespace, manifests.config_map("w", a="1"))
        cluster.core.patch_namespaced_config_map("w", namespace, {"data": {"a": "2"}})
        cluster.core.delete_namespaced_config_map("w", namespace)

    changing = threading.Timer(0.3, change)
    changing.start()
    watch = kubernetes.watch.Watch()
    seen = []
    for event in watch.stream(
        cluster.core.list_namespaced_config_map,
        namespace,
        field_selector="metadata.name=w",
        resource_version=since,
        timeout_seconds=20,
    ):
        seen.append((event["type"], event["object"].data["a"]))
        if event["type"] == "DELETED":
            watch.stop()
    changing.join()
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]


def test_exec_streams_both_ways(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, manifests.pod("box"))
    cluster.running(namespace, "box")
    assert cluster.sh(namespace, "box", "echo here; hostname") == "here\nbox\n"
    with kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig)) as client:
        stream = kubernetes.stream.stream(
            kubernetes.client.CoreV1Api(client).connect_get_namespaced_pod_exec,
            "box",
            namespace,
            command=["sh"],
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        try:
            stream.write_stdin("echo one; echo two >&2\n")
            assert stream.readline_stdout(timeout=10) == "one"
            assert stream.readline_stderr(timeout=10) == "two"
            stream.write_stdin("exit 3\n")
            stream.run_forever(timeout=10)
            assert stream.returncode == 3
        finally:
            stream.sock.shutdown()
            stream.sock.shutdown()  # after the server has closed, the client's close() leaves its socket open


def test_dry_run_changes_nothing(cluster: Cluster, namespace: str) -> None:
    made = cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("dry"), dry_run="All")
    assert made.spec.strategy.type == "RollingUpdate", "defaults are filled in"
    assert cluster.apps.list_namespaced_deployment(namespace).items == []


def test_scale_subresource(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=1))
    cluster.apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 2}})
    assert cluster.available(namespace, "web").status.available_replicas == 2
    cluster.apps.delete_namespaced_deployment("web", namespace, propagation_policy="Foreground")
    eventually(lambda: cluster.pods(namespace), lambda pods: not pods, what="owner's pods are collected")
    with pytest.raises(kubernetes.client.ApiException):
        cluster.apps.read_namespaced_deployment("web", namespace)


def test_errors_are_status_objects(cluster: Cluster, namespace: str) -> None:
    bad = manifests.deployment("Not_A_Name")
    with pytest.raises(kubernetes.client.ApiException) as error:
        cluster.apps.create_namespaced_deployment(namespace, bad)
    assert error.value.status == 422
    assert '"kind":"Status"' in error.value.body
    assert "metadata.name" in error.value.body


def test_who_may_do_what(cluster: Cluster, namespace: str) -> None:
    """A service account's token is somebody, and may do what RBAC allows it and no more."""
    token = cluster.core.create_namespaced_service_account_token(
        "default", namespace, {"spec": {"expirationSeconds": 600}}
    ).status.token
    configuration = kubernetes.client.Configuration.get_default_copy()
    configuration.host = "https://127.0.0.1:6443"
    configuration.ssl_ca_cert = str(cluster.data_dir / "pki" / "ca.crt")
    configuration.api_key = {"authorization": f"Bearer {token}"}
    rbac = kubernetes.client.RbacAuthorizationV1Api(cluster.api_client)
    with kubernetes.client.ApiClient(configuration) as client:
        core = kubernetes.client.CoreV1Api(client)
        with pytest.raises(kubernetes.client.ApiException) as refused:
            core.list_namespaced_config_map(namespace)
        assert refused.value.status == 403
        assert f'User \\"system:serviceaccount:{namespace}:default\\" cannot list' in refused.value.body
        rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
        rbac.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": [rule]})
        rbac.create_namespaced_role_binding(
            namespace,
            {
                "metadata": {"name": "reader"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
            },
        )
        eventually(lambda: core.list_namespaced_config_map(namespace).items)
        with pytest.raises(kubernetes.client.ApiException):
            core.list_namespaced_secret(namespace)

    configuration.api_key = {}
    with kubernetes.client.ApiClient(configuration) as client:
        with pytest.raises(kubernetes.client.ApiException) as unknown:
            kubernetes.client.CoreV1Api(client).list_namespaced_secret("kube-system")
        assert unknown.value.status in (401, 403)
        assert kubernetes.client.VersionApi(client).get_code().git_version.startswith("v1.32")
