"""SubjectAccessReview, its local and its self form: may this user do that? (`kubectl auth can-i`)."""

from __future__ import annotations

from control.api.attributes import Attributes, Object, UserInfo
from control.api.subresource import SubresourceContext
from kube import codec, status
from kube.errors import FieldError
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: the review with `status.allowed`."""
    kind = context.resource.kind
    body = context.body or {}
    spec: Object = body.get("spec") or {}
    user = context.attributes.user if kind.kind == "SelfSubjectAccessReview" else _subject(spec)
    if not user.name and not user.groups:
        errors = [FieldError.invalid("spec.user", "", "at least one of user or group must be specified")]
        raise status.invalid(kind.group, kind.kind, "", errors)
    namespace = context.attributes.namespace if kind.namespaced else ""
    decision = await context.authorizer.authorize(attributes_of(spec, user, namespace))
    answer: Object = {
        "kind": kind.kind,
        "apiVersion": kind.api_version,
        "metadata": body.get("metadata") or {},
        "spec": spec,
    }
    answer["status"] = {"allowed": decision.allowed}
    if decision.reason:
        answer["status"]["reason"] = decision.reason
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))


def attributes_of(spec: Object, user: UserInfo, namespace: str) -> Attributes:
    """What a review asks about, as an authorizer sees it."""
    if (asked := spec.get("resourceAttributes")) is not None:
        return Attributes(
            user=user,
            verb=asked.get("verb", ""),
            group=asked.get("group", ""),
            version=asked.get("version", ""),
            resource=asked.get("resource", ""),
            subresource=asked.get("subresource", ""),
            namespace=namespace or asked.get("namespace", ""),
            name=asked.get("name", ""),
        )
    path = spec.get("nonResourceAttributes") or {}
    return Attributes(user=user, verb=path.get("verb", ""), path=path.get("path", ""), is_resource_request=False)


def _subject(spec: Object) -> UserInfo:
    extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
    return UserInfo(spec.get("user", ""), uid=spec.get("uid", ""), groups=tuple(spec.get("groups") or ()), extra=extra)
