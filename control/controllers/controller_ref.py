"""Which objects belong to a controller: adoption and release by label selector (client-go: `ControllerRefManager`).

An object belongs to the controller that its owner reference with `controller: true` names. A controller adopts
orphans that its selector matches, and releases its own whose labels no longer match; it never touches what belongs to
another. Before the first adoption it must look at itself live: a cached copy may be one that was deleted and made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from kube import objects
from kube.client import Client
from kube.selector import Selector
from kube.status import ApiError, is_invalid, is_not_found

T = TypeVar("T")

CONTROLLER_INDEX = "controller-uid"
ORPHAN_INDEX = "orphan-namespace"
NAMESPACE_INDEX = "namespace"


def by_controller(obj: Any) -> list[str]:
    """Indexer: uid of the controller that owns the object."""
    owner = objects.controller_of(obj)
    return [owner.uid] if owner is not None and owner.uid else []


def by_orphan_namespace(obj: Any) -> list[str]:
    """Indexer: namespace of an object that no controller owns."""
    return [] if objects.controller_of(obj) is not None else [objects.namespace(obj)]


def by_namespace(obj: Any) -> list[str]:
    """Indexer: namespace of an object."""
    return [objects.namespace(obj)]


INDEXERS = {CONTROLLER_INDEX: by_controller, ORPHAN_INDEX: by_orphan_namespace}


class Claim(Struct, Generic[T], frozen=True):
    """What a controller finds among the objects it may own: its own, those to adopt, those to let go."""

    owned: tuple[T, ...]
    adopt: tuple[T, ...]
    release: tuple[T, ...]


def plan(owner: Any, selector: Selector, candidates: Iterable[T]) -> Claim[T]:
    """Sort candidates of the owner's namespace into owned, to adopt and to release.

    An owner that is being deleted neither adopts nor releases: the garbage collector decides about its dependents.
    """
    uid, deleting = objects.uid(owner), objects.is_deleting(owner)
    owned: list[T] = []
    adopt: list[T] = []
    release: list[T] = []
    for obj in candidates:
        reference = objects.controller_of(obj)
        matches = selector.matches(objects.meta(obj).labels)
        if reference is not None:
            if reference.uid != uid:
                continue
            if matches:
                owned.append(obj)
            elif not deleting:
                release.append(obj)
        elif matches and not deleting and not objects.is_deleting(obj):
            adopt.append(obj)
    return Claim(tuple(owned), tuple(adopt), tuple(release))


async def can_adopt(client: Client, owner: Any) -> bool:
    """Whether the owner, read live, is still the same object and not being deleted."""
    try:
        live = await client.get(type(owner), objects.name(owner), namespace=objects.namespace(owner))
    except ApiError as error:
        if is_not_found(error):
            return False
        raise
    return objects.uid(live) == objects.uid(owner) and not objects.is_deleting(live)


async def adopt(client: Client, owner: Any, obj: T) -> T | None:
    """Make `owner` the object's controller; None if the object is gone or changed its mind meanwhile.

    Raises ApiError 409 Conflict when the cached copy was stale: the caller tries again with a fresh one.
    """
    meta = objects.meta(obj)
    references = [*meta.ownerReferences, objects.owner_reference(owner)]
    return await _patch_owners(client, obj, references)


async def release(client: Client, owner: Any, obj: T) -> T | None:
    """Take the owner's reference off the object; None if the object is gone."""
    uid = objects.uid(owner)
    return await _patch_owners(client, obj, [r for r in objects.meta(obj).ownerReferences if r.uid != uid])


async def _patch_owners(client: Client, obj: T, references: list[Any]) -> T | None:
    meta = objects.meta(obj)
    patch = {
        "metadata": {
            # both are preconditions: another object of the same name, or a newer state, must not be changed
            "uid": meta.uid,
            "resourceVersion": meta.resourceVersion,
            "ownerReferences": [objects.to_dict(r) for r in references] or None,
        }
    }
    try:
        return await client.patch(type(obj), meta.name or "", patch, namespace=meta.namespace or "")
    except ApiError as error:
        if is_not_found(error) or is_invalid(error):
            return None
        raise


async def claim(client: Client, owner: Any, selector: Selector, candidates: Iterable[T]) -> list[T]:
    """Adopt and release as planned; the objects that belong to `owner` afterwards."""
    found = plan(owner, selector, candidates)
    owned = [*found.owned]
    if found.adopt and await can_adopt(client, owner):
        for obj in found.adopt:
            adopted = await adopt(client, owner, obj)
            if adopted is not None:
                owned.append(adopted)
    for obj in found.release:
        await release(client, owner, obj)
    return owned
