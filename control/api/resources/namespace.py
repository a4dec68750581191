"""Namespace (Kubernetes concept: Namespaces)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns
from kube import kinds, names, schema

KIND = kinds.known("", "v1", "namespaces")

FINALIZER = "kubernetes"


def default(obj: Object) -> None:
    # every namespace can be selected by its name (KEP-2161)
    metadata = obj.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    obj.setdefault("status", {}).setdefault("phase", "Active")


def prepare_create(obj: Object) -> None:
    obj["spec"] = {"finalizers": [FINALIZER]}
    obj["status"] = {"phase": "Active"}


def prepare_update(new: Object, old: Object) -> None:
    # what holds a namespace back is changed through /finalize only
    new["spec"] = old.get("spec", {})
    new["status"] = old.get("status", {})


def finalizers(obj: Object) -> list[str]:
    metadata, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    return [*(metadata.get("finalizers") or ()), *(spec.get("finalizers") or ())]


def prepare_delete(obj: Object) -> None:
    obj.setdefault("status", {})["phase"] = "Terminating"


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Namespace"),
        # no deletecollection: emptying a cluster is done by name
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=(
            Subresource("status", "status", "", "v1", "Namespace", ("get", "patch", "update")),
            Subresource("finalize", "finalize", "", "v1", "Namespace", ("update",)),
        ),
        columns=(
            columns.NAME,
            Column("Status", lambda o, _: (o.get("status") or {}).get("phase", "")),
            columns.AGE,
        ),
        has_status=True,
        default=default,
        prepare_create=prepare_create,
        prepare_update=prepare_update,
        finalizers=finalizers,
        prepare_delete=prepare_delete,
        validate_name=names.dns1123_label,
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "status.phase": (o.get("status") or {}).get("phase", ""),
        },
        selectable_fields=frozenset({"metadata.name", "status.phase"}),
    ),
)
