"""Who asks for what: the vocabulary of authentication, authorization and admission.

The pipeline knows these seams only; what stands behind them (certificates, tokens, RBAC, the node authorizer, the
admission plugins) are modules of their own. All of them run in the server's event loop and read objects from the
watch cache (`ObjectReader`), so a decision costs no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct, field

from kube.kinds import Kind

Object = dict[str, Any]

ANONYMOUS = "system:anonymous"
AUTHENTICATED_GROUP = "system:authenticated"
UNAUTHENTICATED_GROUP = "system:unauthenticated"


class UserInfo(Struct, frozen=True):
    """Who is asking (Kubernetes: `user.Info`). Authenticators give the groups without `system:authenticated`."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS_USER = UserInfo(ANONYMOUS, groups=(UNAUTHENTICATED_GROUP,))


class ClientCertificate(Struct, frozen=True):
    """The certificate that a client showed in the TLS handshake, which checked it against the cluster's CA.

    `common_name` and `organizations` are the subject's CN and O entries; `not_before` is since when it is valid, as
    Python's ssl module writes it (`ssl.cert_time_to_seconds`).
    """

    common_name: str
    organizations: tuple[str, ...] = ()
    not_before: str = ""


class Attributes(Struct, frozen=True):
    """What is asked, as authorizers and admission see it (Kubernetes: `authorizer.Attributes`).

    For a resource request `verb` is get, list, watch, create, update, patch, delete or deletecollection; else it is
    the HTTP method in lower case and only `path` counts. `namespace` and `name` are empty where there is none.
    """

    user: UserInfo
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    is_resource_request: bool = True
    dry_run: bool = False
    label_selector: str = ""
    field_selector: str = ""


class Decision(Struct, frozen=True):
    """An authorizer's answer; `reason` is shown to the caller who was refused, and kept out of a grant's answer."""

    allowed: bool
    reason: str = ""


class Authenticator(Protocol):
    """Finds out who is asking."""

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        """The user, or None if the request carries no credentials of this kind.

        `headers` have lower-case names. Raises ApiError 401 for credentials that are there and wrong.
        """
        ...


class Authorizer(Protocol):
    """Decides whether a user may do something."""

    async def authorize(self, attributes: Attributes) -> Decision:
        """The decision; not allowed without a reason means "no opinion", and the request is refused."""
        ...


class Operation(StrEnum):
    """What a request does to an object (Kubernetes: `admission.Operation`)."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


Undo = Callable[[], None]
"""Gives back what an admission has set aside for an object that was not written after all (registry: `FinishFunc`)."""


class Admission(Protocol):
    """An admission plugin: may change the object before it is validated, or refuse the request."""

    @property
    def name(self) -> str:
        """The plugin's name in Kubernetes (`ServiceAccount`, `NodeRestriction`)."""
        ...

    async def admit(
        self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes
    ) -> Undo | None:
        """Admit, changing `obj` in place where needed; raises ApiError (403, 404, 409, 422) to refuse.

        `obj` is the new object (None for DELETE; the subresource's body for a Binding, Eviction, TokenRequest and
        the like), `old` the stored one (None for CREATE; never changed). On UPDATE it runs again when the write lost a
        race and is tried on fresh data.

        What it returns, if anything, is called if the object is refused for certain; not if nobody knows.
        """
        ...


class ObjectReader(Protocol):
    """Reads the current objects of a kind from memory, after every write that was acknowledged before.

    Objects are shared: whoever reads them never changes them.
    """

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object, or None."""
        ...

    def list(self, kind: Kind, namespace: str = "") -> Iterable[Object]:
        """All objects of a kind, or those of one namespace."""
        ...

    def revision(self, kind: Kind) -> int:
        """A number that changes with every change of the kind's objects: what is derived from them is keyed by it."""
        ...

    def subscribe(self, kind: Kind, changed: Callable[[Object | None, Object | None], None]) -> None:
        """Call `changed(new, old)` for each change from now on, in order, before the write is acknowledged.

        `new` is None for a deletion, `old` None for a creation. The function must be quick and must not raise.
        """
        ...
