"""Service (Kubernetes concept: Service). Addresses and node ports are allotted by admission."""

from __future__ import annotations

import ipaddress

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, fields
from control.api.rules.object_meta import validate_labels
from kube import kinds, names, schema
from kube.errors import FieldError

KIND = kinds.known("", "v1", "services")
TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
PROTOCOLS = ("TCP", "UDP", "SCTP")
AFFINITY_SECONDS = 10800
WITH_NODE_PORTS = ("NodePort", "LoadBalancer")


def default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault(
            "timeoutSeconds", AFFINITY_SECONDS
        )
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port")
    if spec["type"] != "ExternalName":
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in WITH_NODE_PORTS:
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def prepare_create(obj: Object) -> None:
    obj["status"] = {"loadBalancer": {}}


def prepare_update(new: Object, old: Object) -> None:
    """A client that does not send what the server allotted keeps it (as `kubectl apply` and PUT from YAML expect)."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if after.get("type") != "ExternalName" and before.get("type") != "ExternalName":
        for field in ("clusterIP", "clusterIPs"):
            if not after.get(field) and before.get(field):
                after[field] = before[field]
    if after.get("type") in WITH_NODE_PORTS:
        known = {(p.get("port"), p.get("protocol")): p.get("nodePort") for p in before.get("ports") or ()}
        for port in after.get("ports") or ():
            kept = known.get((port.get("port"), port.get("protocol")))
            if not port.get("nodePort") and kept:
                port["nodePort"] = kept
    elif before.get("type") in WITH_NODE_PORTS:
        for port in after.get("ports") or ():
            port.pop("nodePort", None)
        after.pop("externalTrafficPolicy", None)


def validate(obj: Object) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors = fields.one_of(spec, "spec", "type", TYPES)
    errors += fields.one_of(spec, "spec", "sessionAffinity", ("None", "ClientIP"))
    errors += fields.one_of(spec, "spec", "internalTrafficPolicy", ("Cluster", "Local"))
    errors += fields.one_of(spec, "spec", "externalTrafficPolicy", ("Cluster", "Local"))
    errors += validate_labels(spec.get("selector"), "spec.selector")
    headless = spec.get("clusterIP") == "None"
    if spec.get("type") == "ExternalName":
        errors += fields.name(spec.get("externalName"), "spec.externalName", names.dns1123_subdomain)
    elif not spec.get("ports") and not headless:
        errors.append(FieldError.required("spec.ports"))
    if headless and spec.get("type") in WITH_NODE_PORTS:
        message = f"may not be set to 'None' for {spec['type']} services"
        errors.append(FieldError.invalid("spec.clusterIPs[0]", "None", message))
    errors += _validate_ports(spec)
    address = spec.get("clusterIP")
    if address and not headless and not _is_ip(address):
        errors.append(FieldError.invalid("spec.clusterIPs[0]", address, "must be a valid IP address or 'None'"))
    for position, external in enumerate(spec.get("externalIPs") or ()):
        if not _is_ip(external):
            errors.append(FieldError.invalid(f"spec.externalIPs[{position}]", external, "must be a valid IP address"))
    seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if seconds is not None and not 0 < seconds <= 86400:
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        errors.append(FieldError.invalid(path, seconds, "must be greater than 0 and less than 86400"))
    return errors


def _validate_ports(spec: Object) -> list[FieldError]:
    ports = spec.get("ports") or []
    errors = fields.unique(ports, "spec.ports", "name")
    seen: set[tuple[object, object]] = set()
    for port, at in fields.each(ports, "spec.ports"):
        if len(ports) > 1 and not port.get("name"):
            errors.append(FieldError.required(f"{at}.name", "every port needs a name when there are several"))
        if port.get("name"):
            errors += fields.name(port["name"], f"{at}.name", names.dns1123_label)
        errors += fields.port(port.get("port"), f"{at}.port")
        errors += fields.one_of(port, at, "protocol", PROTOCOLS)
        if port.get("targetPort") is not None:
            errors += fields.port_or_name(port["targetPort"], f"{at}.targetPort")
        if port.get("nodePort") and spec.get("type") not in WITH_NODE_PORTS:
            message = f"may not be used when `type` is '{spec.get('type')}'"
            errors.append(FieldError.forbidden(f"{at}.nodePort", message))
        identity = (port.get("port"), port.get("protocol"))
        if identity in seen:
            errors.append(FieldError.duplicate(at, {"port": identity[0], "protocol": identity[1]}))
        seen.add(identity)
    return errors


def validate_update(new: Object, old: Object) -> list[FieldError]:
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (after.get("type"), before.get("type")) or not before.get("clusterIP"):
        return []
    if after.get("clusterIP") != before.get("clusterIP"):
        message = "may not change once set"
        return [FieldError.invalid("spec.clusterIPs[0]", after.get("clusterIP"), message)]
    return []


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _external_ip(obj: Object) -> str:
    spec = obj.get("spec") or {}
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    found = [i.get("ip") or i.get("hostname") or "" for i in ingress] + list(spec.get("externalIPs") or ())
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    return ",".join(found) or ("<pending>" if spec.get("type") == "LoadBalancer" else "<none>")


def _ports(obj: Object) -> str:
    def one(port: Object) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port.get('port')}{node}/{port.get('protocol')}"

    return ",".join(one(p) for p in (obj.get("spec") or {}).get("ports") or ()) or "<none>"


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Service"),
        categories=("all",),
        subresources=(Subresource("status", "status", "", "v1", "Service", ("get", "patch", "update")),),
        columns=(
            columns.NAME,
            Column("Type", lambda o, _: (o.get("spec") or {}).get("type", "")),
            Column("Cluster-IP", lambda o, _: (o.get("spec") or {}).get("clusterIP") or "<none>"),
            Column("External-IP", lambda o, _: _external_ip(o)),
            Column("Port(s)", lambda o, _: _ports(o)),
            columns.AGE,
            Column("Selector", lambda o, _: columns.pairs((o.get("spec") or {}).get("selector")), priority=1),
        ),
        has_status=True,
        default=default,
        prepare_create=prepare_create,
        prepare_update=prepare_update,
        validate=validate,
        validate_update=validate_update,
        validate_name=names.dns1035_label,
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "metadata.namespace": columns.metadata_cell(o, "namespace"),
            "spec.clusterIP": (o.get("spec") or {}).get("clusterIP") or "",
            "spec.type": (o.get("spec") or {}).get("type") or "",
        },
        selectable_fields=frozenset({"metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"}),
    ),
)
