"""One request on its way through the pipeline: what each step has found out."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from control.api.attributes import ANONYMOUS_USER, Attributes, ClientCertificate, UserInfo
from control.api.output import Output
from control.api.request_info import RequestInfo, is_true
from control.api.resource import Resource, Subresource
from control.api.subresource import Upgrade
from kube import status
from kube.errors import FieldError
from kube.transport import Request

FIELD_VALIDATION = ("Ignore", "Warn", "Strict")
NOTHING_ASKED = Attributes(ANONYMOUS_USER, "")


class Options:
    """The query of a request. Of a parameter that stands more than once, the first counts."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query

    def text(self, name: str) -> str:
        return self._query.get(name, "")

    def flag(self, name: str) -> bool:
        """A boolean, in any spelling."""
        return is_true(self._query.get(name, ""))

    def number(self, name: str) -> int | None:
        """A whole number from 0, or None if it is not there. ApiError 400 for anything else."""
        text = self._query.get(name, "")
        if not text:
            return None
        try:
            value = int(text)
        except ValueError:
            value = -1
        if value < 0:
            raise status.bad_request(f"query parameter {name}: found {text!r}, wanted a whole number from 0")
        return value

    def resource_version(self) -> int | None:
        """The parameter resourceVersion: None if it was left out. ApiError 400 for what is no revision."""
        text = self._query.get("resourceVersion", "")
        if not text:
            return None
        if not text.isdecimal():
            raise status.bad_request(f"invalid resource version {text!r}: wanted one that the server gave out, or 0")
        return int(text)

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be stored (dryRun=All). ApiError 422 for any other value."""
        text = self._query.get("dryRun", "")
        if text not in ("", "All"):
            error = FieldError.not_supported("dryRun", text, ("All",))
            raise status.invalid("meta.k8s.io", "CreateOptions", "", [error])
        return bool(text)

    @property
    def field_validation(self) -> str:
        """What to do about unknown fields: Ignore, Warn (the default) or Strict. ApiError 422 for any other value."""
        text = self._query.get("fieldValidation", "") or "Warn"
        if text not in FIELD_VALIDATION:
            error = FieldError.not_supported("fieldValidation", text, FIELD_VALIDATION)
            raise status.invalid("meta.k8s.io", "CreateOptions", "", [error])
        return text


class Call(Struct):
    """A request and what is known about it so far. `warnings` are sent to the client as Warning headers."""

    request: Request
    info: RequestInfo
    options: Options
    output: Output
    client_cert: ClientCertificate | None = None
    upgrade: Upgrade | None = None
    user: UserInfo = ANONYMOUS_USER
    attributes: Attributes = NOTHING_ASKED
    found_resource: Resource | None = None
    found_subresource: Subresource | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def resource(self) -> Resource:
        """The resource that the request is about, once it has been looked up."""
        assert self.found_resource is not None
        return self.found_resource

    @property
    def namespace(self) -> str:
        """Namespace of the objects that are meant: empty for cluster-scoped ones, and for all namespaces."""
        return self.info.namespace if self.resource.kind.namespaced else ""
