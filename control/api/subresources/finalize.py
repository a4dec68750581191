"""finalize: the only way to change what holds a Namespace back (its `spec.finalizers`)."""

from __future__ import annotations

from control.api.attributes import Object
from control.api.subresource import SubresourceContext
from kube import codec
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """PUT: takes over `spec.finalizers`; the Namespace goes when it is being deleted and none is left."""
    attributes = context.attributes

    def mutate(current: Object) -> Object:
        wanted = context.changed(current)
        current["spec"] = {
            **(current.get("spec") or {}),
            "finalizers": (wanted.get("spec") or {}).get("finalizers", []),
        }
        return current

    obj = await context.operations.update(
        context.resource.kind,
        "",
        attributes.name,
        mutate,
        user=attributes.user,
        subresource="finalize",
        dry_run=context.dry_run,
    )
    return Response(200, {"content-type": "application/json"}, codec.encode(obj))
