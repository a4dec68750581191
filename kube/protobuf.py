"""Kubernetes' protobuf form of objects, as kubectl sends it for `kubectl create` (media type below).

The problem: kubectl's generators (`kubectl create deployment`, `create namespace`, ...) send protobuf and nothing else,
while everything here is plain JSON data.

The shape of the answer: decoding needs to know, for each message, which number is which field. The numbers are a table
(`field_numbers.json`, made by scripts/field_numbers.py); what type a field has, the schema knows already. So a small
reader of protobuf's wire format turns a message into the same plain data that the JSON form would have given; from
there on nobody can tell the difference. Answers always go out as JSON, which these clients accept.

Wire format: "Protocol Buffers: Encoding"; the envelope: Kubernetes API concepts, "Protobuf encoding".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import orjson

from kube import schema
from kube.codec import DecodeError
from kube.schema import TypeNode

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
# Go writes a number or boolean that may not be absent even when it is zero, so a zero mostly means "not given". In
# these fields it can be absent, and a zero that is written is meant.
# fmt: off
ZERO_IS_MEANT = frozenset(
    {
        "replicas", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "tolerationSeconds",
        "gracePeriodSeconds", "expirationSeconds", "revisionHistoryLimit", "progressDeadlineSeconds",
        "backoffLimit", "parallelism", "completions", "ttlSecondsAfterFinished", "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit", "partition", "mode", "defaultMode", "runAsUser", "runAsGroup", "fsGroup",
        "priority", "automountServiceAccountToken", "enableServiceLinks", "allowPrivilegeEscalation",
        "runAsNonRoot", "readOnlyRootFilesystem", "privileged", "optional", "immutable", "controller",
        "blockOwnerDeletion", "shareProcessNamespace", "suspend", "hostUsers",
        "allocateLoadBalancerNodePorts", "ready", "serving", "terminating",
    }
)
# fmt: on
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
INT64_SIGN = 1 << 63

Wire = tuple[int, int, Any]


@cache
def _numbers() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = orjson.loads(resources.files("kube").joinpath("field_numbers.json").read_bytes())
    return found


def decode(body: bytes) -> dict[str, Any]:
    """Plain data of an object in its protobuf envelope. Raises DecodeError if it is none, or of an unknown kind."""
    if not body.startswith(MAGIC):
        raise DecodeError("not a protobuf object", found=f"{body[:4]!r}", wanted=f"{MAGIC!r} and an envelope")
    try:
        envelope = {number: value for number, _, value in _fields(memoryview(body)[4:])}
        meta = {number: _text(value) for number, _, value in _fields(envelope.get(1, memoryview(b"")))}
        api_version, kind = meta.get(1, ""), meta.get(2, "")
        group, _, version = api_version.rpartition("/")
        name = schema.load().definition_name(group, version, kind) or _shared_definition(kind)
        if name is None or name not in _numbers():
            raise DecodeError(
                f"the kind {kind!r} of {api_version!r} is not known in protobuf", wanted="a kind of the stable API"
            )
        obj = _message(envelope.get(2, memoryview(b"")), schema.load().definition(name))
    except (IndexError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise DecodeError("malformed protobuf", found=str(error), wanted="a whole message") from error
    return {"apiVersion": api_version, "kind": kind, **obj}


def _shared_definition(kind: str) -> str | None:
    """Kinds that every group version has (DeleteOptions)."""
    name = f"io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"
    return name if name in schema.load().definitions else None


def _message(data: memoryview, type_: TypeNode) -> dict[str, Any]:
    out: dict[str, Any] = {}
    _read_message(data, type_.name, type_, out)
    return out


def _read_message(data: memoryview, message: str, type_: TypeNode, out: dict[str, Any]) -> None:
    """Fields of a message into `out`; an embedded message's fields become its parent's."""
    numbers = _numbers()[message]
    for number, wire, value in _fields(data):
        name = numbers.get(str(number))
        if name is None:
            continue  # newer than our table: an unknown field, which is dropped as from JSON
        if name.startswith("*"):
            _read_message(value, name[1:], type_, out)
            continue
        known = type_.fields.get(name)
        if known is None:
            continue
        node = known.type
        if node.items is not None:
            out.setdefault(name, []).append(_value(wire, value, node.items))
        elif node.values is not None:
            entry = {n: (w, v) for n, w, v in _fields(value)}
            key = _text(entry[1][1]) if 1 in entry else ""
            empty = (BYTES, memoryview(b""))
            out.setdefault(name, {})[key] = _value(*entry.get(2, empty), node.values)
        else:
            found = _value(wire, value, node)
            if found or name in ZERO_IS_MEANT or node.scalar in ("", "any", "intOrString", "quantity"):
                out[name] = found


def _value(wire: int, value: Any, node: TypeNode) -> Any:
    match node.scalar:
        case "":
            # a list inside a list or map is a message with the items as its first field (Extra values)
            if node.items is not None:
                return [_value(w, v, node.items) for _, w, v in _fields(value)]
            return _message(value, node)
        case "string":
            return _text(value)
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "boolean":
            return bool(_signed(value))
        case "int32" | "int64":
            return _signed(value)
        case "number":
            return struct.unpack("<d" if wire == FIXED64 else "<f", _bytes(value))[0]
        case "quantity":
            return next((_text(v) for n, _, v in _fields(value) if n == 1), "0")
        case "time" | "microTime":
            return _time(value, micro=node.scalar == "microTime")
        case "intOrString":
            parts = {n: v for n, _, v in _fields(value)}
            return _text(parts.get(3, b"")) if parts.get(1) else _signed(parts.get(2, 0))
    raw = next((_bytes(v) for n, _, v in _fields(value) if n == 1), b"")
    return orjson.loads(raw) if raw else None


def _time(value: memoryview, *, micro: bool) -> str | None:
    from kube import times

    parts = {n: v for n, _, v in _fields(value)}
    seconds = _signed(parts.get(1, 0))
    if not seconds:
        return None
    moment = seconds + _signed(parts.get(2, 0)) / 1e9
    return times.micro(moment) if micro else times.rfc3339(moment)


def _bytes(value: Any) -> bytes:
    """The bytes of a field; a number there would be taken for how many zeros are wanted."""
    if isinstance(value, int):
        raise DecodeError("malformed protobuf", found="a number", wanted="bytes")
    return bytes(value)


def _text(value: Any) -> str:
    return _bytes(value).decode()


def _signed(value: Any) -> int:
    if not isinstance(value, int):
        raise DecodeError("malformed protobuf", found="bytes", wanted="a number")
    return value - (1 << 64) if value & INT64_SIGN else value


def _fields(data: memoryview | int) -> Iterator[Wire]:
    """(number, wire type, value) of each field: a number, or the bytes of a string, message or fixed number."""
    if isinstance(data, int):
        raise DecodeError("malformed protobuf", found="a number", wanted="a message")
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, place = _varint(data, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise DecodeError("malformed protobuf", found=f"wire type {wire}", wanted="0, 1, 2 or 5")
        if place + size > len(data):
            raise DecodeError("malformed protobuf", found="the message ends inside a field", wanted="a whole message")
        yield number, wire, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise DecodeError("malformed protobuf", found="a number longer than 64 bits", wanted="a varint")
