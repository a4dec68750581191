"""Service-account tokens: signed JWTs (RFC 7519) that are bound to objects and die with them.

A token names its ServiceAccount and, when it was made for a pod, the pod (Kubernetes: bound service account tokens).
Verifying a signature costs a tenth of a millisecond, so claims of verified tokens are kept until they expire; whether
the objects that they are bound to still exist is looked up each time.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from control.api.attributes import ClientCertificate, ObjectReader, UserInfo
from control.api.authentication.chain import bearer_token
from kube import kinds, status
from kube.clock import Clock

ALGORITHM = "ES256"
PREFIX = "system:serviceaccount:"
GROUP = "system:serviceaccounts"
REMEMBERED = 1024
SERVICE_ACCOUNTS = kinds.known("", "v1", "serviceaccounts")
BOUND = {
    "pod": kinds.known("", "v1", "pods"),
    "secret": kinds.known("", "v1", "secrets"),
    "node": kinds.known("", "v1", "nodes"),
}


class ServiceAccountTokens:
    """Makes and recognizes service-account tokens of one cluster."""

    def __init__(self, key: EllipticCurvePrivateKey, issuer: str, reader: ObjectReader, clock: Clock) -> None:
        self._key = key
        self._public = key.public_key()
        self.issuer = issuer
        self._reader = reader
        self._clock = clock
        self._verified: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def issue(
        self,
        namespace: str,
        name: str,
        uid: str,
        *,
        audiences: Sequence[str] = (),
        seconds: int,
        bound: Mapping[str, Mapping[str, str]] | None = None,
    ) -> tuple[str, float]:
        """A new token and its expiry in epoch seconds; `bound` maps pod, secret or node to {name, uid}."""
        now = self._clock.time()
        claims = {
            "iss": self.issuer,
            "sub": f"{PREFIX}{namespace}:{name}",
            "aud": list(audiences) or [self.issuer],
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + seconds,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": uid},
                **{kind: dict(reference) for kind, reference in (bound or {}).items()},
            },
        }
        import jwt  # not at the start of a master: no pod asks for a token yet

        return jwt.encode(claims, self._key, algorithm=ALGORITHM), float(int(now) + seconds)

    def review(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """The user of a valid token for one of the audiences (by default the API server's), or None."""
        claims = self._claims(token)
        if claims is None or not set(audiences or (self.issuer,)) & set(claims["aud"]):
            return None
        now = self._clock.time()
        if not claims["nbf"] - 60 <= now < claims["exp"]:
            return None
        return self._bound_user(claims)

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        token = bearer_token(headers)
        if token.count(".") != 2:
            return None
        user = self.review(token)
        if user is None:
            raise status.unauthorized()
        return user

    def _claims(self, token: str) -> dict[str, Any] | None:
        if token in self._verified:
            self._verified.move_to_end(token)
            return self._verified[token]
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                issuer=self.issuer,
                # audience and times are judged on each use, by our clock
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        if not all(field in claims for field in ("sub", "aud", "nbf", "exp", "kubernetes.io")):
            return None
        self._verified[token] = claims
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return claims

    def _bound_user(self, claims: dict[str, Any]) -> UserInfo | None:
        private = claims["kubernetes.io"]
        namespace, account = private["namespace"], private["serviceaccount"]
        if not self._exists(SERVICE_ACCOUNTS, namespace, account):
            return None
        extra: dict[str, tuple[str, ...]] = {}
        for kind, resource in BOUND.items():
            reference = private.get(kind)
            if reference is None:
                continue
            # a token may name the node of its pod for information; only what it is bound to must exist
            if kind != "node" and not self._exists(resource, namespace, reference):
                return None
            extra[f"authentication.kubernetes.io/{kind}-name"] = (reference["name"],)
            extra[f"authentication.kubernetes.io/{kind}-uid"] = (reference.get("uid", ""),)
        return UserInfo(
            f"{PREFIX}{namespace}:{account['name']}",
            uid=account["uid"],
            groups=(GROUP, f"{GROUP}:{namespace}"),
            extra=extra,
        )

    def _exists(self, kind: kinds.Kind, namespace: str, reference: Mapping[str, str]) -> bool:
        found = self._reader.get(kind, namespace, reference["name"])
        return found is not None and found["metadata"].get("uid") == reference["uid"]
