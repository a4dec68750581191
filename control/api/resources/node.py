"""Node (Kubernetes concept: Nodes)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, fields
from control.api.rules.pod_validation import TAINT_EFFECTS
from kube import kinds, names, schema
from kube.errors import FieldError

KIND = kinds.known("", "v1", "nodes")

ROLE_LABEL = "node-role.kubernetes.io/"


def status_text(obj: Object) -> str:
    """`Ready`, `NotReady` or `Unknown`, with `SchedulingDisabled` for a cordoned node."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready = next((c.get("status") for c in conditions if c.get("type") == "Ready"), None)
    text = {"True": "Ready", None: "Unknown"}.get(ready, "NotReady")
    return text + ",SchedulingDisabled" if (obj.get("spec") or {}).get("unschedulable") else text


def roles(obj: Object) -> str:
    """Roles from the node's labels, `<none>` without any."""
    labels = (obj.get("metadata") or {}).get("labels") or {}
    found = [k.removeprefix(ROLE_LABEL) for k in labels if k.startswith(ROLE_LABEL)]
    return ",".join(sorted(found)) or "<none>"


def _address(obj: Object, kind: str) -> str:
    addresses = (obj.get("status") or {}).get("addresses") or ()
    return next((a.get("address", "") for a in addresses if a.get("type") == kind), "<none>")


def _info(obj: Object, field: str) -> str:
    found: str = ((obj.get("status") or {}).get("nodeInfo") or {}).get(field) or "<unknown>"
    return found


def validate(obj: Object) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[tuple[str, str]] = set()
    for taint, at in fields.each((obj.get("spec") or {}).get("taints"), "spec.taints"):
        errors += fields.name(taint.get("key"), f"{at}.key", names.qualified_name)
        if taint.get("value"):
            errors += fields.name(taint["value"], f"{at}.value", names.label_value)
        if taint.get("effect") not in TAINT_EFFECTS:
            errors.append(FieldError.not_supported(f"{at}.effect", taint.get("effect"), TAINT_EFFECTS))
        identity = (taint.get("key", ""), taint.get("effect", ""))
        if identity in seen:
            errors.append(FieldError.duplicate(at, ":".join(identity)))
        seen.add(identity)
    for field in ("capacity", "allocatable"):
        errors += fields.quantities((obj.get("status") or {}).get(field), f"status.{field}")
    return errors


def validate_update(new: Object, old: Object) -> list[FieldError]:
    after, before = new.get("spec") or {}, old.get("spec") or {}
    # allotted once: pods already have addresses out of it
    return [e for f in ("podCIDR", "providerID") if before.get(f) for e in fields.immutable(after, before, "spec", f)]


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Node"),
        subresources=(
            Subresource("status", "status", "", "v1", "Node", ("get", "patch", "update")),
            Subresource("proxy", "node_proxy", "", "v1", "NodeProxyOptions", ("create", "get", "update")),
        ),
        columns=(
            columns.NAME,
            Column("Status", lambda o, _: status_text(o)),
            Column("Roles", lambda o, _: roles(o)),
            columns.AGE,
            Column("Version", lambda o, _: _info(o, "kubeletVersion")),
            Column("Internal-IP", lambda o, _: _address(o, "InternalIP"), priority=1),
            Column("External-IP", lambda o, _: _address(o, "ExternalIP"), priority=1),
            Column("OS-Image", lambda o, _: _info(o, "osImage"), priority=1),
            Column("Kernel-Version", lambda o, _: _info(o, "kernelVersion"), priority=1),
            Column("Container-Runtime", lambda o, _: _info(o, "containerRuntimeVersion"), priority=1),
        ),
        has_status=True,
        # a node that registers tells at once what it is and has
        status_at_creation=True,
        validate=validate,
        validate_update=validate_update,
        validate_status=lambda new, _: validate(new),
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "spec.unschedulable": str(bool((o.get("spec") or {}).get("unschedulable"))).lower(),
        },
        selectable_fields=frozenset({"metadata.name", "spec.unschedulable"}),
    ),
)
