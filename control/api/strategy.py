"""What the server does to every object that is written, whatever its kind (Kubernetes: `rest.BeforeCreate`/`Update`).

Pure functions over plain data: which fields belong to the server, what an update may touch, when an update is none.
"""

from __future__ import annotations

import uuid
from typing import Any

from control.api.resource import Object, Resource
from control.api.rules.object_meta import validate_object_meta, validate_object_meta_update
from kube import names, status, times
from kube.errors import FieldError
from kube.status import ApiError

# Fields of metadata that clients cannot set.
_SERVERS = ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "uid")
_DROPPED = ("managedFields", "selfLink")

# What a time can say at most (the end of the year 9999): a grace period of ages must not make an object undeletable.
LAST_MOMENT = 253_402_300_799.0

FINALIZER_ORPHAN = "orphan"
FINALIZER_FOREGROUND = "foregroundDeletion"


def check_namespace(obj: Object, resource: Resource, namespace: str) -> None:
    """Put an object into the request's namespace. ApiError 400 if it names another one."""
    metadata = obj["metadata"]
    found = metadata.get("namespace") or ""
    if not resource.kind.namespaced:
        if found:
            errors = [FieldError.forbidden("metadata.namespace", "not allowed on this type")]
            raise invalid(resource, metadata.get("name", ""), errors)
        metadata.pop("namespace", None)
        return
    if not namespace:
        raise status.bad_request(f"an object of kind {resource.kind.kind} is made in a namespace: the path names none")
    if found and found != namespace:
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request: "
            f"found {found!r}, wanted {namespace!r}"
        )
    metadata["namespace"] = namespace


def check_name(obj: Object, name: str) -> None:
    """An update's object has the name of its path, or none. ApiError 400 if it has another one."""
    found = obj["metadata"].get("name") or name
    if found != name:
        raise status.bad_request(f"the name of the object ({found}) does not match the name on the URL ({name})")
    obj["metadata"]["name"] = name


