"""Authenticators one after another: the first that recognizes its credentials decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control.api.attributes import Authenticator, ClientCertificate, UserInfo
from kube import status

BEARER = "bearer "


class AuthenticatorChain:
    """Asks each authenticator in turn (Kubernetes: the union of request authenticators)."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        """The user; None without any credentials; ApiError 401 for a token that nobody knows."""
        for authenticator in self._authenticators:
            user = await authenticator.authenticate(headers, client_cert)
            if user is not None:
                return user
        if bearer_token(headers):
            raise status.unauthorized()
        return None


class CertificateAuthenticator:
    """The subject of a client certificate: CN is the user, O the groups. TLS has checked the signature."""

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        if client_cert is None or not client_cert.common_name:
            return None
        return UserInfo(client_cert.common_name, groups=client_cert.organizations)


def bearer_token(headers: Mapping[str, str]) -> str:
    """Token of the Authorization header (RFC 6750), or an empty string."""
    value = headers.get("authorization", "")
    return value[len(BEARER) :].strip() if value.lower().startswith(BEARER) else ""
