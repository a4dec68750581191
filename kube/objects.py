"""Small questions asked of every typed object, whatever its kind (ObjectMeta's conventions)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from kube import kinds
from kube.models import core_v1, meta_v1

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(obj: Any) -> bytes:
    """JSON of a typed object (or of plain data)."""
    return _encoder.encode(obj)


def decode(data: bytes, type_: type[T]) -> T:
    """Typed object from JSON; unknown fields are ignored, a wrong type raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=type_)


def to_dict(obj: Any) -> dict[str, Any]:
    """Plain JSON data of a typed object."""
    data: dict[str, Any] = msgspec.json.decode(_encoder.encode(obj))
    return data


def from_dict(data: dict[str, Any], type_: type[T]) -> T:
    """Typed object from plain JSON data."""
    return msgspec.convert(data, type_)


def copy(obj: T) -> T:
    """Deep copy of a typed object: what an informer handed out must never be changed in place."""
    return msgspec.json.decode(_encoder.encode(obj), type=type(obj))


def meta(obj: Any) -> meta_v1.ObjectMeta:
    """The object's metadata."""
    found: meta_v1.ObjectMeta = obj.metadata
    return found


def name(obj: Any) -> str:
    return meta(obj).name or ""


def namespace(obj: Any) -> str:
    return meta(obj).namespace or ""


def uid(obj: Any) -> str:
    return meta(obj).uid or ""


def resource_version(obj: Any) -> str:
    return meta(obj).resourceVersion or ""


def key(obj: Any) -> str:
    """`namespace/name`, or `name` for cluster-scoped objects: the key of caches and work queues."""
    found = meta(obj)
    return f"{found.namespace}/{found.name}" if found.namespace else found.name or ""


def split_key(key: str) -> tuple[str, str]:
    """(namespace, name) of a key; namespace is empty for cluster-scoped objects."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def is_deleting(obj: Any) -> bool:
    """Whether deletion was asked for and waits for finalizers or for a grace period."""
    return meta(obj).deletionTimestamp is not None


def controller_of(obj: Any) -> meta_v1.OwnerReference | None:
    """The owner reference with `controller: true`, if there is one."""
    return next((o for o in meta(obj).ownerReferences if o.controller), None)


def owner_reference(owner: Any, *, controller: bool = True) -> meta_v1.OwnerReference:
    """Owner reference to a typed object, blocking its foreground deletion."""
    kind = kinds.kind_of(owner)
    return meta_v1.OwnerReference(
        apiVersion=kind.api_version,
        kind=kind.kind,
        name=name(owner),
        uid=uid(owner),
        controller=controller or None,
        blockOwnerDeletion=True,
    )


def reference(obj: Any) -> core_v1.ObjectReference:
    """Object reference as events carry it (involvedObject)."""
    kind = kinds.kind_of(obj)
    found = meta(obj)
    return core_v1.ObjectReference(
        apiVersion=kind.api_version,
        kind=kind.kind,
        name=found.name,
        namespace=found.namespace,
        uid=found.uid,
        resourceVersion=found.resourceVersion,
    )


def condition(conditions: Iterable[Any], type_: str) -> Any | None:
    """The condition of a type (`Ready`, `Available`), or None."""
    return next((c for c in conditions if c.type == type_), None)
