"""What the handler of a subresource gets and gives: `control/api/subresources/<handler>.py` has one `handle` each.

`status` is not among them: the generic handlers serve it. All others (scale, binding, eviction, token, log, exec, ...)
are a coroutine function `handle(context, request) -> Response`, called after authentication and authorization.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from control.api.attributes import Attributes, Authenticator, Authorizer, Object, ObjectReader, UserInfo
from control.api.resource import Resource, Subresource
from kube.kinds import Kind
from kube.transport import Request, Response

Mutation = Callable[[Object], Object | None]


class WebSocket(Protocol):
    """An accepted WebSocket; messages are whole and binary (or text as UTF-8 bytes)."""

    @property
    def protocol(self) -> str:
        """The agreed subprotocol."""
        ...

    async def receive(self) -> bytes | None:
        """The next message, or None when the client closed the connection."""
        ...

    async def send(self, data: bytes) -> None:
        """Send one binary message; waits while the client is slow. Raises ConnectionError when it is gone."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection."""
        ...


class Upgrade(Protocol):
    """The client's wish to turn this connection into a WebSocket."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, its favourite first."""
        ...

    async def accept(self, protocol: str) -> WebSocket:
        """Take the offer; afterwards the handler's Response no longer counts (return `SWITCHED`)."""
        ...


SWITCHED = Response(101)


class Operations(Protocol):
    """Reads and writes of other objects with the user's identity: defaults, admission and validation as usual.

    Authorization has been checked for the subresource itself only; `user` of the context is used for admission.
    All return plain objects with their resourceVersion, and raise ApiError.
    """

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The current object; 404 NotFound."""
        ...

    async def create(self, kind: Kind, namespace: str, obj: Object, *, user: UserInfo, dry_run: bool = False) -> Object:
        """Create an object; 409 AlreadyExists, 422 Invalid."""
        ...

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        mutate: Mutation,
        *,
        user: UserInfo,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Read, change, compare and swap, again on conflict (Kubernetes: `GuaranteedUpdate`).

        `mutate` gets a copy of the current object, may change it in place and returns the object to write (None: leave
        it as it is); it may raise ApiError. `subresource` names the authorization and admission view of the change:
        "status" changes the status only, "" everything but the status, any other name (binding, scale) may change
        both.
        """
        ...

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Object, *, user: UserInfo, dry_run: bool = False
    ) -> Object:
        """Delete by DeleteOptions (plain data; preconditions, gracePeriodSeconds, propagationPolicy)."""
        ...


class ServerAssets(Struct, frozen=True):
    """What handlers need of the server they run in.

    kubelet_ssl()         TLS with the apiserver-kubelet client certificate, trusting the cluster's CA
    service_account_key   file with the private key (PEM) that signs service-account tokens
    service_account_issuer `iss` of those tokens, also the API's audience
    """

    kubelet_ssl: Callable[[], ssl.SSLContext]
    service_account_key: Path
    service_account_issuer: str
    ca_certificate: bytes = b""


class SubresourceContext(Struct, frozen=True, kw_only=True):
    """One call of a subresource, or of a resource that is served by a handler alone (reviews; `Resource.handler`).

    attributes       user, verb, namespace and name
    object           the object that the subresource belongs to (shared: do not change it); {} for a review
    body             the request's body as plain data, checked against the schema of `subresource.kind`, defaulted and
                     admitted (operation CREATE); None for GET, DELETE, PATCH and connections (exec, log, proxy)
    changed(current) for PUT and PATCH: what the request makes of the subresource's current form (PUT: the body,
                     PATCH: the current form patched); raises ApiError
    upgrade          set when the client asks for a WebSocket
    """

    resource: Resource
    subresource: Subresource
    attributes: Attributes
    object: Object
    reader: ObjectReader
    operations: Operations
    authenticator: Authenticator
    authorizer: Authorizer
    changed: Callable[[Object], Object]
    body: Object | None = None
    assets: ServerAssets | None = None
    upgrade: Upgrade | None = None
    dry_run: bool = False


class SubresourceHandler(Protocol):
    """The signature of `handle` in each module of `control/api/subresources/`."""

    async def __call__(self, context: SubresourceContext, request: Request) -> Response: ...
