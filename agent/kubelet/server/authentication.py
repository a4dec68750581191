"""Who calls the kubelet (Kubernetes: "Kubelet authentication"): a client certificate, or a token the API reviews."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from kube import status
from kube.client import Client
from kube.clock import Clock
from kube.models import authentication_v1
from kube.status import ApiError

# Kubernetes: authentication.webhook.cacheTTL. A wrong token is asked about again sooner.
KNOWN_SECONDS = 120.0
UNKNOWN_SECONDS = 10.0
MAX_TOKENS = 1024


class Caller(Struct, frozen=True):
    """Who is asking (Kubernetes: `user.Info`)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Authentication:
    """Finds out who calls; answers of the API are kept for a while, under a hash of the token."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._tokens: OrderedDict[bytes, tuple[Caller | None, float]] = OrderedDict()

    async def authenticate(self, certificate: Mapping[str, Any] | None, authorization: str) -> Caller:
        """The caller.

        `certificate` is the peer's as the ssl module shows it (checked in the handshake), `authorization` the header.
        Raises ApiError 401 for no or wrong credentials, 503 if the API does not answer.
        """
        if certificate:
            caller = of_certificate(certificate)
            if caller.name:
                return caller
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise status.unauthorized("Unauthorized")
        found = await self._of_token(token)
        if found is None:
            raise status.unauthorized("Unauthorized")
        return found

    async def _of_token(self, token: str) -> Caller | None:
        key = hashlib.sha256(token.encode()).digest()
        now = self._clock.monotonic()
        known = self._tokens.get(key)
        if known is not None and now < known[1]:
            return known[0]
        review = authentication_v1.TokenReview(spec=authentication_v1.TokenReviewSpec(token=token))
        try:
            answer = (await self._client.create(review)).status
        except (ApiError, ConnectionError, TimeoutError) as error:
            raise status.service_unavailable(f"the token cannot be checked now: {error}") from error
        caller = of_review(answer)
        self._tokens[key] = (caller, now + (UNKNOWN_SECONDS if caller is None else KNOWN_SECONDS))
        self._tokens.move_to_end(key)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return caller


def of_certificate(certificate: Mapping[str, Any]) -> Caller:
    """User (CN) and groups (O) of a certificate as `SSLSocket.getpeercert` shows it."""
    subject = [attribute for part in certificate.get("subject", ()) for attribute in part]
    names = [value for key, value in subject if key == "commonName"]
    return Caller(names[0] if names else "", tuple(value for key, value in subject if key == "organizationName"))


def of_review(answer: authentication_v1.TokenReviewStatus | None) -> Caller | None:
    """Who the API says a token's owner is; None for a token that it does not know."""
    if answer is None or not answer.authenticated or answer.user is None or not answer.user.username:
        return None
    user = answer.user
    extra = {key: tuple(values) for key, values in user.extra.items()}
    return Caller(user.username or "", tuple(user.groups), user.uid or "", extra)
