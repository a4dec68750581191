"""Errors as types with fields: what is wrong, what was found, what is wanted, and how to mend it.

`KtoolError` is what a user may meet; the command line prints its fields without a traceback.
`FieldError` is one finding about one field of an object (Kubernetes: `field.Error`); a list of them becomes the
causes of a Status with reason Invalid (`kube.status.invalid`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class KtoolError(Exception):
    """Something a user can understand and mend.

    `what` says in one line what went wrong; `found` and `wanted` are the two sides of the mismatch in the user's
    terms; `mend` is what to do about it, ideally a command. All but `what` may be empty.
    """

    def __init__(self, what: str, *, found: str = "", wanted: str = "", mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.wanted = wanted
        self.mend = mend

    def __str__(self) -> str:
        sides = [f"{name}: {text}" for name, text in (("found", self.found), ("wanted", self.wanted)) if text]
        line = f"{self.what} ({'; '.join(sides)})" if sides else self.what
        return f"{line}. {self.mend}" if self.mend else line


class FieldErrorType(StrEnum):
    """Why a field was refused; the value is the cause's `reason` on the wire (Kubernetes: `CauseType`)."""

    REQUIRED = "FieldValueRequired"
    INVALID = "FieldValueInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    DUPLICATE = "FieldValueDuplicate"
    FORBIDDEN = "FieldValueForbidden"
    NOT_FOUND = "FieldValueNotFound"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"
    TYPE_INVALID = "FieldValueTypeInvalid"


# The words that introduce each error in a message, as users of kubectl know them.
_TITLES = {
    FieldErrorType.REQUIRED: "Required value",
    FieldErrorType.INVALID: "Invalid value",
    FieldErrorType.NOT_SUPPORTED: "Unsupported value",
    FieldErrorType.DUPLICATE: "Duplicate value",
    FieldErrorType.FORBIDDEN: "Forbidden",
    FieldErrorType.NOT_FOUND: "Not found",
    FieldErrorType.TOO_LONG: "Too long",
    FieldErrorType.TOO_MANY: "Too many",
    FieldErrorType.TYPE_INVALID: "Invalid value",
}

# These speak of a field's presence or size: repeating its value would only make the message long.
_WITHOUT_VALUE = frozenset({FieldErrorType.REQUIRED, FieldErrorType.FORBIDDEN, FieldErrorType.TOO_LONG})


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding about one field of an object.

    `path` is the field's path (`spec.containers[0].name`), `found` its value as plain JSON data, `wanted` what would
    be accepted (in words); `message` overrides `wanted` as the explanation where that reads better.
    """

    path: str
    type: FieldErrorType
    message: str = ""
    found: Any = None
    wanted: str = ""

    @property
    def detail(self) -> str:
        """The message without the path: the cause's `message` on the wire (Kubernetes: `ErrorBody`)."""
        title = _TITLES[self.type]
        head = title if self.type in _WITHOUT_VALUE else f"{title}: {show(self.found)}"
        explanation = self.message or self.wanted
        return f"{head}: {explanation}" if explanation else head

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail

    @classmethod
    def required(cls, path: str, message: str = "") -> FieldError:
        """The field must have a value."""
        return cls(path, FieldErrorType.REQUIRED, message)

    @classmethod
    def invalid(cls, path: str, found: Any, message: str = "", *, wanted: str = "") -> FieldError:
        """The field's value is malformed or out of range."""
        return cls(path, FieldErrorType.INVALID, message, found, wanted)

    @classmethod
    def not_supported(cls, path: str, found: Any, supported: Iterable[str]) -> FieldError:
        """The field's value is none of the supported ones."""
        wanted = "supported values: " + ", ".join(show(value) for value in supported)
        return cls(path, FieldErrorType.NOT_SUPPORTED, "", found, wanted)

    @classmethod
    def duplicate(cls, path: str, found: Any) -> FieldError:
        """The field's value must be unique in its list and is not."""
        return cls(path, FieldErrorType.DUPLICATE, "", found)

    @classmethod
    def forbidden(cls, path: str, message: str) -> FieldError:
        """The field may not be set (or changed) here."""
        return cls(path, FieldErrorType.FORBIDDEN, message)

    @classmethod
    def not_found(cls, path: str, found: Any) -> FieldError:
        """The field names something that does not exist."""
        return cls(path, FieldErrorType.NOT_FOUND, "", found)

    @classmethod
    def too_long(cls, path: str, found: Any, limit: int) -> FieldError:
        """The field's value has more than `limit` bytes."""
        return cls(path, FieldErrorType.TOO_LONG, "", found, f"may not be more than {limit} bytes")

    @classmethod
    def too_many(cls, path: str, count: int, limit: int) -> FieldError:
        """The list or map at `path` has `count` entries, more than `limit`."""
        return cls(path, FieldErrorType.TOO_MANY, "", count, f"must have at most {limit} items")

    @classmethod
    def type_invalid(cls, path: str, found: Any, wanted: str) -> FieldError:
        """The field's value is of the wrong JSON type."""
        return cls(path, FieldErrorType.TYPE_INVALID, "", found, wanted)


def show(value: Any) -> str:
    """A plain JSON value as a message shows it: strings quoted, everything else as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
