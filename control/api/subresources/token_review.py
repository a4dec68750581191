"""TokenReview: whose token is this? (asked by kubelets and aggregated services)."""

from __future__ import annotations

from control.api.attributes import AUTHENTICATED_GROUP, Object, UserInfo
from control.api.subresource import SubresourceContext
from kube import codec
from kube.status import ApiError
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: the review with its status; a wrong token is an answer, not an error."""
    body = context.body or {}
    token = (body.get("spec") or {}).get("token", "")
    try:
        user = await context.authenticator.authenticate({"authorization": f"Bearer {token}"}, None) if token else None
        error = "" if user else "the token is not known to this cluster"
    except ApiError as refused:
        user, error = None, refused.message
    answer: Object = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}}
    answer["spec"] = body.get("spec") or {}
    answer["status"] = {"authenticated": True, "user": user_data(user)} if user else {"error": error}
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))


def user_data(user: UserInfo) -> Object:
    """A user as the API shows it (authentication.k8s.io/v1 UserInfo)."""
    groups = [*user.groups]
    if AUTHENTICATED_GROUP not in groups:
        groups.append(AUTHENTICATED_GROUP)
    found: Object = {"username": user.name, "groups": groups}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = {key: [*values] for key, values in user.extra.items()}
    return found
