"""Checks of single fields, as table rows read: required, one of, a range, immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from control.api.resource import Object
from kube import names, quantity
from kube.errors import FieldError


def required(obj: Object, path: str, *fields: str) -> list[FieldError]:
    """Each of the fields must be there and not be empty."""
    return [FieldError.required(join(path, f)) for f in fields if obj.get(f) in (None, "", [], {})]


def one_of(obj: Object, path: str, field: str, supported: Iterable[str]) -> list[FieldError]:
    """A field that is there must have one of the supported values."""
    value = obj.get(field)
    if value is None or value in (allowed := sorted(supported)):
        return []
    return [FieldError.not_supported(join(path, field), value, allowed)]


def at_least(obj: Object, path: str, field: str, minimum: int) -> list[FieldError]:
    """A number that is there must be at least `minimum`."""
    value = obj.get(field)
    if value is None or value >= minimum:
        return []
    return [FieldError.invalid(join(path, field), value, f"must be greater than or equal to {minimum}")]


def port(value: Any, path: str) -> list[FieldError]:
    """A port number from 1 to 65535."""
    if isinstance(value, int) and 1 <= value <= 65535:
        return []
    return [FieldError.invalid(path, value, "must be between 1 and 65535, inclusive")]


def port_or_name(value: Any, path: str) -> list[FieldError]:
    """A port number, or the name of a container's port (IANA service name)."""
    if isinstance(value, int):
        return port(value, path)
    return [FieldError.invalid(path, value, message) for message in names.port_name(value or "")]


def name(value: Any, path: str, check: Callable[[str], list[str]]) -> list[FieldError]:
    """A name in one of Kubernetes' forms."""
    if not value:
        return [FieldError.required(path)]
    return [FieldError.invalid(path, value, message) for message in check(value)]


def unique(items: Iterable[Object], path: str, field: str) -> list[FieldError]:
    """No two items of a list may have the same value in `field`."""
    seen: set[Any] = set()
    errors = []
    for position, item in enumerate(items):
        value = item.get(field)
        if value is not None and value in seen:
            errors.append(FieldError.duplicate(f"{path}[{position}].{field}", value))
        seen.add(value)
    return errors


def exactly_one(obj: Object, path: str, choices: Iterable[str], what: str) -> list[FieldError]:
    """Exactly one of the choices must be set."""
    wanted = sorted(choices)
    found = [c for c in wanted if obj.get(c) is not None]
    if len(found) == 1:
        return []
    if not found:
        return [FieldError.required(path, f"must specify {what}: one of {', '.join(wanted)}")]
    return [FieldError.forbidden(join(path, c), f"may not specify more than one {what}") for c in found[1:]]


def immutable(new: Object, old: Object, path: str, *fields: str) -> list[FieldError]:
    """The fields must stay as they are."""
    return [
        FieldError.invalid(join(path, f), new.get(f), "field is immutable") for f in fields if new.get(f) != old.get(f)
    ]


def quantities(resources: Any, path: str) -> list[FieldError]:
    """Amounts of a resource list must not be negative (their grammar was checked on decoding)."""
    errors = []
    for resource, amount in (resources or {}).items():
        errors += [FieldError.invalid(path, resource, message) for message in names.qualified_name(resource)]
        if quantity.parse(amount) < 0:
            errors.append(FieldError.invalid(f"{path}.{resource}", amount, "must be greater than or equal to 0"))
    return errors


def int_or_percent(value: Any, path: str) -> list[FieldError]:
    """A whole number from 0, or a percentage such as `25%`."""
    if isinstance(value, int):
        return [] if value >= 0 else [FieldError.invalid(path, value, "must be greater than or equal to 0")]
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit():
        return []
    return [FieldError.invalid(path, value, "must be a whole number or a percentage such as 25%")]


def each(items: Any, path: str) -> Iterator[tuple[Object, str]]:
    """Items of a list with their paths."""
    for position, item in enumerate(items or ()):
        yield item, f"{path}[{position}]"


def join(path: str, field: str) -> str:
    """Path of a field of the object at `path`."""
    return f"{path}.{field}" if path else field
