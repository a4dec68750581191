"""get: one object."""

from __future__ import annotations

from control.api import strategy
from control.api.call import Call
from control.api.environment import Environment
from control.api.output import respond_entry
from kube.transport import Response


async def handle(environment: Environment, call: Call) -> Response:
    """Answer with the object, from memory.

    Without resourceVersion it is the latest; with one it is at least that new (0: whatever is there).
    """
    revision = call.options.resource_version()
    if revision is None:
        await environment.cache.fresh()
    elif revision:
        await environment.cache.not_older_than(revision)
    entry = environment.storage.get(call.resource, call.namespace, call.info.name)
    if entry is None:
        raise strategy.not_found(call.resource, call.info.name)
    return respond_entry(entry, call.resource, call.output)
