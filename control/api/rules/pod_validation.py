"""What a pod spec may say (Kubernetes API reference: PodSpec). Findings only; defaults have been filled in before."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules import fields
from control.api.rules.container_validation import validate_containers
from control.api.rules.object_meta import validate_annotations, validate_labels
from control.api.rules.placement_validation import validate_pod_affinity, validate_topology_spread
from control.api.rules.volume_validation import validate_volumes
from kube import names
from kube.errors import FieldError

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
PREEMPTION_POLICIES = ("Never", "PreemptLowerPriority")
NODE_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def validate_pod_template(
    template: Any, path: str, *, restart_policies: tuple[str, ...] = ("Always",)
) -> list[FieldError]:
    """Findings about a workload's pod template; most workloads allow only pods that are always restarted."""
    if not template:
        return [FieldError.required(path)]
    metadata = template.get("metadata") or {}
    errors = validate_labels(metadata.get("labels"), f"{path}.metadata.labels")
    errors += validate_annotations(metadata.get("annotations"), f"{path}.metadata.annotations")
    spec = template.get("spec") or {}
    errors += validate_pod_spec(spec, f"{path}.spec")
    policy = spec.get("restartPolicy")
    if policy in RESTART_POLICIES and policy not in restart_policies:
        errors.append(FieldError.not_supported(f"{path}.spec.restartPolicy", policy, restart_policies))
    if spec.get("activeDeadlineSeconds") is not None and restart_policies == ("Always",):
        errors.append(FieldError.forbidden(f"{path}.spec.activeDeadlineSeconds", "not allowed in this workload"))
    return errors


def validate_pod_spec(spec: Object, path: str) -> list[FieldError]:
    """Findings about a whole pod spec."""
    errors = validate_volumes(spec.get("volumes"), f"{path}.volumes")
    volumes = {v.get("name") for v in spec.get("volumes") or ()}
    errors += validate_containers(spec, path, volumes)
    errors += fields.one_of(spec, path, "restartPolicy", RESTART_POLICIES)
    errors += fields.one_of(spec, path, "dnsPolicy", DNS_POLICIES)
    errors += fields.one_of(spec, path, "preemptionPolicy", PREEMPTION_POLICIES)
    errors += fields.at_least(spec, path, "terminationGracePeriodSeconds", 0)
    errors += fields.at_least(spec, path, "activeDeadlineSeconds", 1)
    errors += validate_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    for field, check in (
        ("serviceAccountName", names.dns1123_subdomain),
        ("nodeName", names.dns1123_subdomain),
        ("hostname", names.dns1123_label),
        ("subdomain", names.dns1123_label),
        ("priorityClassName", names.dns1123_subdomain),
    ):
        if spec.get(field):
            errors += fields.name(spec[field], f"{path}.{field}", check)
    errors += _validate_tolerations(spec.get("tolerations"), f"{path}.tolerations")
    errors += _validate_node_affinity((spec.get("affinity") or {}).get("nodeAffinity"), f"{path}.affinity.nodeAffinity")
    for kind in ("podAffinity", "podAntiAffinity"):
        errors += validate_pod_affinity((spec.get("affinity") or {}).get(kind), f"{path}.affinity.{kind}")
    errors += validate_topology_spread(spec.get("topologySpreadConstraints"), f"{path}.topologySpreadConstraints")
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        message = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        errors.append(FieldError.required(f"{path}.dnsConfig.nameservers", message))
    for gate, at in fields.each(spec.get("readinessGates"), f"{path}.readinessGates"):
        errors += fields.name(gate.get("conditionType"), f"{at}.conditionType", names.qualified_name)
    for gate, at in fields.each(spec.get("schedulingGates"), f"{path}.schedulingGates"):
        errors += fields.name(gate.get("name"), f"{at}.name", names.qualified_name)
    if spec.get("schedulingGates") and spec.get("nodeName"):
        message = "cannot be set until all schedulingGates have been cleared"
        errors.append(FieldError.forbidden(f"{path}.nodeName", message))
    return errors


