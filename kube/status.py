"""Kubernetes Status objects, and the exception that carries one.

Every error of the API is a Status: a code (HTTP), a reason (a word that programs switch on), a message (for people)
and details (which object, which fields). `ApiError` is raised on both sides of the wire: the API server raises it and
answers with `to_status()`; the client reads the answer with `from_status()` and raises the same thing again. So code
that runs against the registry in process and over HTTP catches the same exceptions.

Resources in constructors are plural names (`pods`), with their group apart (`apps`), as in Kubernetes' GroupResource.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from kube.errors import FieldError


class Reason(StrEnum):
    """Machine-readable reasons (Kubernetes: `metav1.StatusReason`)."""

    UNKNOWN = ""
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    NOT_FOUND = "NotFound"
    ALREADY_EXISTS = "AlreadyExists"
    CONFLICT = "Conflict"
    GONE = "Gone"
    INVALID = "Invalid"
    SERVER_TIMEOUT = "ServerTimeout"
    TIMEOUT = "Timeout"
    TOO_MANY_REQUESTS = "TooManyRequests"
    BAD_REQUEST = "BadRequest"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    NOT_ACCEPTABLE = "NotAcceptable"
    REQUEST_ENTITY_TOO_LARGE = "RequestEntityTooLarge"
    UNSUPPORTED_MEDIA_TYPE = "UnsupportedMediaType"
    INTERNAL_ERROR = "InternalError"
    EXPIRED = "Expired"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"


# What a bare HTTP code means when a proxy or an old server answers without a Status.
_REASON_OF_CODE = {
    400: Reason.BAD_REQUEST,
    401: Reason.UNAUTHORIZED,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    405: Reason.METHOD_NOT_ALLOWED,
    406: Reason.NOT_ACCEPTABLE,
    409: Reason.CONFLICT,
    410: Reason.GONE,
    413: Reason.REQUEST_ENTITY_TOO_LARGE,
    415: Reason.UNSUPPORTED_MEDIA_TYPE,
    422: Reason.INVALID,
    429: Reason.TOO_MANY_REQUESTS,
    500: Reason.INTERNAL_ERROR,
    503: Reason.SERVICE_UNAVAILABLE,
    504: Reason.TIMEOUT,
}


class ApiError(Exception):
    """An error answer of the API (Kubernetes: `errors.StatusError`).

    `code` is the HTTP status, `reason` one of `Reason` (or any other word, kept as it came), `details` may hold name,
    group, kind, uid, causes (list of {reason, message, field}) and retryAfterSeconds.
    """

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = str(reason)
        self.message = message
        self.details: dict[str, Any] = {k: v for k, v in (details or {}).items() if v not in ("", None)}

    def __reduce__(self) -> tuple[Any, ...]:
        return (ApiError, (self.code, self.reason, self.message, self.details))

    @property
    def retry_after_seconds(self) -> int:
        """After how many seconds the server would like to be asked again; 0 if it did not say."""
        value = self.details.get("retryAfterSeconds", 0)
        return value if isinstance(value, int) and value > 0 else 0

    @property
    def causes(self) -> list[dict[str, Any]]:
        """The single findings behind the error: reason, message, field."""
        found = self.details.get("causes")
        return found if isinstance(found, list) else []

    def to_status(self) -> dict[str, Any]:
        """The Status object as plain JSON data."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status

    @classmethod
    def from_status(cls, status: Any, *, code: int = 500) -> ApiError:
        """The error that a server's answer holds.

        `status` is the decoded body: a Status as plain JSON data, or whatever else came; `code` is the HTTP status,
        which counts where the body does not say it. Never raises: a broken answer is still an answer.
        """
        data: Mapping[str, Any] = status if isinstance(status, Mapping) and status.get("kind") == "Status" else {}
        found = data.get("code")
        number = found if isinstance(found, int) and found >= 400 else code
        reason = data.get("reason")
        message = data.get("message")
        details = data.get("details")
        return cls(
            number,
            reason if isinstance(reason, str) else _REASON_OF_CODE.get(number, Reason.UNKNOWN),
            message if isinstance(message, str) and message else f"the server answered with HTTP status {number}",
            details if isinstance(details, Mapping) else None,
        )


def is_status(obj: Any) -> bool:
    """Whether plain JSON data is a Status object."""
    return isinstance(obj, Mapping) and obj.get("kind") == "Status"


