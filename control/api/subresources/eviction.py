"""eviction: a deletion that asks first (Kubernetes concept: API-initiated Eviction).

Disruption budgets are honoured as soon as the API serves them; without any, an eviction is a deletion by name.
"""

from __future__ import annotations

from control.api.subresource import SubresourceContext
from kube import codec, status
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: delete the pod with the Eviction's deleteOptions."""
    options = (context.body or {}).get("deleteOptions") or {}
    await context.operations.delete(
        context.resource.kind,
        context.attributes.namespace,
        context.attributes.name,
        options,
        user=context.attributes.user,
        dry_run=context.dry_run or "All" in (options.get("dryRun") or ()),
    )
    return Response(201, {"content-type": "application/json"}, codec.encode(status.success_status() | {"code": 201}))
