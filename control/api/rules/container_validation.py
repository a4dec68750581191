"""What a pod's containers may say (Kubernetes API reference: Container)."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules import fields
from control.api.rules.pod_defaults import PROBES
from kube import names, quantity
from kube.errors import FieldError

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
PROTOCOLS = ("TCP", "UDP", "SCTP")
PROBE_ACTIONS = ("exec", "httpGet", "tcpSocket", "grpc")
HOOK_ACTIONS = ("exec", "httpGet", "tcpSocket", "sleep")
VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def validate_containers(spec: Object, path: str, volumes: set[Any]) -> list[FieldError]:
    """Findings about all containers of a pod spec; `volumes` are the names that mounts may use."""
    errors: list[FieldError] = []
    if not spec.get("containers"):
        errors.append(FieldError.required(f"{path}.containers", "a pod needs at least one container"))
    seen: set[str] = set()
    host_ports: set[tuple[Any, ...]] = set()
    for field in ("initContainers", "containers"):
        for container, at in fields.each(spec.get(field), f"{path}.{field}"):
            errors += fields.name(container.get("name"), f"{at}.name", names.dns1123_label)
            if container.get("name") in seen:
                errors.append(FieldError.duplicate(f"{at}.name", container["name"]))
            seen.add(container.get("name") or "")
            errors += _validate_container(container, at, volumes)
            errors += _validate_ports(container.get("ports"), f"{at}.ports", host_ports)
            restart = container.get("restartPolicy")
            if field == "containers" and restart is not None:
                errors.append(FieldError.forbidden(f"{at}.restartPolicy", "may not be set for non-init containers"))
            if field == "initContainers" and restart not in (None, "Always"):
                errors.append(FieldError.not_supported(f"{at}.restartPolicy", restart, ("Always",)))
            if field == "initContainers" and restart is None:
                for name in (*PROBES, "lifecycle"):
                    if container.get(name) is not None:
                        message = "may not be set for init containers without restartPolicy=Always"
                        errors.append(FieldError.forbidden(f"{at}.{name}", message))
    return errors


def _validate_container(container: Object, path: str, volumes: set[Any]) -> list[FieldError]:
    errors: list[FieldError] = []
    image = container.get("image")
    if not image:
        errors.append(FieldError.required(f"{path}.image"))
    elif image != image.strip():
        errors.append(FieldError.invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    errors += fields.one_of(container, path, "imagePullPolicy", PULL_POLICIES)
    errors += fields.one_of(container, path, "terminationMessagePolicy", ("File", "FallbackToLogsOnError"))
    errors += _validate_resources(container.get("resources"), f"{path}.resources")
    errors += _validate_environment(container, path)
    errors += _validate_mounts(container.get("volumeMounts"), f"{path}.volumeMounts", volumes)
    for name in PROBES:
        if container.get(name) is not None:
            errors += _validate_probe(container[name], f"{path}.{name}", liveness=name != "readinessProbe")
    for name in ("postStart", "preStop"):
        hook = (container.get("lifecycle") or {}).get(name)
        if hook is not None:
            errors += _validate_action(hook, f"{path}.lifecycle.{name}", HOOK_ACTIONS)
    return errors


def _validate_resources(resources: Any, path: str) -> list[FieldError]:
    if not resources:
        return []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    errors = fields.quantities(limits, f"{path}.limits") + fields.quantities(requests, f"{path}.requests")
    for name in (*limits, *(r for r in requests if r not in limits)):
        if "/" not in name and name not in STANDARD_RESOURCES and not name.startswith("hugepages-"):
            where = "limits" if name in limits else "requests"
            message = "must be a standard resource (cpu, memory, ephemeral-storage, hugepages-*) or fully qualified"
            errors.append(FieldError.invalid(f"{path}.{where}", name, message))
    for name, amount in requests.items():
        if name in limits and quantity.parse(amount) > quantity.parse(limits[name]):
            message = f"must be less than or equal to {name} limit of {limits[name]}"
            errors.append(FieldError.invalid(f"{path}.requests.{name}", amount, message))
    return errors


def _validate_ports(ports: Any, path: str, host_ports: set[tuple[Any, ...]]) -> list[FieldError]:
    errors = fields.unique(ports or (), path, "name")
    for port, at in fields.each(ports, path):
        errors += fields.port(port.get("containerPort"), f"{at}.containerPort")
        errors += fields.one_of(port, at, "protocol", PROTOCOLS)
        if port.get("name"):
            errors += fields.name(port["name"], f"{at}.name", names.port_name)
        if port.get("hostPort"):
            errors += fields.port(port["hostPort"], f"{at}.hostPort")
            place = (port["hostPort"], port.get("protocol"), port.get("hostIP", ""))
            if place in host_ports:
                errors.append(FieldError.duplicate(f"{at}.hostPort", port["hostPort"]))
            host_ports.add(place)
    return errors


def _validate_environment(container: Object, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for variable, at in fields.each(container.get("env"), f"{path}.env"):
        errors += fields.name(variable.get("name"), f"{at}.name", names.env_var_name)
        source = variable.get("valueFrom")
        if source is None:
            continue
        if variable.get("value"):
            errors.append(FieldError.invalid(f"{at}.valueFrom", "", "may not be specified when `value` is not empty"))
        errors += fields.exactly_one(source, f"{at}.valueFrom", VALUE_SOURCES, "source")
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if source.get(kind) is not None:
                errors += fields.required(source[kind], f"{at}.valueFrom.{kind}", "name", "key")
        reference = (source.get("fieldRef") or {}).get("fieldPath", "metadata.name")
        if reference not in FIELD_PATHS and not reference.startswith(("metadata.labels[", "metadata.annotations[")):
            errors.append(FieldError.not_supported(f"{at}.valueFrom.fieldRef.fieldPath", reference, FIELD_PATHS))
    for source, at in fields.each(container.get("envFrom"), f"{path}.envFrom"):
        errors += fields.exactly_one(source, at, ("configMapRef", "secretRef"), "source")
        if source.get("prefix"):
            errors += fields.name(source["prefix"], f"{at}.prefix", names.env_var_name)
    return errors


def _validate_mounts(mounts: Any, path: str, volumes: set[Any]) -> list[FieldError]:
    errors = fields.unique(mounts or (), path, "mountPath")
    for mount, at in fields.each(mounts, path):
        errors += fields.required(mount, at, "name", "mountPath")
        if mount.get("name") and mount["name"] not in volumes:
            errors.append(FieldError.not_found(f"{at}.name", mount["name"]))
        sub_path = mount.get("subPath") or ""
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            errors.append(FieldError.invalid(f"{at}.subPath", sub_path, "must be a relative path without '..'"))
    return errors


def _validate_probe(probe: Object, path: str, *, liveness: bool) -> list[FieldError]:
    errors = _validate_action(probe, path, PROBE_ACTIONS)
    for field, minimum in (("initialDelaySeconds", 0), ("timeoutSeconds", 1), ("periodSeconds", 1)):
        errors += fields.at_least(probe, path, field, minimum)
    for field in ("successThreshold", "failureThreshold"):
        errors += fields.at_least(probe, path, field, 1)
    if liveness and probe.get("successThreshold", 1) != 1:
        errors.append(FieldError.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1"))
    return errors


def _validate_action(action: Object, path: str, choices: tuple[str, ...]) -> list[FieldError]:
    errors = fields.exactly_one(action, path, choices, "handler type")
    if action.get("exec") is not None:
        errors += fields.required(action["exec"], f"{path}.exec", "command")
    for kind in ("httpGet", "tcpSocket"):
        if action.get(kind) is not None:
            errors += fields.port_or_name(action[kind].get("port"), f"{path}.{kind}.port")
    if action.get("httpGet") is not None:
        errors += fields.one_of(action["httpGet"], f"{path}.httpGet", "scheme", ("HTTP", "HTTPS"))
    if action.get("grpc") is not None:
        errors += fields.port(action["grpc"].get("port"), f"{path}.grpc.port")
    return errors
