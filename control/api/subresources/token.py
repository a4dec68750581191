"""token: a service account's token for a time and a purpose (authentication.k8s.io/v1 TokenRequest)."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from control.api.attributes import Object
from control.api.authentication.service_account import ServiceAccountTokens
from control.api.subresource import SubresourceContext
from kube import codec, kinds, pki, status, times
from kube.clock import SystemClock
from kube.errors import FieldError
from kube.transport import Request, Response

MINIMUM_SECONDS = 600
MAXIMUM_SECONDS = 24 * 3600
DEFAULT_SECONDS = 3600
BOUND_KINDS = {"Pod": "pods", "Secret": "secrets"}


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: a new token; bound to a Pod or Secret it dies with that object."""
    attributes, body = context.attributes, context.body or {}
    spec = body.setdefault("spec", {})
    seconds = spec.setdefault("expirationSeconds", DEFAULT_SECONDS)
    if not MINIMUM_SECONDS <= seconds <= 1 << 32:
        errors = [
            FieldError.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        ]
        raise status.invalid("authentication.k8s.io", "TokenRequest", attributes.name, errors)
    seconds = min(seconds, MAXIMUM_SECONDS)
    tokens = tokens_of(context)
    text, expires = tokens.issue(
        attributes.namespace,
        attributes.name,
        context.object["metadata"]["uid"],
        audiences=spec.get("audiences") or (),
        seconds=seconds,
        bound=_bound(context, spec.get("boundObjectRef")),
    )
    spec.setdefault("audiences", [tokens.issuer])
    answer = {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": attributes.name,
            "namespace": attributes.namespace,
            "creationTimestamp": times.rfc3339(time.time()),
        },
        "spec": spec,
        "status": {"token": text, "expirationTimestamp": times.rfc3339(expires)},
    }
    return Response(201, {"content-type": "application/json"}, codec.encode(answer))


def _bound(context: SubresourceContext, reference: Object | None) -> dict[str, dict[str, str]]:
    if not reference:
        return {}
    attributes, kind, name = context.attributes, reference.get("kind", ""), reference.get("name", "")
    if kind not in BOUND_KINDS:
        errors = [FieldError.not_supported("spec.boundObjectRef.kind", kind, BOUND_KINDS)]
        raise status.invalid("authentication.k8s.io", "TokenRequest", attributes.name, errors)
    found = context.reader.get(kinds.known("", "v1", BOUND_KINDS[kind]), attributes.namespace, name)
    if found is None:
        raise status.not_found(BOUND_KINDS[kind], name)
    uid = found["metadata"]["uid"]
    if reference.get("uid") not in (None, "", uid):
        message = f"the UID in the bound object reference ({reference['uid']}) does not match the object's ({uid})"
        raise status.conflict(BOUND_KINDS[kind], name, message)
    bound = {kind.lower(): {"name": name, "uid": uid}}
    node = (found.get("spec") or {}).get("nodeName") if kind == "Pod" else None
    if node:
        host = context.reader.get(kinds.known("", "v1", "nodes"), "", node)
        bound["node"] = {"name": node, **({"uid": host["metadata"]["uid"]} if host else {})}
    return bound


def tokens_of(context: SubresourceContext) -> ServiceAccountTokens:
    """The cluster's service-account tokens."""
    assets = context.assets
    assert assets is not None
    key = signing_key(assets.service_account_key)
    return ServiceAccountTokens(key, assets.service_account_issuer, context.reader, SystemClock())


@lru_cache(maxsize=4)
def signing_key(path: Path) -> EllipticCurvePrivateKey:
    """The key that signs service-account tokens, read once."""
    return pki.load_key(path)
