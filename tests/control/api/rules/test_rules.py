"""Validation of every kind as tables: one broken field each, and the error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control.api.resource import Resource
from control.api.resources import (
    certificate_signing_request,
    config_map,
    deployment,
    namespace,
    node,
    pod,
    priority_class,
    role,
    role_binding,
    secret,
    service,
)
from control.api.rules import object_meta
from kube import codec

Change = Callable[[dict[str, Any]], Any]


def pod_object() -> dict[str, Any]:
    container = {"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "name": "http"}]}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}}


def deployment_object() -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": pod_object()["spec"]}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}}


def service_object() -> dict[str, Any]:
    return {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}}


def findings(resource: Resource, obj: dict[str, Any]) -> dict[str, str]:
    resource.default(obj)
    errors = [*object_meta.validate_object_meta(obj, resource), *resource.validate(obj)]
    return {e.path: str(e) for e in errors}


def change(path: str, value: Any) -> Change:
    """Sets `spec.containers.0.image` and the like."""

    def apply(obj: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = obj
        for part in parents:
            place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
        if value is None:
            place.pop(last)
        else:
            place[int(last) if last.isdigit() else last] = value

    return apply


C = "spec.containers.0."
PROBE = {"httpGet": {"port": 80}}


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("metadata.name", "Not_A_Name", "metadata.name", "lower"),
        ("metadata.name", "a" * 254, "metadata.name", "253"),
        ("metadata.labels", {"a b": "x"}, "metadata.labels", ""),
        ("metadata.labels", {"a": "b" * 64}, "metadata.labels.a", "63"),
        ("spec.containers", [], "spec.containers", "Required"),
        (C + "name", "UPPER", "spec.containers[0].name", ""),
        (C + "image", "", "spec.containers[0].image", "Required"),
        (C + "imagePullPolicy", "Sometimes", "spec.containers[0].imagePullPolicy", "IfNotPresent"),
        (C + "ports", [{"containerPort": 70000}], "spec.containers[0].ports[0].containerPort", "65535"),
        (C + "env", [{"name": "A", "valueFrom": {}}], "spec.containers[0].env[0].valueFrom", "one of"),
        (C + "env", [{"name": "", "value": "x"}], "spec.containers[0].env[0].name", "Required"),
        (
            C + "volumeMounts",
            [{"name": "w", "mountPath": "/w"}],
            "spec.containers[0].volumeMounts[0].name",
            "Not found",
        ),
        (
            C + "resources",
            {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
            "spec.containers[0].resources.requests.cpu",
            "limit",
        ),
        (C + "resources", {"limits": {"cpu": "-1"}}, "spec.containers[0].resources.limits.cpu", "greater"),
        (C + "resources", {"limits": {"gpus": "1"}}, "spec.containers[0].resources.limits", "standard resource"),
        (
            C + "livenessProbe",
            {**PROBE, "successThreshold": 2},
            "spec.containers[0].livenessProbe.successThreshold",
            "1",
        ),
        (
            C + "readinessProbe",
            {**PROBE, "exec": {"command": ["x"]}},
            "spec.containers[0].readinessProbe.httpGet",
            "more than one",
        ),
        (C + "readinessProbe", {"periodSeconds": 1}, "spec.containers[0].readinessProbe", "handler"),
        ("spec.restartPolicy", "Maybe", "spec.restartPolicy", "Always"),
        ("spec.nodeSelector", {"a": "b c"}, "spec.nodeSelector.a", ""),
        ("spec.tolerations", [{"key": "a", "operator": "Like"}], "spec.tolerations[0].operator", "Exists"),
        ("spec.volumes", [{"name": "v"}, {"name": "v"}], "spec.volumes[1].name", "Duplicate"),
        ("spec.volumes", [{"name": "v", "hostPath": {"path": "/a/../b"}}], "spec.volumes[0].hostPath.path", "'..'"),
        ("spec.terminationGracePeriodSeconds", -1, "spec.terminationGracePeriodSeconds", "0"),
        (
            "spec.affinity",
            {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}]}},
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
            "Required",
        ),
        (
            "spec.topologySpreadConstraints",
            [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "spec.topologySpreadConstraints[0].maxSkew",
            "greater than zero",
        ),
    ],
)
def test_pod(path: str, value: Any, field: str, words: str) -> None:
    obj = pod_object()
    change(path, value)(obj)
    found = findings(pod.RESOURCES[0], obj)
    assert field in found, found
    assert words in found[field]


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("spec.selector", {"matchLabels": {"app": "y"}}, "spec.template.metadata.labels", "does not match"),
        ("spec.selector", None, "spec.selector", "Required"),
        ("spec.selector", {}, "spec.selector", "empty selector"),
        ("spec.replicas", -1, "spec.replicas", "0"),
        ("spec.strategy", {"type": "Blue"}, "spec.strategy.type", "Recreate"),
        ("spec.strategy", {"rollingUpdate": {"maxSurge": "x%"}}, "spec.strategy.rollingUpdate.maxSurge", "percentage"),
        (
            "spec.strategy",
            {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
            "spec.strategy.rollingUpdate.maxUnavailable",
            "may not be 0",
        ),
        ("spec.template.spec.restartPolicy", "Never", "spec.template.spec.restartPolicy", "Always"),
        ("spec.progressDeadlineSeconds", 0, "spec.progressDeadlineSeconds", "minReadySeconds"),
    ],
)
def test_deployment(path: str, value: Any, field: str, words: str) -> None:
    obj = deployment_object()
    change(path, value)(obj)
    found = findings(deployment.RESOURCES[0], obj)
    assert field in found, found
    assert words in found[field]


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("metadata.name", "0start", "metadata.name", ""),
        ("spec.ports", [], "spec.ports", "Required"),
        ("spec.ports.0.port", 0, "spec.ports[0].port", "65535"),
        ("spec.ports", [{"port": 1}, {"port": 2}], "spec.ports[0].name", "Required"),
        ("spec.ports.0.nodePort", 30000, "spec.ports[0].nodePort", "ClusterIP"),
        ("spec.type", "Magic", "spec.type", "NodePort"),
        ("spec.clusterIP", "10.0.0.300", "spec.clusterIPs[0]", "valid IP"),
        ("spec.sessionAffinity", "Cookie", "spec.sessionAffinity", "ClientIP"),
    ],
)
def test_service(path: str, value: Any, field: str, words: str) -> None:
    obj = service_object()
    change(path, value)(obj)
    found = findings(service.RESOURCES[0], obj)
    assert field in found, found
    assert words in found[field]


@pytest.mark.parametrize(
    ("resource", "obj", "field"),
    [
        (config_map.RESOURCES[0], {"metadata": {"name": "a"}, "data": {"no/slash": "x"}}, "data[no/slash]"),
        (secret.RESOURCES[0], {"metadata": {"name": "a"}, "type": "kubernetes.io/tls"}, "data[tls.crt]"),
        (namespace.RESOURCES[0], {"metadata": {"name": "a.b"}}, "metadata.name"),
        (
            node.RESOURCES[0],
            {"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "X"}]}},
            "spec.taints[0].effect",
        ),
        (priority_class.RESOURCES[0], {"metadata": {"name": "p"}, "value": 2_000_000_000}, "value"),
        (
            role.RESOURCES[0],
            {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"]}]},
            "rules[0].verbs",
        ),
        (role_binding.RESOURCES[0], {"metadata": {"name": "r"}, "roleRef": {"kind": "X", "name": "y"}}, "roleRef.kind"),
        (
            certificate_signing_request.RESOURCES[0],
            {"metadata": {"name": "c"}, "spec": {"request": "eA==", "signerName": "x", "usages": ["client auth"]}},
            "spec.signerName",
        ),
    ],
)
def test_other_kinds(resource: Resource, obj: dict[str, Any], field: str) -> None:
    assert field in findings(resource, obj)


@pytest.mark.parametrize(
    ("resource", "make"),
    [
        (pod.RESOURCES[0], pod_object),
        (deployment.RESOURCES[0], deployment_object),
        (service.RESOURCES[0], service_object),
    ],
)
def test_a_valid_object_has_no_findings_and_defaults_settle(
    resource: Resource, make: Callable[[], dict[str, Any]]
) -> None:
    obj = make()
    assert findings(resource, obj) == {}
    once = codec.copy(obj)
    resource.default(obj)
    assert obj == once
    assert not codec.check(obj, resource.type).errors
    assert not codec.check(obj, resource.type).unknown


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("h:5000/a", "Always"),
        ("a@sha256:0", "IfNotPresent"),
    ],
)
def test_image_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    obj = {"spec": {"containers": [{"name": "c", "image": image}]}}
    pod.default(obj)
    assert obj["spec"]["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], qos: str) -> None:
    assert pod.qos_class({"containers": [{"resources": resources}]}) == qos


def test_a_pods_spec_is_fixed_but_for_its_images() -> None:
    old, new = pod_object(), pod_object()
    new["spec"]["containers"][0]["image"] = "i:2"
    assert pod.validate_update(new, old) == []
    new["spec"]["containers"][0]["command"] = ["x"]
    (error,) = pod.validate_update(new, old)
    assert error.path == "spec.containers"
    assert "pod updates may not change fields" in str(error)


def test_a_deployments_selector_is_immutable() -> None:
    old, new = deployment_object(), deployment_object()
    new["spec"]["selector"] = {"matchLabels": {"app": "y"}}
    (error,) = deployment.RESOURCES[0].validate_update(new, old)
    assert (error.path, "immutable" in str(error)) == ("spec.selector", True)


def test_a_service_keeps_what_the_server_allotted() -> None:
    old = service_object()
    old["spec"] |= {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "NodePort"}
    old["spec"]["ports"][0] |= {"nodePort": 30001, "protocol": "TCP"}
    new = service_object()
    new["spec"]["type"] = "NodePort"
    service.default(new)
    service.prepare_update(new, old)
    assert new["spec"]["clusterIP"] == "10.96.0.9"
    assert new["spec"]["ports"][0]["nodePort"] == 30001
