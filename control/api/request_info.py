"""What a request is about, read from its method and path alone (Kubernetes: `RequestInfo`).

Resource requests look like one of these; everything else is a non-resource path (`/healthz`):

    /api/v1/{resource}[/{name}[/{subresource}[/...]]]
    /api/v1/namespaces/{namespace}/{resource}[/{name}[/{subresource}[/...]]]
    /apis/{group}/{version}/... likewise, and each with `watch/` after the version (an old spelling)
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from kube.selector import SelectorError, parse_fields

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_TRUE = frozenset({"1", "t", "true"})


class RequestInfo(Struct, frozen=True):
    """Verb and place of a request. `rest` is what follows a subresource (the path of a proxy)."""

    verb: str
    path: str
    is_resource_request: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    rest: str = ""


def is_true(value: str) -> bool:
    """A boolean of a query, in whatever way clients write it: `true`, `True`, `1`, `t`; a bare `watch` counts."""
    return value.lower() in _TRUE


def parse(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """RequestInfo of a decoded path; slashes at its end don't count."""
    plain = RequestInfo(method.lower(), path)
    parts = [part for part in path.split("/") if part]
    if len(parts) < 3 or parts[0] not in ("api", "apis"):
        return plain
    group = ""
    if parts[0] == "apis":
        if len(parts) < 4:
            return plain
        group = parts[1]
        version, parts = parts[2], parts[3:]
    else:
        version, parts = parts[1], parts[2:]
    verb = _VERBS.get(method)
    if verb is None:
        return plain
    if parts[0] in ("watch", "proxy") and len(parts) > 1:
        verb, parts = parts[0], parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _NAMESPACE_SUBRESOURCES:
            parts = parts[2:]
        # else: the namespace itself; its requests count as made in it
    resource = parts[0]
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    if not name:
        if verb == "delete":
            verb = "deletecollection"
        elif verb == "get":
            verb = "watch" if is_true(query.get("watch", "")) else "list"
        if verb in ("list", "watch", "deletecollection"):
            name = _named(query.get("fieldSelector", ""))
    return RequestInfo(verb, path, True, group, version, namespace, resource, subresource, name, "/".join(parts[3:]))


def _named(field_selector: str) -> str:
    """The one name that a field selector asks for: who may see just this object may list it so."""
    if "metadata.name" not in field_selector:
        return ""
    try:
        return parse_fields(field_selector).exact("metadata.name") or ""
    except SelectorError:
        return ""  # refused later, with the reason