def _validate_tolerations(tolerations: Any, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for toleration, at in fields.each(tolerations, path):
        key, operator = toleration.get("key"), toleration.get("operator")
        if key:
            errors += fields.name(key, f"{at}.key", names.qualified_name)
        errors += fields.one_of(toleration, at, "operator", ("Exists", "Equal"))
        errors += fields.one_of(toleration, at, "effect", TAINT_EFFECTS)
        if not key and operator != "Exists":
            message = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            errors.append(FieldError.invalid(f"{at}.operator", operator, message))
        if operator == "Exists" and toleration.get("value"):
            message = "value must be empty when `operator` is 'Exists'"
            errors.append(FieldError.invalid(f"{at}.value", toleration["value"], message))
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            message = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errors.append(FieldError.invalid(f"{at}.effect", toleration.get("effect"), message))
    return errors


def _validate_node_affinity(affinity: Any, path: str) -> list[FieldError]:
    if not affinity:
        return []
    errors: list[FieldError] = []
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        at = f"{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
        if not required.get("nodeSelectorTerms"):
            errors.append(FieldError.required(at, "must have at least one node selector term"))
        for term, place in fields.each(required.get("nodeSelectorTerms"), at):
            errors += _validate_node_selector_term(term, place)
    at = f"{path}.preferredDuringSchedulingIgnoredDuringExecution"
    for preference, place in fields.each(affinity.get("preferredDuringSchedulingIgnoredDuringExecution"), at):
        weight = preference.get("weight")
        if not isinstance(weight, int) or not 1 <= weight <= 100:
            errors.append(FieldError.invalid(f"{place}.weight", weight, "must be in the range 1-100"))
        errors += _validate_node_selector_term(preference.get("preference") or {}, f"{place}.preference")
    return errors


def _validate_node_selector_term(term: Object, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for requirement, at in fields.each(term.get("matchExpressions"), f"{path}.matchExpressions"):
        errors += fields.name(requirement.get("key"), f"{at}.key", names.qualified_name)
        operator, values = requirement.get("operator"), requirement.get("values") or []
        if operator not in NODE_OPERATORS:
            errors.append(FieldError.not_supported(f"{at}.operator", operator, NODE_OPERATORS))
        elif operator in ("In", "NotIn") and not values:
            errors.append(FieldError.required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator in ("Exists", "DoesNotExist") and values:
            message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            errors.append(FieldError.forbidden(f"{at}.values", message))
        elif operator in ("Gt", "Lt") and len(values) != 1:
            message = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            errors.append(FieldError.required(f"{at}.values", message))
    return errors


def validate_pod_spec_update(new: Object, old: Object, path: str = "spec") -> list[FieldError]:
    """A pod's spec is fixed once it exists, but for images, tolerations added, deadlines and gates removed."""
    errors: list[FieldError] = []
    after, before = _without_mutable(new), _without_mutable(old)
    for field in sorted({*after, *before}):
        if after.get(field) != before.get(field):
            message = (
                "pod updates may not change fields other than `spec.containers[*].image`, "
                "`spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions) "
                "and `spec.terminationGracePeriodSeconds`"
            )
            errors.append(FieldError.forbidden(f"{path}.{field}", message))
    if any(t not in (new.get("tolerations") or ()) for t in old.get("tolerations") or ()):
        message = "existing toleration can not be modified except its tolerationSeconds"
        errors.append(FieldError.forbidden(f"{path}.tolerations", message))
    deadline = new.get("activeDeadlineSeconds")
    if old.get("activeDeadlineSeconds") is not None and (deadline is None or deadline > old["activeDeadlineSeconds"]):
        message = "may only become shorter"
        errors.append(FieldError.invalid(f"{path}.activeDeadlineSeconds", deadline, message))
    gates = {g.get("name") for g in old.get("schedulingGates") or ()}
    if any(g.get("name") not in gates for g in new.get("schedulingGates") or ()):
        errors.append(FieldError.forbidden(f"{path}.schedulingGates", "only deletion is allowed"))
    return errors


def _without_mutable(spec: Object) -> Object:
    mutable = {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"}
    # a gated pod's placement may still be narrowed (Kubernetes concept: Pod Scheduling Readiness)
    if spec.get("schedulingGates"):
        mutable |= {"nodeSelector", "affinity"}
    kept = {k: v for k, v in spec.items() if k not in mutable}
    for field in ("containers", "initContainers"):
        if field in kept:
            kept[field] = [{k: v for k, v in c.items() if k != "image"} for c in kept[field]]
    return kept
