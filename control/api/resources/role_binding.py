"""RoleBinding and ClusterRoleBinding (Kubernetes concept: Using RBAC Authorization)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.rules import columns, fields
from kube import kinds, names, schema
from kube.errors import FieldError

GROUP = "rbac.authorization.k8s.io"
ROLE_BINDING = kinds.known(GROUP, "v1", "rolebindings")
CLUSTER_ROLE_BINDING = kinds.known(GROUP, "v1", "clusterrolebindings")
SUBJECT_KINDS = ("Group", "ServiceAccount", "User")


def default(obj: Object) -> None:
    if isinstance(obj.get("roleRef"), dict):
        obj["roleRef"].setdefault("apiGroup", GROUP)
    for subject in obj.get("subjects") or ():
        subject.setdefault("apiGroup", "" if subject.get("kind") == "ServiceAccount" else GROUP)


def validate(obj: Object) -> list[FieldError]:
    reference = obj.get("roleRef") or {}
    supported = ("ClusterRole", "Role") if obj.get("kind") == "RoleBinding" else ("ClusterRole",)
    errors = fields.required(reference, "roleRef", "kind", "name")
    errors += fields.one_of(reference, "roleRef", "kind", supported)
    for subject, at in fields.each(obj.get("subjects"), "subjects"):
        errors += fields.required(subject, at, "kind", "name")
        errors += fields.one_of(subject, at, "kind", SUBJECT_KINDS)
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            errors.append(FieldError.required(f"{at}.namespace"))
    return errors


def validate_update(new: Object, old: Object) -> list[FieldError]:
    # who has been given a role must not silently get another one
    if new.get("roleRef") != old.get("roleRef"):
        return [FieldError.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]
    return []


def _role(obj: Object) -> str:
    reference = obj.get("roleRef") or {}
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _subjects(obj: Object, kind: str) -> str:
    found = [s for s in obj.get("subjects") or () if s.get("kind") == kind]
    return ", ".join(f"{s['namespace']}/{s['name']}" if s.get("namespace") else s["name"] for s in found)


RESOURCES = tuple(
    Resource(
        kind=kind,
        type=schema.load().kind(kind.group, kind.version, kind.kind),
        columns=(
            columns.NAME,
            Column("Role", lambda o, _: _role(o)),
            columns.AGE,
            Column("Users", lambda o, _: _subjects(o, "User"), priority=1),
            Column("Groups", lambda o, _: _subjects(o, "Group"), priority=1),
            Column("ServiceAccounts", lambda o, _: _subjects(o, "ServiceAccount"), priority=1),
        ),
        default=default,
        validate=validate,
        validate_update=validate_update,
        validate_name=names.path_segment,
    )
    for kind in (ROLE_BINDING, CLUSTER_ROLE_BINDING)
)
