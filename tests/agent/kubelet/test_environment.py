"""A container's environment: order, expansion, references, Services."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agent.kubelet.downward import lines
from agent.kubelet.environment import resolve, service_variables
from agent.kubelet.start_error import ConfigError
from kube import objects
from kube.models import core_v1


def pod(**spec: Any) -> core_v1.Pod:
    data = {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "uid": "u-1",
            "labels": {"app": "web"},
            "annotations": {"note": 'say "hi"'},
        },
        "spec": {"nodeName": "node-1", "serviceAccountName": "robot", "enableServiceLinks": False, **spec},
        "status": {"podIP": "10.244.1.5", "hostIP": "192.0.2.1", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]},
    }
    return objects.from_dict(data, core_v1.Pod)


def container(**fields: Any) -> core_v1.Container:
    return objects.from_dict({"name": "main", **fields}, core_v1.Container)


def config_map(name: str, **data: str) -> core_v1.ConfigMap:
    return objects.from_dict({"metadata": {"name": name}, "data": data}, core_v1.ConfigMap)


def secret(name: str, **data: bytes) -> core_v1.Secret:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return objects.from_dict({"metadata": {"name": name}, "data": encoded}, core_v1.Secret)


def service(name: str, namespace: str = "shop", ip: str = "10.96.0.9", **ports: int) -> core_v1.Service:
    found = [{"name": key, "port": port, "protocol": "TCP"} for key, port in (ports or {"http": 80}).items()]
    data = {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": found}}
    return objects.from_dict(data, core_v1.Service)


NODE = objects.from_dict(
    {"metadata": {"name": "node-1"}, "status": {"allocatable": {"cpu": "3900m", "memory": "8Gi"}}}, core_v1.Node
)
MAPS = {"settings": config_map("settings", COLOR="blue", SIZE="m", **{"a=b": "no name"})}
SECRETS = {"login": secret("login", PASSWORD=b"p4ss", RAW=b"\xff\xfe")}


def env(
    spec: core_v1.Container, its_pod: core_v1.Pod | None = None, services: list[core_v1.Service] | None = None
) -> dict[str, str]:
    found = resolve(spec, its_pod or pod(), config_maps=MAPS, secrets=SECRETS, services=services or [], node=NODE)
    assert len({name for name, _ in found}) == len(found), "each name once"
    return dict(found)


def reference(kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": "X", "valueFrom": {kind: fields}}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(A)"}], {"A": "1", "B": "1-1"}),
        # only what stands before counts, and what has no value stays as it is
        ([{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}], {"B": "$(A)", "A": "1"}),
        ([{"name": "A", "value": "$$(HOME) $(NOPE) $5"}], {"A": "$(HOME) $(NOPE) $5"}),
        ([{"name": "A"}, {"name": "B", "value": ""}], {"A": "", "B": ""}),
        ([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}], {"A": "12"}),
        ([reference("fieldRef", fieldPath="metadata.name")], {"X": "web-0"}),
        ([reference("fieldRef", fieldPath="metadata.uid")], {"X": "u-1"}),
        ([reference("fieldRef", fieldPath="metadata.labels['app']")], {"X": "web"}),
        ([reference("fieldRef", fieldPath="metadata.annotations['none']")], {"X": ""}),
        ([reference("fieldRef", fieldPath="spec.nodeName")], {"X": "node-1"}),
        ([reference("fieldRef", fieldPath="spec.serviceAccountName")], {"X": "robot"}),
        ([reference("fieldRef", fieldPath="status.podIP")], {"X": "10.244.1.5"}),
        ([reference("fieldRef", fieldPath="status.podIPs")], {"X": "10.244.1.5,fd00::5"}),
        ([reference("fieldRef", fieldPath="status.hostIP")], {"X": "192.0.2.1"}),
        ([reference("configMapKeyRef", name="settings", key="COLOR")], {"X": "blue"}),
        ([reference("secretKeyRef", name="login", key="PASSWORD")], {"X": "p4ss"}),
        ([reference("configMapKeyRef", name="none", key="COLOR", optional=True)], {}),
        ([reference("configMapKeyRef", name="settings", key="none", optional=True)], {}),
        ([reference("secretKeyRef", name="none", key="a", optional=True)], {}),
        ([reference("secretKeyRef", name="login", key="none", optional=True)], {}),
    ],
)
def test_variables(variables: list[dict[str, Any]], wanted: dict[str, str]) -> None:
    assert env(container(env=variables)) == wanted


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (reference("configMapKeyRef", name="none", key="a"), 'configmap "none" not found'),
        (reference("configMapKeyRef", name="settings", key="b"), "couldn't find key b in ConfigMap shop/settings"),
        (reference("secretKeyRef", name="none", key="a"), 'secret "none" not found'),
        (reference("secretKeyRef", name="login", key="b"), "couldn't find key b in Secret shop/login"),
        (reference("secretKeyRef", name="login", key="RAW"), "key RAW in Secret shop/login is no text"),
        (reference("fieldRef", fieldPath="spec.containers"), "unsupported fieldPath: spec.containers"),
        (reference("resourceFieldRef", resource="limits.cpu", containerName="none"), "container none not found"),
        (reference("resourceFieldRef", resource="cpu"), "unsupported container resource: cpu"),
    ],
)
def test_what_is_missing(variable: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        env(container(env=[variable]))
    assert caught.value.reason == "CreateContainerConfigError"


@pytest.mark.parametrize(
    ("resource", "divisor", "wanted"),
    [
        ("limits.cpu", None, "1"),
        ("limits.cpu", "1m", "500"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "1Mi", "64"),
        ("limits.memory", None, str(64 << 20)),
        ("limits.memory", "1Gi", "1"),
        # limits that are not set: all that the node gives
        ("limits.ephemeral-storage", None, "0"),
        ("requests.memory", "1Ki", str(64 << 10)),
        ("limits.memory", "0", str(64 << 20)),
    ],
)
def test_resources(resource: str, divisor: str | None, wanted: str) -> None:
    limits = {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}
    variable = reference("resourceFieldRef", resource=resource, divisor=divisor)
    assert env(container(env=[variable], resources=limits)) == {"X": wanted}


def test_without_limits_the_node_counts() -> None:
    cpu = reference("resourceFieldRef", resource="limits.cpu")
    memory = {**reference("resourceFieldRef", resource="limits.memory", divisor="1Gi"), "name": "Y"}
    request = {**reference("resourceFieldRef", resource="requests.cpu", divisor="1m"), "name": "Z"}
    assert env(container(env=[cpu, memory, request])) == {"X": "4", "Y": "8", "Z": "0"}


def test_env_from_gives_way_to_env_and_to_later_sources() -> None:
    spec = container(
        envFrom=[
            {"configMapRef": {"name": "settings"}},
            {"prefix": "P_", "configMapRef": {"name": "settings"}},
            {"secretRef": {"name": "none", "optional": True}},
            {"configMapRef": {"name": "none", "optional": True}},
        ],
        env=[{"name": "COLOR", "value": "dark-$(COLOR)"}, {"name": "Y", "value": "$(P_SIZE)"}],
    )
    found = env(spec)
    assert found == {"COLOR": "dark-blue", "SIZE": "m", "P_COLOR": "blue", "P_SIZE": "m", "Y": "m"}


def test_env_from_something_missing() -> None:
    with pytest.raises(ConfigError, match='configmap "none" not found'):
        env(container(envFrom=[{"configMapRef": {"name": "none"}}]))
    with pytest.raises(ConfigError, match='secret "none" not found'):
        env(container(envFrom=[{"secretRef": {"name": "none"}}]))


def test_services_that_a_pod_sees() -> None:
    services = [
        service("kubernetes", "default", "10.96.0.1", https=443),
        service("my-db", "shop", "10.96.0.7", sql=5432),
        service("other", "elsewhere"),
        service("headless", "shop", "None"),
    ]
    found = service_variables(services, "shop", links=True)
    assert found == {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
        "MY_DB_SERVICE_HOST": "10.96.0.7",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
        "MY_DB_PORT": "tcp://10.96.0.7:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.7:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.7",
    }
    assert all(name.startswith("KUBERNETES_") for name in service_variables(services, "shop", links=False))


def test_services_are_referred_to_and_overridden() -> None:
    spec = container(env=[{"name": "URL", "value": "$(DB_SERVICE_HOST)"}, {"name": "DB_PORT", "value": "mine"}])
    found = env(spec, pod(enableServiceLinks=True), [service("db", ip="10.96.0.7")])
    assert found["URL"] == "10.96.0.7"
    assert found["DB_PORT"] == "mine"


def test_labels_as_a_file() -> None:
    assert lines({"b": "2", "a": 'x"y\\z\n\x01é'}) == 'a="x\\"y\\\\z\\n\\x01é"\nb="2"'
