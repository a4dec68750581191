"""OpenAPI v2, as far as kubectl asks for it: a document that describes nothing.

kubectl checks objects on its own side, by OpenAPI v2, where it believes that the server cannot: so for `kind: List`,
which is no resource of any server. Without a document it refuses the whole manifest; what a document does not describe
it lets pass. The objects inside are then checked where all others are: here, by the request's `fieldValidation`.

kubectl takes the document as protobuf only (Go: gnostic's `openapi.v2.Document`), of which it needs two fields.
"""

from __future__ import annotations

from control.api.resource import Object

# Clients ask by the first name, which is no valid media type, and therefore want the answer under the second.
ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

# Field numbers of gnostic's messages Document and Info.
_SWAGGER, _INFO = 1, 2
_TITLE, _VERSION = 1, 2
_BYTES = 2


def is_protobuf_wanted(accept: str) -> bool:
    """Whether a client wants the document as protobuf first."""
    return accept.partition(",")[0].partition(";")[0].strip() in (ASKED, PROTOBUF)


def document(*, title: str, number: str) -> Object:
    """The document as JSON."""
    return {"swagger": "2.0", "info": {"title": title, "version": number}, "paths": {}, "definitions": {}}


def protobuf(*, title: str, number: str) -> bytes:
    """The document as protobuf."""
    info = _field(_TITLE, title.encode()) + _field(_VERSION, number.encode())
    return _field(_SWAGGER, b"2.0") + _field(_INFO, info)


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128, "a length of one byte"
    return bytes((number << 3 | _BYTES, len(value))) + value
