"""update: PUT of an object or its status, and the read-change-swap that every change of an object goes through."""

from __future__ import annotations

from control.api import body, strategy
from control.api.attributes import Attributes, Operation
from control.api.call import Call
from control.api.entry import Entry
from control.api.environment import Environment, undone_if_refused
from control.api.handlers.create import dry_entry
from control.api.output import respond_entry
from control.api.resource import Object, Resource
from control.api.subresource import Mutation
from control.store.errors import ConflictError
from kube import codec, status
from kube.transport import Response

# Races lost in a row before the server gives up on behalf of the client.
ATTEMPTS = 100


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with the object after the update (200)."""
    resource = call.resource
    wanted, warnings = body.read(call.request, resource.kind, resource.type, call.options.field_validation)
    call.warnings += warnings
    strategy.check_name(wanted, call.info.name)
    if call.info.subresource != "status" or wanted["metadata"].get("namespace"):
        strategy.check_namespace(wanted, resource, call.namespace)
    entry = await update_object(
        environment, resource, call.namespace, call.info.name, lambda _: codec.copy(wanted), call.attributes
    )
    return respond_entry(entry, resource, call.output)


async def update_object(
    environment: Environment,
    resource: Resource,
    namespace: str,
    name: str,
    mutate: Mutation,
    attributes: Attributes,
) -> Entry:
    """Read, change, admit, validate, compare and swap; again on what is there by then (`GuaranteedUpdate`).

    `mutate` gets a copy of the current object. If what it returns has a resourceVersion that is not the current
    one, the answer is ApiError 409 and nothing is tried again. `attributes.subresource` tells what may change.
    """
    subresource = attributes.subresource
    newest = False
    for _ in range(ATTEMPTS):
        entry = environment.storage.get(resource, namespace, name)
        if entry is None:
            if not newest:
                # another master may have just created it
                newest = True
                await environment.cache.fresh()
                continue
            raise strategy.not_found(resource, name)
        entry = entry.seen_as(resource)
        old = entry.parse()
        changed = mutate(entry.parse())
        if changed is None:
            return entry
        seen = changed["metadata"].get("resourceVersion")
        if seen and seen != str(entry.revision):
            if not newest:
                # what the client has seen may be newer: it may come from another master
                newest = True
                await environment.cache.fresh()
                continue
            raise strategy.conflict(resource, name)
        strategy.check_preconditions({"uid": changed["metadata"].get("uid")}, old, resource)
        new = strategy.carry_over(changed, old, resource, subresource)
        resource.default(new)
        if not subresource:
            # before admission, which must not allot anew what the object has already
            resource.prepare_update(new, old)
        undo = await environment.admit(new, old, Operation.UPDATE, attributes)
        with undone_if_refused(undo):
            if subresource != "status":
                strategy.raise_generation(new, old, resource)
            strategy.validate_update(new, old, resource, subresource)
            if strategy.removable(new, resource):
                removed = await _remove(environment, resource, entry, new, attributes.dry_run)
                if removed is not None:
                    return removed
                continue
            if strategy.same(new, old):
                if not newest:
                    # nothing to write, if this is what there is: another master may have just changed it
                    newest = True
                    await environment.cache.fresh()
                    continue
                return entry
            if attributes.dry_run:
                return dry_entry(resource, new, entry.revision)
            try:
                return await environment.storage.update(resource, namespace, name, new, revision=entry.revision)
            except ConflictError:
                await environment.cache.fresh()
    raise status.conflict(resource.kind.plural, name, "too many others change the object", group=resource.kind.group)


async def _remove(
    environment: Environment, resource: Resource, entry: Entry, last: Object, dry_run: bool
) -> Entry | None:
    """Remove an object whose last finalizer has just gone: its last state; None if it has changed meanwhile."""
    shown = dry_entry(resource, last, entry.revision)
    if not dry_run:
        try:
            await environment.storage.delete(resource, entry)
        except ConflictError:
            await environment.cache.fresh()
            return None
    return shown
