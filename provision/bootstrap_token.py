"""Bootstrap tokens: what a machine shows once, to ask for a certificate of its own.

A token is `<id>.<secret>`, and a Secret `bootstrap-token-<id>` of type `bootstrap.kubernetes.io/token` in
`kube-system` (Kubernetes: "Authenticating with Bootstrap Tokens"). It lives for minutes: a leaked one is soon worth
nothing, and the token cleaner removes the Secret when it has expired.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import string
from dataclasses import dataclass, field

from kube import times
from kube.client import Client
from kube.clock import Clock
from kube.models import core_v1, meta_v1

NAMESPACE = "kube-system"
TYPE = "bootstrap.kubernetes.io/token"
LIFETIME_SECONDS = 15 * 60.0
_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """A token; `secret` is its secret half and never shown."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole token, as the join file wants it. A secret."""
        return f"{self.id}.{self.secret}"


def generate() -> BootstrapToken:
    """A new random token (83 bits in the secret half)."""
    return BootstrapToken(*("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (6, 16)))


def secret_of(token: BootstrapToken, *, expires: float, description: str) -> core_v1.Secret:
    """The Secret that makes a token valid until `expires` (seconds since 1970)."""
    data = {
        "token-id": token.id,
        "token-secret": token.secret,
        "expiration": times.rfc3339(expires),
        "usage-bootstrap-authentication": "true",
        "description": description,
    }
    return core_v1.Secret(
        metadata=meta_v1.ObjectMeta(name=f"bootstrap-token-{token.id}", namespace=NAMESPACE),
        type=TYPE,
        data={name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    )


async def create(
    client: Client, *, clock: Clock, description: str, lifetime: float = LIFETIME_SECONDS
) -> BootstrapToken:
    """Make a token that the cluster accepts for `lifetime` seconds. ApiError as from `create`."""
    token = generate()
    await client.create(secret_of(token, expires=clock.time() + lifetime, description=description))
    return token


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as the cluster knows it, without its secret half. `expires` in seconds since 1970, None: never."""

    id: str
    expires: float | None
    description: str


def info_of(secret: core_v1.Secret) -> TokenInfo:
    """What may be shown of a token's Secret; what cannot be read is left out."""
    data = {}
    for name in ("token-id", "expiration", "description"):
        with contextlib.suppress(ValueError):
            data[name] = base64.b64decode(secret.data.get(name, "")).decode()
    expires = None
    with contextlib.suppress(ValueError):
        expires = times.parse(data["expiration"]) if data.get("expiration") else None
    return TokenInfo(data.get("token-id", ""), expires, data.get("description", ""))


async def find_all(client: Client) -> list[TokenInfo]:
    """All tokens that the cluster has, by their ids. ApiError."""
    found = await client.list(core_v1.Secret, namespace=NAMESPACE, field_selector=f"type={TYPE}")
    return sorted((info_of(secret) for secret in found.items), key=lambda token: token.id)


async def delete(client: Client, token_id: str) -> None:
    """Make a token worthless at once. ApiError 404 if it is already."""
    await client.delete(core_v1.Secret, f"bootstrap-token-{token_id}", namespace=NAMESPACE)
