"""Bootstrap tokens: `<id>.<secret>`, short-lived, kept as Secrets in kube-system (Kubernetes: Bootstrap Tokens)."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping

from control.api.attributes import ClientCertificate, Object, ObjectReader, UserInfo
from control.api.authentication.chain import bearer_token
from kube import kinds, status, times
from kube.clock import Clock

SECRETS = kinds.known("", "v1", "secrets")
NAMESPACE = "kube-system"
TYPE = "bootstrap.kubernetes.io/token"
GROUP = "system:bootstrappers"
TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


class BootstrapTokenAuthenticator:
    """Recognizes tokens of new nodes, until they expire."""

    def __init__(self, reader: ObjectReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        match = TOKEN.fullmatch(bearer_token(headers))
        if match is None:
            return None
        token_id, secret = match.groups()
        stored = self._reader.get(SECRETS, NAMESPACE, f"bootstrap-token-{token_id}")
        user = _user(stored, token_id, secret, self._clock.time()) if stored else None
        if user is None:
            raise status.unauthorized()
        return user


def _user(stored: Object, token_id: str, secret: str, now: float) -> UserInfo | None:
    """The user that a token stands for, or None if the Secret does not vouch for it (any more)."""
    data = {k: base64.b64decode(v).decode(errors="replace") for k, v in (stored.get("data") or {}).items()}
    known = (
        stored.get("type") == TYPE
        and not (stored.get("metadata") or {}).get("deletionTimestamp")
        and data.get("token-id") == token_id
        # in constant time: the answer's delay must not tell how much of a guess was right
        and hmac.compare_digest(data.get("token-secret", "").encode(), secret.encode())
        and data.get("usage-bootstrap-authentication") == "true"
    )
    if not known or is_expired(data.get("expiration", ""), now):
        return None
    extra = [g.strip() for g in data.get("auth-extra-groups", "").split(",")]
    groups = (GROUP, *(g for g in extra if g.startswith(GROUP + ":")))
    return UserInfo(f"system:bootstrap:{token_id}", groups=groups)


def is_expired(expiration: str, now: float) -> bool:
    """Whether a token's time is over; one without a time never expires, one with a broken time is over."""
    if not expiration:
        return False
    try:
        return times.parse(expiration) <= now
    except times.TimeError:
        return True
