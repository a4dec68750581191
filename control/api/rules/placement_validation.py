"""What a pod may say about other pods' places: pod (anti-)affinity and topology spread constraints."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules import fields
from control.api.rules.selectors import validate_label_selector
from kube import names
from kube.errors import FieldError

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
WHEN_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
INCLUSION_POLICIES = ("Honor", "Ignore")


def validate_pod_affinity(affinity: Any, path: str) -> list[FieldError]:
    """Findings about `podAffinity` or `podAntiAffinity`; absent is valid."""
    if not affinity:
        return []
    errors: list[FieldError] = []
    for term, at in fields.each(affinity.get(REQUIRED), f"{path}.{REQUIRED}"):
        errors += _validate_term(term, at)
    for weighted, at in fields.each(affinity.get(PREFERRED), f"{path}.{PREFERRED}"):
        weight = weighted.get("weight")
        if not isinstance(weight, int) or not 1 <= weight <= 100:
            errors.append(FieldError.invalid(f"{at}.weight", weight, "must be in the range 1-100"))
        errors += _validate_term(weighted.get("podAffinityTerm") or {}, f"{at}.podAffinityTerm")
    return errors


def _validate_term(term: Object, path: str) -> list[FieldError]:
    errors = fields.name(term.get("topologyKey"), f"{path}.topologyKey", names.qualified_name)
    for field in ("labelSelector", "namespaceSelector"):
        errors += validate_label_selector(term.get(field), f"{path}.{field}")
    for position, namespace in enumerate(term.get("namespaces") or ()):
        errors += fields.name(namespace, f"{path}.namespaces[{position}]", names.dns1123_label)
    return errors


def validate_topology_spread(constraints: Any, path: str) -> list[FieldError]:
    """Findings about `topologySpreadConstraints`; absent is valid."""
    errors: list[FieldError] = []
    seen: set[tuple[Any, Any]] = set()
    for constraint, at in fields.each(constraints, path):
        errors += fields.name(constraint.get("topologyKey"), f"{at}.topologyKey", names.qualified_name)
        skew = constraint.get("maxSkew")
        if not isinstance(skew, int) or skew < 1:
            errors.append(FieldError.invalid(f"{at}.maxSkew", skew, "must be greater than zero"))
        when = constraint.get("whenUnsatisfiable")
        if when not in WHEN_UNSATISFIABLE:
            errors.append(FieldError.not_supported(f"{at}.whenUnsatisfiable", when, WHEN_UNSATISFIABLE))
        if constraint.get("minDomains") is not None:
            errors += fields.at_least(constraint, at, "minDomains", 1)
            if when != "DoNotSchedule":
                message = "can only use minDomains if whenUnsatisfiable=DoNotSchedule"
                errors.append(FieldError.invalid(f"{at}.minDomains", constraint["minDomains"], message))
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            errors += fields.one_of(constraint, at, field, INCLUSION_POLICIES)
        errors += validate_label_selector(constraint.get("labelSelector"), f"{at}.labelSelector")
        identity = (constraint.get("topologyKey"), when)
        if identity in seen:
            errors.append(FieldError.duplicate(at, {"topologyKey": identity[0], "whenUnsatisfiable": identity[1]}))
        seen.add(identity)
    return errors
