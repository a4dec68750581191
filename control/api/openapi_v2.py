"""OpenAPI v2, as far as kubectl asks for it: a document that describes no kind.

kubectl checks objects on its own side, by OpenAPI v2, where it believes that the server cannot: so for `kind: List`,
which is no resource of any server. Without a document it refuses the whole manifest; what a document does not describe
it lets pass. The objects inside are then checked where all others are: here, by the request's `fieldValidation`.

What it does describe is which kinds can be patched in a dry run: kubectl before 1.27 (Debian's is 1.20) looks for that
here before `diff` and `--dry-run=server`.

kubectl takes the document as protobuf only (Go: gnostic's `openapi.v2.Document`), of which it needs a few fields.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from control.api.resource import Object, Resource

# Clients ask by the first name, which is no valid media type, and therefore want the answer under the second.
ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

# Field numbers of gnostic's messages.
_SWAGGER, _INFO, _PATHS = 1, 2, 8  # Document
_TITLE, _VERSION = 1, 2  # Info
_PATH = 2  # Paths
_NAME, _VALUE = 1, 2  # NamedPathItem, NamedAny
_PATCH = 8  # PathItem
_PARAMETERS, _EXTENSION = 8, 13  # Operation
_PARAMETER, _NON_BODY, _QUERY, _QUERY_NAME = 1, 2, 3, 4  # each the only field of a message in a message
_YAML = 2  # Any
_BYTES = 2

GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"
DRY_RUN = "dryRun"


def is_protobuf_wanted(accept: str) -> bool:
    """Whether a client wants the document as protobuf first."""
    return accept.partition(",")[0].partition(";")[0].strip() in (ASKED, PROTOBUF)


def document(resources: Iterable[Resource], *, title: str, number: str) -> Object:
    """The document as JSON."""
    parameters = [{"name": DRY_RUN, "in": "query", "type": "string"}]
    paths = {
        path: {"patch": {"parameters": parameters, "responses": {}, GROUP_VERSION_KIND: kind}}
        for path, kind in _patchable(resources)
    }
    return {"swagger": "2.0", "info": {"title": title, "version": number}, "paths": paths, "definitions": {}}


def protobuf(resources: Iterable[Resource], *, title: str, number: str) -> bytes:
    """The document as protobuf."""
    dry_run = DRY_RUN.encode()
    for field in (_QUERY_NAME, _QUERY, _NON_BODY, _PARAMETER, _PARAMETERS):
        dry_run = _field(field, dry_run)
    paths = b""
    for path, kind in _patchable(resources):
        # JSON is YAML.
        extension = _field(_NAME, GROUP_VERSION_KIND.encode()) + _field(_VALUE, _field(_YAML, orjson.dumps(kind)))
        item = _field(_PATCH, dry_run + _field(_EXTENSION, extension))
        paths += _field(_PATH, _field(_NAME, path.encode()) + _field(_VALUE, item))
    info = _field(_TITLE, title.encode()) + _field(_VERSION, number.encode())
    return _field(_SWAGGER, b"2.0") + _field(_INFO, info) + _field(_PATHS, paths)


def _patchable(resources: Iterable[Resource]) -> Iterable[tuple[str, dict[str, str]]]:
    """Path and group, version, kind of each resource that can be patched."""
    for resource in resources:
        kind = resource.kind
        if "patch" in resource.verbs and not resource.handler:
            named = {"group": kind.group, "version": kind.version, "kind": kind.kind}
            yield f"{kind.path('{namespace}')}/{{name}}", named


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
