"""approval: approve or deny a CertificateSigningRequest (`kubectl certificate approve`)."""

from __future__ import annotations

import time

from control.api.attributes import Object
from control.api.subresource import SubresourceContext
from kube import codec, status, times
from kube.errors import FieldError
from kube.transport import Request, Response

DECISIONS = ("Approved", "Denied")


async def handle(context: SubresourceContext, request: Request) -> Response:
    """GET, PUT or PATCH: takes over the conditions Approved and Denied; a decision stays once it is made."""
    obj = context.object
    if request.method != "GET":
        attributes = context.attributes
        now = times.rfc3339(time.time())

        def mutate(current: Object) -> Object:
            wanted = context.changed(codec.copy(current))
            decide(current, wanted, now)
            return current

        obj = await context.operations.update(
            context.resource.kind,
            "",
            attributes.name,
            mutate,
            user=attributes.user,
            subresource="approval",
            dry_run=context.dry_run,
        )
    return Response(200, {"content-type": "application/json"}, codec.encode(obj))


def decide(current: Object, wanted: Object, now: str) -> None:
    """Take the decision of `wanted` over into `current`, in place; ApiError 422 for a change of mind."""
    before = (current.get("status") or {}).get("conditions") or []
    after = [c for c in (wanted.get("status") or {}).get("conditions") or [] if c.get("type") in DECISIONS]
    made, asked = ({c["type"] for c in conditions if c.get("type") in DECISIONS} for conditions in (before, after))
    if len(asked) > 1 or (made and made != asked):
        message = "Approved and Denied exclude each other, and a decision cannot be taken back"
        errors = [FieldError.invalid("status.conditions", sorted(asked), message)]
        raise status.invalid("certificates.k8s.io", "CertificateSigningRequest", current["metadata"]["name"], errors)
    for condition in after:
        condition.setdefault("status", "True")
        condition.setdefault("lastUpdateTime", now)
        condition.setdefault("lastTransitionTime", now)
    others = [c for c in before if c.get("type") not in DECISIONS]
    current.setdefault("status", {})["conditions"] = others + after
