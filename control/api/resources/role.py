"""Role and ClusterRole (Kubernetes concept: Using RBAC Authorization)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.rules import columns, fields
from kube import kinds, names, schema
from kube.errors import FieldError

ROLE = kinds.known("rbac.authorization.k8s.io", "v1", "roles")
CLUSTER_ROLE = kinds.known("rbac.authorization.k8s.io", "v1", "clusterroles")


def validate(obj: Object) -> list[FieldError]:
    errors: list[FieldError] = []
    namespaced = obj.get("kind") == "Role"
    for rule, at in fields.each(obj.get("rules"), "rules"):
        errors += fields.required(rule, at, "verbs")
        if rule.get("nonResourceURLs"):
            if namespaced:
                message = "namespaced rules cannot apply to non-resource URLs"
                errors.append(FieldError.invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], message))
            if rule.get("apiGroups") or rule.get("resources"):
                message = "rules cannot apply to both regular resources and non-resource URLs"
                errors.append(FieldError.invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], message))
            continue
        if rule.get("apiGroups") is None:
            errors.append(FieldError.required(f"{at}.apiGroups", "resource rules must supply at least one api group"))
        errors += fields.required(rule, at, "resources")
    return errors


RESOURCES = tuple(
    Resource(
        kind=kind,
        type=schema.load().kind(kind.group, kind.version, kind.kind),
        columns=(
            columns.NAME,
            Column("Created At", lambda o, _: columns.metadata_cell(o, "creationTimestamp"), format="date-time"),
        ),
        validate=validate,
        # names such as system:node are allowed here, where DNS names are not enough
        validate_name=names.path_segment,
    )
    for kind in (ROLE, CLUSTER_ROLE)
)