def begin(obj: Object, resource: Resource, now: float) -> None:
    """Give a new object its identity: uid, creation time, generation; what clients cannot set goes."""
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise status.bad_request("resourceVersion should not be set on objects to be created")
    for field in (*_SERVERS, *_DROPPED, "resourceVersion"):
        metadata.pop(field, None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = names.generate_name(metadata["generateName"])
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = times.rfc3339(now)
    if resource.has_generation:
        metadata["generation"] = 1
    if resource.has_status and not (resource.status_at_creation and obj.get("status")):
        obj["status"] = {}  # always there, as clients with typed objects expect


def carry_over(new: Object, old: Object, resource: Resource, subresource: str) -> Object:
    """The object that an update leads to: what it may not touch comes from `old`.

    Through "" everything but the status changes; through "status" the status and the annotations; through any other
    subresource, whose handler made `new` itself, both. `new` is used up.
    """
    if subresource == "status":
        annotations = new["metadata"].get("annotations")
        result = {**old, "metadata": {**old["metadata"], "annotations": annotations or {}}}
        if not annotations:
            del result["metadata"]["annotations"]
        result.pop("status", None)
        if "status" in new:
            result["status"] = new["status"]
        return result
    before, after = old["metadata"], new["metadata"]
    for field in (*_SERVERS, *_DROPPED):
        # who names these at all has read them before; what does not fit is an error and not silently mended
        if field == "uid" and after.get(field):
            continue
        if field == "creationTimestamp" and after.get(field) and not _same_time(after[field], before.get(field)):
            continue
        if field in before:
            after[field] = before[field]
        else:
            after.pop(field, None)
    if not subresource and resource.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    return new


def _same_time(one: object, other: object) -> bool:
    """Whether two RFC 3339 texts are the same moment: clients write `+00:00` for `Z`."""
    try:
        return times.parse(str(one)) == times.parse(str(other))
    except ValueError:
        return False


def raise_generation(new: Object, old: Object, resource: Resource) -> None:
    """Count a change of the desired state (metadata.generation)."""
    if not resource.has_generation:
        return
    generation = old["metadata"].get("generation", 1)
    ignored = ("metadata", "status", "kind", "apiVersion")
    changed = any(new.get(f) != old.get(f) for f in {*new, *old} if f not in ignored)
    new["metadata"]["generation"] = generation + 1 if changed else generation


def same(new: Object, old: Object) -> bool:
    """Whether an update changes nothing (and so is not written)."""
    if new.keys() != old.keys() or any(new[f] != old[f] for f in new if f != "metadata"):
        return False
    return _comparable(new["metadata"]) == _comparable(old["metadata"])


def _comparable(metadata: Object) -> Object:
    return {k: v for k, v in metadata.items() if k not in ("resourceVersion", *_DROPPED) and v not in ({}, [], "")}


def validate(obj: Object, resource: Resource) -> None:
    """ApiError 422 for a new object that breaks a rule."""
    errors = [*validate_object_meta(obj, resource), *resource.validate(obj)]
    if errors:
        raise invalid(resource, obj["metadata"].get("name", ""), errors)


def validate_update(new: Object, old: Object, resource: Resource, subresource: str) -> None:
    """ApiError 422 for an update that breaks a rule."""
    errors = [*validate_object_meta_update(new, old)]
    if subresource == "status":
        errors += resource.validate_status(new, old)
    else:
        errors += [*validate_object_meta(new, resource), *resource.validate(new)]
        if not subresource:
            errors += resource.validate_update(new, old)
    if errors:
        raise invalid(resource, old["metadata"]["name"], errors)


def invalid(resource: Resource, name: str, errors: list[FieldError]) -> ApiError:
    """422 about an object of a resource."""
    return status.invalid(resource.kind.group, resource.kind.kind, name, errors)


def not_found(resource: Resource, name: str) -> ApiError:
    """404 about an object of a resource."""
    return status.not_found(resource.kind.plural, name, group=resource.kind.group)


def conflict(resource: Resource, name: str, detail: str = status.MODIFIED) -> ApiError:
    """409 about an object of a resource."""
    return status.conflict(resource.kind.plural, name, detail, group=resource.kind.group)


def check_preconditions(wanted: Object, obj: Object, resource: Resource) -> None:
    """ApiError 409 if uid or resourceVersion are wanted (as in Preconditions) and are others."""
    metadata = obj["metadata"]
    for field, title in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        value = wanted.get(field)
        if value and value != metadata.get(field):
            detail = (
                f"Precondition failed: {title} in precondition: {value}, {title} in object meta: {metadata.get(field)}"
            )
            raise conflict(resource, metadata["name"], detail)


def removable(obj: Object, resource: Resource) -> bool:
    """Whether nothing keeps an object any more whose deletion was asked for."""
    metadata: dict[str, Any] = obj["metadata"]
    waits = bool(metadata.get("deletionGracePeriodSeconds"))
    return bool(metadata.get("deletionTimestamp")) and not waits and not resource.finalizers(obj)


def garbage_finalizers(finalizers: list[str], policy: str) -> list[str]:
    """Finalizers after a deletion by a propagation policy (empty: what the object has already counts)."""
    if not policy:
        return finalizers
    kept = [f for f in finalizers if f not in (FINALIZER_ORPHAN, FINALIZER_FOREGROUND)]
    added = {"Orphan": [FINALIZER_ORPHAN], "Foreground": [FINALIZER_FOREGROUND]}.get(policy, [])
    return kept + added


def grace_period(obj: Object, resource: Resource, wanted: int | None) -> int:
    """Seconds that a deletion waits for the object's node to stop it; 0 for kinds that have nothing to stop."""
    if resource.grace_period_seconds is None:
        return 0
    default = resource.grace_period_seconds(obj)
    if default == 0 or wanted is None:
        return default
    return wanted if wanted >= 0 else 1


def mark_deleted(obj: Object, resource: Resource, grace: int, now: float) -> None:
    """Note in an object that its deletion was asked for: it goes after `grace` seconds and its finalizers.

    A deletion that was asked for before can only be sped up.
    """
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp"):
        before = times.parse(metadata["deletionTimestamp"]) - (metadata.get("deletionGracePeriodSeconds") or 0)
        asked = before if 0 < before <= now else now
    else:
        asked = now
        if resource.has_generation:
            metadata["generation"] = metadata.get("generation", 1) + 1
    metadata["deletionTimestamp"] = times.rfc3339(min(asked + grace, LAST_MOMENT))
    metadata["deletionGracePeriodSeconds"] = grace
    resource.prepare_delete(obj)
