"""TokenReview: whose token is this? (asked by kubelets, aggregated services, and programs that pods show tokens to).

A token is good for its audiences only. Who asks names those that it is one of; who names none is the API server.
"""

from __future__ import annotations

from control.api.attributes import AUTHENTICATED_GROUP, Object, UserInfo
from control.api.subresource import SubresourceContext
from control.api.subresources.token import tokens_of
from kube import codec
from kube.status import ApiError
from kube.transport import Request, Response

UNKNOWN = "the token is not known to this cluster, or is for other audiences"


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: the review with its status; a wrong token is an answer, not an error."""
    spec: Object = (context.body or {}).get("spec") or {}
    token, asked = spec.get("token", ""), spec.get("audiences") or []
    user, error = None, UNKNOWN
    audiences = _audiences(context, token, asked) if token else []
    if audiences and context.assets is not None and context.assets.service_account_issuer not in audiences:
        # not meant for the API server, which would refuse it
        user = tokens_of(context).review(token, audiences)
    elif token and (audiences or not asked):
        try:
            user = await context.authenticator.authenticate({"authorization": f"Bearer {token}"}, None)
        except ApiError as refused:
            error = refused.message
    answer: Object = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec}
    if user is None:
        answer["status"] = {"error": error}
    else:
        answer["status"] = {"authenticated": True, "user": user_data(user)}
        if audiences:
            answer["status"]["audiences"] = audiences
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))


def _audiences(context: SubresourceContext, token: str, asked: list[str]) -> list[str]:
    """Those of the audiences asked for that a token is for: any other token than a service account's is the API's."""
    if context.assets is None:
        return []
    tokens = tokens_of(context)
    is_ours = token.count(".") == 2
    return [a for a in asked or [tokens.issuer] if (tokens.review(token, (a,)) if is_ours else a == tokens.issuer)]


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
