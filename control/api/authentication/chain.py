"""Authenticators one after another: the first that recognizes its credentials decides."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence

from control.api.attributes import Authenticator, ClientCertificate, ObjectReader, UserInfo
from kube import pki, removed_nodes, status

BEARER = "bearer "
NODE_USER = "system:node:"


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
    """The subject of a client certificate: CN is the user, O the groups. TLS has checked the signature.

    A node that was removed has to join anew (`kube.removed_nodes`): what it got before is refused, with ApiError 401.
    """

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        if client_cert is None or not client_cert.common_name:
            return None
        name = client_cert.common_name
        if name.startswith(NODE_USER):
            self._require_member(name.removeprefix(NODE_USER), client_cert)
        return UserInfo(name, groups=client_cert.organizations)

    def _require_member(self, node: str, client_cert: ClientCertificate) -> None:
        found = self._reader.get(removed_nodes.CONFIG_MAPS, removed_nodes.NAMESPACE, removed_nodes.object_name(node))
        removed = removed_nodes.removed_at(found)
        if removed is None:
            return
        if not client_cert.not_before or pki.issued_at(ssl.cert_time_to_seconds(client_cert.not_before)) < removed:
            raise status.unauthorized(f"node {node} was removed from the cluster: it has to join anew")


def bearer_token(headers: Mapping[str, str]) -> str:
    """Token of the Authorization header (RFC 6750), or an empty string."""
    value = headers.get("authorization", "")
    return value[len(BEARER) :].strip() if value.lower().startswith(BEARER) else ""
