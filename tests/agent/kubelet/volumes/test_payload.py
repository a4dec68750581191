"""Which files a volume of content has."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agent.kubelet.start_error import ConfigError
from agent.kubelet.volumes.payload import Content, File, TokenKey, only_user, payload, token_keys
from kube import objects
from kube.models import core_v1


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


CONTENT = Content(
    config_maps={
        "web": objects.from_dict(
            {"metadata": {"name": "web"}, "data": {"a.conf": "A", "b.conf": "B"}, "binaryData": {"c": encoded(b"\0")}},
            core_v1.ConfigMap,
        ),
        "ca": objects.from_dict({"metadata": {"name": "ca"}, "data": {"ca.crt": "CA"}}, core_v1.ConfigMap),
    },
    secrets={
        "key": objects.from_dict({"metadata": {"name": "key"}, "data": {"k": encoded(b"hush")}}, core_v1.Secret),
    },
    tokens={TokenKey("", 3607): "token-1", TokenKey("vault", 600): "token-2"},
    allocatable={"memory": "1Gi"},
)


def pod(**spec: Any) -> core_v1.Pod:
    data = {
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"b": "2", "a": "1"}},
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "1500m"}}}], **spec},
    }
    return objects.from_dict(data, core_v1.Pod)


def files(source: dict[str, Any], its_pod: core_v1.Pod | None = None) -> dict[str, tuple[bytes, int]]:
    volume = objects.from_dict({"name": "v", **source}, core_v1.Volume)
    return {path: (file.data, file.mode) for path, file in payload(volume, its_pod or pod(), CONTENT).items()}


def test_config_map_whole_and_chosen() -> None:
    assert files({"configMap": {"name": "web"}}) == {
        "a.conf": (b"A", 0o644),
        "b.conf": (b"B", 0o644),
        "c": (b"\0", 0o644),
    }
    items = [{"key": "a.conf", "path": "x/y.conf", "mode": 0o600}, {"key": "b.conf", "path": "./b"}]
    assert files({"configMap": {"name": "web", "items": items, "defaultMode": 0o440}}) == {
        "x/y.conf": (b"A", 0o600),
        "b": (b"B", 0o440),
    }


def test_secret() -> None:
    assert files({"secret": {"secretName": "key", "defaultMode": 0o400}}) == {"k": (b"hush", 0o400)}
    assert "hush" not in repr(File(b"hush"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "web", "items": [{"key": "z", "path": "z"}]}},
            "configmap references non-existent config key: z",
        ),
        ({"secret": {"secretName": "key", "items": [{"key": "z", "path": "z"}]}}, "non-existent secret key: z"),
        ({"configMap": {"name": "web", "items": [{"key": "a.conf", "path": "../../etc/x"}]}}, "invalid path"),
        ({"configMap": {"name": "web", "items": [{"key": "a.conf", "path": "/etc/x"}]}}, "invalid path"),
        ({"configMap": {"name": "web", "items": [{"key": "a.conf", "path": "..data"}]}}, "invalid path"),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}, "not supported"),
    ],
)
def test_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files(source)


def test_optional() -> None:
    assert files({"configMap": {"name": "none", "optional": True}}) == {}
    assert files({"secret": {"secretName": "none", "optional": True}}) == {}
    items = [{"key": "z", "path": "z"}, {"key": "a.conf", "path": "a"}]
    assert files({"configMap": {"name": "web", "optional": True, "items": items}}) == {"a": (b"A", 0o644)}


def test_downward() -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "mode": 0o400, "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}},
        {
            "path": "memory",
            "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"},
        },
    ]
    assert files({"downwardAPI": {"items": items}}) == {
        "labels": (b'a="1"\nb="2"', 0o644),
        "cpu": (b"2", 0o400),
        "memory": (b"1024", 0o644),
    }
    with pytest.raises(ConfigError):
        files({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "status.phase"}}]}})


SERVICE_ACCOUNT = {
    "projected": {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"serviceAccountToken": {"path": "vault", "expirationSeconds": 600, "audience": "vault"}},
            {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "key"}},
        ],
    }
}


def test_projected() -> None:
    volume = objects.from_dict({"name": "v", **SERVICE_ACCOUNT}, core_v1.Volume)
    assert token_keys(volume) == {TokenKey("", 3607), TokenKey("vault", 600)}
    assert files(SERVICE_ACCOUNT) == {
        "token": (b"token-1", 0o644),
        "vault": (b"token-2", 0o644),
        "ca.crt": (b"CA", 0o644),
        "namespace": (b"shop", 0o644),
        "k": (b"hush", 0o644),
    }


def test_a_token_is_private_where_the_pod_says_who_reads_it() -> None:
    volume = objects.from_dict({"name": "v", **SERVICE_ACCOUNT}, core_v1.Volume)
    as_user = pod(securityContext={"runAsUser": 1000})
    assert payload(volume, as_user, CONTENT)["token"] == File(b"token-1", 0o600, 1000)
    with_group = pod(securityContext={"fsGroup": 2000})
    assert payload(volume, with_group, CONTENT)["token"] == File(b"token-1", 0o600, None)
    two = [{"name": "a", "securityContext": {"runAsUser": 1}}, {"name": "b"}]
    assert only_user(pod(containers=two)) is None
