"""Pod (Kubernetes concept: Pods)."""

from __future__ import annotations

from typing import Any

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, pod_defaults, pod_validation
from control.api.rules.pod_table import ready_cell, restarts_cell, status_cell
from kube import kinds, names, quantity, schema
from kube.errors import FieldError

KIND = kinds.known("", "v1", "pods")

SELECTABLE = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    }
)


def default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    pod_defaults.default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)


def prepare_create(obj: Object) -> None:
    obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj.get("spec") or {})}
    if (obj.get("spec") or {}).get("schedulingGates"):
        obj["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort (Kubernetes concept: Pod Quality of Service Classes)."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    guaranteed, any_given = bool(containers), False
    for container in containers:
        resources = container.get("resources") or {}
        requests, limits = (_positive(resources.get(f)) for f in ("requests", "limits"))
        any_given = any_given or bool(requests or limits)
        guaranteed = guaranteed and {*limits} == {"cpu", "memory"} and requests == limits
    if not any_given:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(resources: Any) -> dict[str, Any]:
    amounts = {r: quantity.parse(a) for r, a in (resources or {}).items() if r in ("cpu", "memory")}
    return {r: a for r, a in amounts.items() if a > 0}


def validate(obj: Object) -> list[FieldError]:
    return pod_validation.validate_pod_spec(obj.get("spec") or {}, "spec")


def validate_update(new: Object, old: Object) -> list[FieldError]:
    return pod_validation.validate_pod_spec_update(new.get("spec") or {}, old.get("spec") or {})


def grace_period_seconds(obj: Object) -> int:
    """How long a deletion waits: not at all for pods that no node runs (any more)."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    seconds = spec.get("terminationGracePeriodSeconds")
    return pod_defaults.GRACE_PERIOD_SECONDS if seconds is None else int(seconds)


def selectable(obj: Object) -> dict[str, str]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return {
        "metadata.name": columns.metadata_cell(obj, "name"),
        "metadata.namespace": columns.metadata_cell(obj, "namespace"),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.restartPolicy": spec.get("restartPolicy", ""),
        "spec.schedulerName": spec.get("schedulerName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "spec.hostNetwork": str(bool(spec.get("hostNetwork"))).lower(),
        "status.phase": status.get("phase", ""),
        "status.podIP": status.get("podIP", ""),
        "status.nominatedNodeName": status.get("nominatedNodeName", ""),
    }


def _readiness_gates(obj: Object) -> str:
    gates = [g.get("conditionType") for g in (obj.get("spec") or {}).get("readinessGates") or ()]
    if not gates:
        return "<none>"
    conditions = (obj.get("status") or {}).get("conditions") or ()
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    return f"{sum(g in true for g in gates)}/{len(gates)}"


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Pod"),
        categories=("all",),
        subresources=(
            Subresource("status", "status", "", "v1", "Pod", ("get", "patch", "update")),
            Subresource("binding", "binding", "", "v1", "Binding", ("create",)),
            Subresource("eviction", "eviction", "policy", "v1", "Eviction", ("create",)),
            Subresource("log", "log", "", "v1", "Pod", ("get",)),
            Subresource("exec", "exec", "", "v1", "PodExecOptions", ("create", "get")),
            Subresource("attach", "attach", "", "v1", "PodAttachOptions", ("create", "get")),
            Subresource("portforward", "portforward", "", "v1", "PodPortForwardOptions", ("create", "get")),
        ),
        columns=(
            columns.NAME,
            Column("Ready", lambda o, _: ready_cell(o)),
            Column("Status", lambda o, _: status_cell(o)),
            Column("Restarts", restarts_cell),
            columns.AGE,
            Column("IP", lambda o, _: (o.get("status") or {}).get("podIP") or "<none>", priority=1),
            Column("Node", lambda o, _: (o.get("spec") or {}).get("nodeName") or "<none>", priority=1),
            Column(
                "Nominated Node",
                lambda o, _: (o.get("status") or {}).get("nominatedNodeName") or "<none>",
                priority=1,
            ),
            Column("Readiness Gates", lambda o, _: _readiness_gates(o), priority=1),
        ),
        has_status=True,
        has_generation=True,
        default=default,
        prepare_create=prepare_create,
        validate=validate,
        validate_update=validate_update,
        validate_name=names.dns1123_subdomain,
        fields=selectable,
        selectable_fields=SELECTABLE,
        grace_period_seconds=grace_period_seconds,
    ),
)
