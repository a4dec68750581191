"""Rules for label selectors, and for selectors that must match a pod template."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules import fields
from control.api.rules.object_meta import validate_labels
from kube import names, selector
from kube.errors import FieldError

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def validate_label_selector(value: Any, path: str) -> list[FieldError]:
    """Findings about a LabelSelector; absent is valid here."""
    if value is None:
        return []
    errors = validate_labels(value.get("matchLabels"), f"{path}.matchLabels")
    for requirement, at in fields.each(value.get("matchExpressions"), f"{path}.matchExpressions"):
        errors += fields.name(requirement.get("key"), f"{at}.key", names.qualified_name)
        operator = requirement.get("operator")
        if operator not in OPERATORS:
            errors.append(FieldError.not_supported(f"{at}.operator", operator, OPERATORS))
        values = requirement.get("values") or []
        if operator in ("In", "NotIn") and not values:
            errors.append(FieldError.required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        if operator in ("Exists", "DoesNotExist") and values:
            message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            errors.append(FieldError.forbidden(f"{at}.values", message))
    return errors


def validate_template_selector(spec: Object, path: str = "spec") -> list[FieldError]:
    """A workload's selector must be there, be valid, select something and match its own template's labels."""
    chosen = spec.get("selector")
    at = f"{path}.selector"
    if chosen is None:
        return [FieldError.required(at)]
    errors = validate_label_selector(chosen, at)
    if errors:
        return errors
    if not chosen.get("matchLabels") and not chosen.get("matchExpressions"):
        return [FieldError.invalid(at, chosen, "empty selector is invalid for this kind: it would select every pod")]
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not selector.from_label_selector(chosen).matches(labels):
        message = f"`selector` does not match template `labels`: add to the template the labels of {at}, or mend {at}"
        errors.append(FieldError.invalid(f"{path}.template.metadata.labels", labels, message))
    return errors
