"""From bytes to a checked object and back: every field is known, of its type, and named when it is not.

The API server keeps objects as plain JSON data. `parse` reads a body, `check` walks it along the schema: it drops
nulls (absent, by Kubernetes' conventions), brings quantities into canonical form, and reports unknown fields apart
from wrong ones, because clients choose how strict to be about the former (`fieldValidation`).
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from datetime import datetime
from typing import Any

import orjson
import yaml
from msgspec import Struct, field

from kube.errors import FieldError, KtoolError
from kube.quantity import QuantityError, canonical
from kube.schema import TypeNode

INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class DecodeError(KtoolError):
    """A body that is no JSON or YAML object; says where."""


class Checked(Struct):
    """What a check found: `unknown` are paths of fields that the type does not have, `errors` are wrong values."""

    unknown: list[FieldError] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)


def parse(body: bytes, *, yaml_allowed: bool = False) -> Any:
    """Plain data from a JSON (or, where allowed, YAML) body. Raises DecodeError with line and column."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not yaml_allowed:
            line, column = error.lineno, error.colno
            raise DecodeError(
                f"malformed JSON at line {line}, column {column}",
                found=error.msg,
                wanted="a JSON object",
                mend="check quotes, commas and brackets before that place",
            ) from error
    return load_yaml(body)


class _Loader(yaml.CSafeLoader):
    """YAML's safe types, but times stay text: the API's fields are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _no_duplicates(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in found:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} stands twice in one mapping", problem_mark=key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def load_yaml(text: bytes | str) -> Any:
    """One YAML document. Raises DecodeError with line and column."""
    documents = load_all_yaml(text)
    if len(documents) > 1:
        raise DecodeError("more than one YAML document", found=f"{len(documents)} documents", wanted="one")
    return documents[0] if documents else None


def load_all_yaml(text: bytes | str) -> list[Any]:
    """All YAML documents of a manifest, empty ones left out. Raises DecodeError with line and column."""
    try:
        return [d for d in yaml.load_all(text, Loader=_Loader) if d is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DecodeError(
            f"malformed YAML{where}",
            found=error.problem or error.context or "",
            wanted="a YAML mapping with apiVersion, kind and metadata",
            mend="check the indentation and the quotes around that line",
        ) from error
    except yaml.YAMLError as error:
        raise DecodeError("malformed YAML", found=str(error), wanted="UTF-8 text in YAML") from error


def encode(obj: Any) -> bytes:
    """JSON of plain data."""
    return orjson.dumps(obj)


def copy(obj: Any) -> Any:
    """Deep copy of plain JSON data (much faster than copy.deepcopy)."""
    return orjson.loads(orjson.dumps(obj))


def check(obj: dict[str, Any], type_: TypeNode) -> Checked:
    """Check plain data against a type, in place: nulls and unknown fields go, quantities become canonical."""
    found = Checked()
    _object(obj, type_, "", found)
    return found


def _object(value: dict[str, Any], type_: TypeNode, path: str, found: Checked) -> None:
    fields = type_.fields
    drop: list[str] = []
    for name, item in value.items():
        known = fields.get(name)
        if known is None:
            at = f"{path}.{name}" if path else name
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f'unknown field "{at}"' + (f" (did you mean {close[0]!r}?)" if close else "")
            found.unknown.append(FieldError.invalid(at, name, hint))
            drop.append(name)
        elif item is None:
            drop.append(name)
        else:
            node = known.type
            fixed = _value(item, node, path, name, found)
            if fixed is not item:
                value[name] = fixed
    for name in drop:
        del value[name]


def _value(value: Any, type_: TypeNode, path: str, name: str, found: Checked) -> Any:
    """The checked value: the same one, or its canonical form."""
    scalar = type_.scalar
    if scalar:
        kind = type(value)
        if (scalar == "string" and kind is str) or (scalar == "boolean" and kind is bool) or scalar == "any":
            return value
        return _scalar(value, scalar, path, name, found)
    at = f"{path}.{name}" if path else name
    if type_.items is not None:
        if not isinstance(value, list):
            found.errors.append(FieldError.type_invalid(at, value, f"a list, not {_name_of(value)}"))
            return value
        for position, item in enumerate(value):
            fixed = _value(item, type_.items, "", f"{at}[{position}]", found)
            if fixed is not item:
                value[position] = fixed
        return value
    if not isinstance(value, dict):
        found.errors.append(FieldError.type_invalid(at, value, f"a mapping, not {_name_of(value)}"))
        return value
    if type_.values is not None:
        for key, item in [*value.items()]:
            if item is None:
                # a null in a map of strings is an empty string to Go's decoder
                if type_.values.scalar in ("string", "bytes"):
                    value[key] = ""
                else:
                    del value[key]
                continue
            fixed = _value(item, type_.values, at, key, found)
            if fixed is not item:
                value[key] = fixed
        return value
    _object(value, type_, at, found)
    return value


def _scalar(value: Any, scalar: str, path: str, name: str, found: Checked) -> Any:
    at = f"{path}.{name}" if path else name
    wanted = ""
    kind = type(value)
    if scalar in ("int32", "int64"):
        low, high = INT32 if scalar == "int32" else INT64
        if kind is float and value.is_integer():
            value, kind = int(value), int
        if kind is not int:
            wanted = f"a whole number, not {_name_of(value)}"
        elif not low <= value <= high:
            wanted = f"a whole number from {low} to {high}"
    elif scalar == "quantity":
        try:
            return canonical(value) if kind in (str, int, float) else _type_error(value, "a quantity", at, found)
        except QuantityError as error:
            found.errors.append(FieldError.invalid(at, value, str(error)))
    elif scalar == "intOrString":
        if kind is not int and kind is not str:
            wanted = f"a whole number or a string, not {_name_of(value)}"
    elif scalar == "number":
        if kind is not int and kind is not float:
            wanted = f"a number, not {_name_of(value)}"
    elif scalar in ("time", "microTime"):
        if kind is not str or not _is_time(value):
            wanted = "a time like 2006-01-02T15:04:05Z (RFC 3339)"
    elif scalar == "bytes":
        if kind is not str or not _is_base64(value):
            wanted = "base64 text (for plain text in a Secret use stringData)"
    else:
        wanted = f"a {scalar}, not {_name_of(value)}"
    if wanted:
        return _type_error(value, wanted, at, found)
    return value


def _type_error(value: Any, wanted: str, at: str, found: Checked) -> Any:
    found.errors.append(FieldError.type_invalid(at, value, wanted))
    return value


def _is_time(value: str) -> bool:
    if not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _name_of(value: Any) -> str:
    """What a value is, in the words of somebody who writes manifests."""
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
