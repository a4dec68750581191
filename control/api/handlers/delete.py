"""delete: DELETE of one object, or of a collection (deletecollection).

An object goes at once, unless something must happen before: its node has to stop it (grace period), or a controller
has to clean up after it (finalizers, among them the garbage collector's `orphan` and `foregroundDeletion`). Then it
stays with a deletionTimestamp, and goes when the last of these is done (Kubernetes concepts: Finalizers, Garbage
Collection).
"""

from __future__ import annotations

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from control.api import body, strategy
from control.api.attributes import Attributes, Operation
from control.api.call import Call, Options
from control.api.entry import Entry
from control.api.environment import Environment
from control.api.handlers.create import dry_entry
from control.api.handlers.list import scope_of
from control.api.handlers.update import ATTEMPTS
from control.api.output import respond, respond_entry, respond_list
from control.api.resource import Object, Resource
from control.store.errors import ConflictError, StoreError
from kube import status
from kube.errors import FieldError
from kube.status import ApiError
from kube.transport import Request, Response

POLICIES = ("Background", "Foreground", "Orphan")
CONCURRENT = 32
IMMORTAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})


class Deleted(Struct, frozen=True):
    """The object as it was last (`gone`), or as it waits for its deletion."""

    entry: Entry
    gone: bool


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with the object if it has to wait, with a Status if it is gone (200)."""
    resource = call.resource
    options = read_options(call.request, call.options)
    attributes = replace(call.attributes, dry_run=call.attributes.dry_run or _dry(options))
    found = await delete_object(environment, resource, call.namespace, call.info.name, options, attributes)
    if not found.gone:
        return respond_entry(found.entry, resource, call.output)
    kind, uid = resource.kind, found.entry.object["metadata"].get("uid", "")
    details = {"name": call.info.name, "group": kind.group, "kind": kind.plural, "uid": uid}
    return respond(status.success_status({k: v for k, v in details.items() if v}), output=call.output)


async def handle_collection(environment: Environment, call: Call) -> Response:
    """Delete all objects that the selectors select; answer with them as they were."""
    resource = call.resource
    options = read_options(call.request, call.options)
    attributes = replace(call.attributes, dry_run=call.attributes.dry_run or _dry(options))
    scope = scope_of(resource, call.namespace, call.options, call.info.name)
    await environment.cache.fresh()
    found = environment.cache.of_prefix(resource.prefix).sorted_entries(call.namespace)
    entries = [entry for entry in found if scope.selects(entry)]
    gate = asyncio.Semaphore(CONCURRENT)

    async def delete_one(entry: Entry) -> None:
        async with gate:
            one = replace(attributes, name=entry.name, namespace=entry.namespace)
            try:
                await delete_object(environment, resource, entry.namespace, entry.name, options, one)
            except ApiError as error:
                if not status.is_not_found(error):
                    raise

    try:
        async with asyncio.TaskGroup() as group:
            for entry in entries:
                group.create_task(delete_one(entry))
    except* (ApiError, StoreError) as errors:
        raise _first(errors) from None
    metadata = {"resourceVersion": str(environment.cache.revision)}
    return respond_list(entries, resource, call.output, metadata)


def _first(errors: BaseExceptionGroup[ApiError | StoreError]) -> ApiError | StoreError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def delete_object(
    environment: Environment,
    resource: Resource,
    namespace: str,
    name: str,
    options: Object,
    attributes: Attributes,
) -> Deleted:
    """Delete by DeleteOptions. ApiError 404, 409 (preconditions), 422 (options), or what admission says."""
    policy = propagation_policy(options)
    await environment.cache.fresh()  # another master may have just created it
    admitted = False
    for _ in range(ATTEMPTS):
        entry = environment.storage.get(resource, namespace, name)
        if entry is None:
            raise strategy.not_found(resource, name)
        entry = entry.seen_as(resource)
        obj = entry.parse()
        strategy.check_preconditions(options.get("preconditions") or {}, obj, resource)
        if not admitted:
            _refuse_immortal(resource, name)
            await environment.admit(None, obj, Operation.DELETE, attributes)
            admitted = True
        try:
            return await _delete(environment, resource, entry, obj, policy, options, attributes.dry_run)
        except ConflictError:
            await environment.cache.fresh()
    raise strategy.conflict(resource, name, "too many others change the object")


async def _delete(
    environment: Environment,
    resource: Resource,
    entry: Entry,
    obj: Object,
    policy: str,
    options: Object,
    dry_run: bool,
) -> Deleted:
    metadata = obj["metadata"]
    grace = strategy.grace_period(obj, resource, options.get("gracePeriodSeconds"))
    pending, waiting = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds") or 0
    before = metadata.get("finalizers") or []
    # a deletion that is under way keeps its policy: its finalizers may be done already
    after = before if pending else strategy.garbage_finalizers(before, policy)
    if after:
        metadata["finalizers"] = after
    else:
        metadata.pop("finalizers", None)
    if pending:
        grace = min(grace, waiting)
    if grace == 0 and not resource.finalizers(obj):
        last = entry if dry_run else await environment.storage.delete(resource, entry)
        return Deleted(last, gone=True)
    if pending and grace == waiting:
        return Deleted(entry, gone=False)
    strategy.mark_deleted(obj, resource, grace, environment.clock.time())
    if dry_run:
        return Deleted(dry_entry(resource, obj, entry.revision), gone=False)
    updated = await environment.storage.update(resource, entry.namespace, entry.name, obj, revision=entry.revision)
    return Deleted(updated, gone=False)


def _refuse_immortal(resource: Resource, name: str) -> None:
    if resource.kind.plural == "namespaces" and not resource.kind.group and name in IMMORTAL_NAMESPACES:
        raise status.forbidden("namespaces", name, "this namespace may not be deleted")


def read_options(request: Request, query: Options) -> Object:
    """DeleteOptions of the body, or of the query where there is no body. ApiError 400, 422."""
    options: Object = {}
    if request.body.strip():
        options = body.parse(request)
    if "gracePeriodSeconds" not in options:
        seconds = query.number("gracePeriodSeconds")
        if seconds is not None:
            options["gracePeriodSeconds"] = seconds
    if not options.get("propagationPolicy") and query.text("propagationPolicy"):
        options["propagationPolicy"] = query.text("propagationPolicy")
    if "orphanDependents" not in options and query.text("orphanDependents"):
        options["orphanDependents"] = query.flag("orphanDependents")
    seconds = options.get("gracePeriodSeconds")
    if seconds is not None and (not isinstance(seconds, int) or isinstance(seconds, bool)):
        raise _wrong(FieldError.type_invalid("gracePeriodSeconds", seconds, "a whole number of seconds"))
    if not isinstance(options.get("preconditions") or {}, dict):
        raise _wrong(FieldError.type_invalid("preconditions", options["preconditions"], "a mapping"))
    return options


def propagation_policy(options: Object) -> str:
    """Background, Foreground, Orphan or empty (not said). ApiError 422 for anything else."""
    policy, orphan = options.get("propagationPolicy") or "", options.get("orphanDependents")
    if policy and orphan is not None:
        message = "orphanDependents and propagationPolicy cannot be both set"
        raise _wrong(FieldError.invalid("propagationPolicy", policy, message))
    if policy and policy not in POLICIES:
        raise _wrong(FieldError.not_supported("propagationPolicy", policy, POLICIES))
    if orphan is not None:
        return "Orphan" if orphan else "Background"
    return str(policy)


def _wrong(error: FieldError) -> ApiError:
    return status.invalid("meta.k8s.io", "DeleteOptions", "", [error])


def _dry(options: Object) -> bool:
    found = options.get("dryRun")
    if found and found != ["All"]:
        raise _wrong(FieldError.not_supported("dryRun", found, ("All",)))
    return bool(found)
