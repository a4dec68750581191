"""Request bodies: from bytes to an object of the right kind, all of whose fields are known and of their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.resource import Object
from kube import codec, protobuf, status
from kube.codec import DecodeError
from kube.kinds import Kind
from kube.schema import TypeNode
from kube.transport import Request

MAX_BODY_BYTES = 3 << 20

_JSON = ("", "application/json")
_YAML = ("application/yaml", "application/x-yaml", "text/yaml")


def media_type(headers: Mapping[str, str]) -> str:
    """The Content-Type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check_size(size: int) -> None:
    """ApiError 413 for a body that is too large to be read at all."""
    if size > MAX_BODY_BYTES:
        raise status.too_large(f"Request entity too large: limit is {MAX_BODY_BYTES} bytes")


def parse(request: Request) -> Object:
    """The body as plain data. ApiError 400 (malformed), 413, 415."""
    check_size(len(request.body))
    media = media_type(request.headers)
    if media not in (*_JSON, *_YAML, protobuf.MEDIA_TYPE):
        raise status.unsupported_media_type(
            f"the body of the request was in an unknown format: found {media!r}, wanted application/json, "
            f"application/yaml or {protobuf.MEDIA_TYPE}"
        )
    if not request.body.strip():
        raise status.bad_request("the request has no body: wanted an object in JSON")
    try:
        if media == protobuf.MEDIA_TYPE:
            return protobuf.decode(request.body)
        obj = codec.parse(request.body, yaml_allowed=media in _YAML)
    except DecodeError as error:
        raise status.bad_request(str(error)) from error
    if not isinstance(obj, dict):
        raise status.bad_request(f"the body is no object: found {type(obj).__name__}, wanted a JSON object")
    return obj


def expect_kind(obj: Object, api_version: str, kind: str) -> None:
    """See to it that an object is of a kind, which it may leave out. ApiError 400 if it is another one."""
    found_version, found_kind = obj.get("apiVersion") or api_version, obj.get("kind") or kind
    if found_kind != kind:
        raise status.bad_request(
            f"the kind of the object does not fit the request: found {found_kind!r}, wanted {kind!r}"
        )
    if found_version != api_version:
        raise status.bad_request(
            f"the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )
    obj["apiVersion"], obj["kind"] = api_version, kind
    metadata = obj.get("metadata")
    if metadata is None:
        obj["metadata"] = {}
    elif not isinstance(metadata, dict):
        raise status.bad_request(f"metadata: found {type(metadata).__name__}, wanted a mapping")


def check(obj: Object, type_: TypeNode, kind: str, version: str, validation: str) -> list[str]:
    """Check an object's fields in place (nulls go, quantities become canonical); warnings about unknown fields.

    `validation` is the request's fieldValidation. ApiError 400 for values of wrong types, and for unknown fields
    where the request is strict.
    """
    found = codec.check(obj, type_)
    if found.errors:
        raise _refused(kind, version, [str(e) for e in found.errors], found.errors)
    if not found.unknown or validation == "Ignore":
        return []
    lines = [e.message for e in found.unknown]
    if validation == "Strict":
        raise _refused(kind, version, [f"strict decoding error: {', '.join(lines)}"], found.unknown)
    return lines


def _refused(kind: str, version: str, lines: list[str], errors: list[Any]) -> status.ApiError:
    error = status.bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {", ".join(lines)}')
    error.details["causes"] = [{"reason": str(e.type), "message": e.detail, "field": e.path} for e in errors]
    return error


def read(request: Request, kind: Kind, type_: TypeNode, validation: str) -> tuple[Object, list[str]]:
    """The checked object in a request's body, and warnings about it. ApiError 400, 413, 415."""
    obj = parse(request)
    expect_kind(obj, kind.api_version, kind.kind)
    return obj, check(obj, type_, kind.kind, kind.version, validation)
