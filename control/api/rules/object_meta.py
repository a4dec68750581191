"""Rules for ObjectMeta: names, labels, annotations, owner references, finalizers, and what may never change."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object, Resource
from kube import names
from kube.errors import FieldError

ANNOTATIONS_LIMIT = 256 * 1024
NAME_LIMIT = 253


def validate_object_meta(obj: Object, resource: Resource) -> list[FieldError]:
    """Findings about `metadata` of a whole object (Kubernetes concept: Object Names and IDs)."""
    metadata: Object = obj.get("metadata") or {}
    errors: list[FieldError] = []
    name = metadata.get("name", "")
    if not name:
        errors.append(FieldError.required("metadata.name", "name or generateName is required"))
    elif len(name) > NAME_LIMIT:
        errors.append(FieldError.too_long("metadata.name", name, NAME_LIMIT))
    else:
        check = resource.validate_name or names.dns1123_subdomain
        errors += [FieldError.invalid("metadata.name", name, message) for message in check(name)]
    if not resource.kind.namespaced and metadata.get("namespace"):
        errors.append(FieldError.forbidden("metadata.namespace", "not allowed on this type"))
    errors += validate_labels(metadata.get("labels"), "metadata.labels")
    errors += validate_annotations(metadata.get("annotations"), "metadata.annotations")
    for position, finalizer in enumerate(metadata.get("finalizers") or ()):
        at = f"metadata.finalizers[{position}]"
        errors += [FieldError.invalid(at, finalizer, message) for message in names.qualified_name(finalizer)]
    errors += _validate_owner_references(metadata.get("ownerReferences") or [])
    return errors


def validate_object_meta_update(new: Object, old: Object) -> list[FieldError]:
    """Findings about fields of `metadata` that never change once the object exists."""
    errors: list[FieldError] = []
    after, before = new.get("metadata") or {}, old.get("metadata") or {}
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        if after.get(field) != before.get(field):
            errors.append(FieldError.invalid(f"metadata.{field}", after.get(field), "field is immutable"))
    if before.get("deletionTimestamp"):
        added = set(after.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if added:
            message = f"no new finalizers can be added while the object is being deleted: {', '.join(sorted(added))}"
            errors.append(FieldError.forbidden("metadata.finalizers", message))
    return errors


def validate_labels(labels: Any, path: str) -> list[FieldError]:
    """Findings about label keys and values (Kubernetes concept: Labels and Selectors)."""
    errors: list[FieldError] = []
    for key, value in (labels or {}).items():
        errors += [FieldError.invalid(path, key, message) for message in names.qualified_name(key)]
        errors += [FieldError.invalid(f"{path}.{key}", value, message) for message in names.label_value(value)]
    return errors


def validate_annotations(annotations: Any, path: str) -> list[FieldError]:
    """Findings about annotation keys and their total size."""
    errors: list[FieldError] = []
    size = 0
    for key, value in (annotations or {}).items():
        errors += [FieldError.invalid(path, key, message) for message in names.qualified_name(key.lower())]
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        errors.append(FieldError.too_long(path, "", ANNOTATIONS_LIMIT))
    return errors


def _validate_owner_references(references: list[Object]) -> list[FieldError]:
    errors: list[FieldError] = []
    controllers = 0
    for position, reference in enumerate(references):
        path = f"metadata.ownerReferences[{position}]"
        for field in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(field):
                errors.append(FieldError.required(f"{path}.{field}"))
        controllers += bool(reference.get("controller"))
    if controllers > 1:
        message = "only one reference can have controller set to true"
        errors.append(FieldError.invalid("metadata.ownerReferences", controllers, message))
    return errors
