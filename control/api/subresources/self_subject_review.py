"""SelfSubjectReview: who am I? (`kubectl auth whoami`)."""

from __future__ import annotations

from control.api.attributes import ANONYMOUS, Object
from control.api.subresource import SubresourceContext
from control.api.subresources.token_review import user_data
from kube import codec
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: the caller's user, groups and extra values."""
    user = context.attributes.user
    shown = {"username": ANONYMOUS, "groups": [*user.groups]} if user.name == ANONYMOUS else user_data(user)
    answer: Object = {
        "kind": "SelfSubjectReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {},
        "status": {"userInfo": shown},
    }
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))