def success_status(details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The Status of a request that succeeded and has no object to show; `details` name what it was about."""
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = dict(details)
    return status


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def _about(resource: str, name: str, group: str) -> dict[str, Any]:
    return {"name": name, "group": group, "kind": resource}


def not_found(resource: str, name: str, *, group: str = "") -> ApiError:
    """404: there is no such object."""
    message = f'{_qualified(resource, group)} "{name}" not found'
    return ApiError(404, Reason.NOT_FOUND, message, _about(resource, name, group))


def no_such_path() -> ApiError:
    """404: the server serves nothing at this path (an unknown resource, say)."""
    return ApiError(404, Reason.NOT_FOUND, "the server could not find the requested resource")


def already_exists(resource: str, name: str, *, group: str = "") -> ApiError:
    """409: an object of that name exists."""
    message = f'{_qualified(resource, group)} "{name}" already exists'
    return ApiError(409, Reason.ALREADY_EXISTS, message, _about(resource, name, group))


MODIFIED = "the object has been modified; read its latest version and make your change there"


def conflict(resource: str, name: str, detail: str = MODIFIED, *, group: str = "") -> ApiError:
    """409: the change was made to a version that is not the latest (or a precondition failed)."""
    message = f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {detail}'
    return ApiError(409, Reason.CONFLICT, message, _about(resource, name, group))


def invalid(group: str, kind: str, name: str, errors: Iterable[FieldError]) -> ApiError:
    """422: fields of the object are wrong; one cause for each. `kind` is the kind here (`Pod`), not the resource."""
    found = list(errors)
    lines = list(dict.fromkeys(str(error) for error in found))
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    causes = [{"reason": str(e.type), "message": e.detail, "field": e.path} for e in found]
    details = _about(kind, name, group) | {"causes": causes}
    return ApiError(422, Reason.INVALID, f'{_qualified(kind, group)} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    """400: the request itself makes no sense (malformed JSON, unknown parameter)."""
    return ApiError(400, Reason.BAD_REQUEST, message)


def unauthorized(message: str = "Unauthorized") -> ApiError:
    """401: the server does not know who is asking."""
    return ApiError(401, Reason.UNAUTHORIZED, message)


def forbidden(resource: str, name: str, detail: str, *, group: str = "") -> ApiError:
    """403: the caller is known and may not do this; `name` may be empty for a whole collection."""
    subject = f'{_qualified(resource, group)} "{name}"' if name else _qualified(resource, group)
    return ApiError(403, Reason.FORBIDDEN, f"{subject} is forbidden: {detail}", _about(resource, name, group))


def method_not_allowed(resource: str, verb: str, *, group: str = "") -> ApiError:
    """405: the resource exists and does not do this."""
    message = f"{verb} is not supported on resources of kind {_qualified(resource, group)!r}"
    return ApiError(405, Reason.METHOD_NOT_ALLOWED, message, _about(resource, "", group))


def not_acceptable(message: str) -> ApiError:
    """406: the server has none of the media types that the caller accepts."""
    return ApiError(406, Reason.NOT_ACCEPTABLE, message)


def gone(message: str) -> ApiError:
    """410: it was here and is no more."""
    return ApiError(410, Reason.GONE, message)


def expired(message: str) -> ApiError:
    """410: the resource version (or continue token) is older than what the server remembers; list again."""
    return ApiError(410, Reason.EXPIRED, message)


def too_large(message: str) -> ApiError:
    """413: the request or the object is over the size limit."""
    return ApiError(413, Reason.REQUEST_ENTITY_TOO_LARGE, message)


def unsupported_media_type(message: str) -> ApiError:
    """415: the server does not read this media type."""
    return ApiError(415, Reason.UNSUPPORTED_MEDIA_TYPE, message)


def too_many_requests(message: str, retry_after_seconds: int = 1) -> ApiError:
    """429: come back later (also: a disruption budget forbids the eviction for now)."""
    return ApiError(429, Reason.TOO_MANY_REQUESTS, message, {"retryAfterSeconds": retry_after_seconds})


def internal_error(message: str) -> ApiError:
    """500: the server is at fault."""
    causes = {"causes": [{"message": message}]}
    return ApiError(500, Reason.INTERNAL_ERROR, f"Internal error occurred: {message}", causes)


def service_unavailable(message: str) -> ApiError:
    """503: the server cannot answer for now (starting, stopping, a part of it is away)."""
    return ApiError(503, Reason.SERVICE_UNAVAILABLE, message)


def timeout(message: str, retry_after_seconds: int = 0) -> ApiError:
    """504: not done in the given time; it may or may not have happened."""
    return ApiError(504, Reason.TIMEOUT, f"Timeout: {message}", {"retryAfterSeconds": retry_after_seconds or None})


def _has(error: BaseException, *reasons: Reason) -> bool:
    return isinstance(error, ApiError) and error.reason in reasons


def is_not_found(error: BaseException) -> bool:
    return _has(error, Reason.NOT_FOUND)


def is_already_exists(error: BaseException) -> bool:
    return _has(error, Reason.ALREADY_EXISTS)


def is_conflict(error: BaseException) -> bool:
    return _has(error, Reason.CONFLICT)


def is_invalid(error: BaseException) -> bool:
    return _has(error, Reason.INVALID)


def is_bad_request(error: BaseException) -> bool:
    return _has(error, Reason.BAD_REQUEST)


def is_unauthorized(error: BaseException) -> bool:
    return _has(error, Reason.UNAUTHORIZED)


def is_forbidden(error: BaseException) -> bool:
    return _has(error, Reason.FORBIDDEN)


def is_expired(error: BaseException) -> bool:
    """Whether the resource version is too old (reasons Expired and Gone): the caller must list again."""
    return _has(error, Reason.EXPIRED, Reason.GONE)


def is_resource_version_too_large(error: BaseException) -> bool:
    """Whether the resource version is newer than all that the server has (it has lost its state, or another's is
    asked for): the caller must list again."""
    causes = error.details.get("causes") if isinstance(error, ApiError) else None
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes or ())


def is_too_many_requests(error: BaseException) -> bool:
    return _has(error, Reason.TOO_MANY_REQUESTS)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may well succeed later: the server was busy, away or slow, not the request wrong."""
    if not isinstance(error, ApiError):
        return False
    return error.code in (429, 500, 502, 503, 504) or error.reason == Reason.SERVER_TIMEOUT
