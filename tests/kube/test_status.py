from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import status
from kube.errors import FieldError
from kube.status import ApiError


@pytest.mark.parametrize(
    ("error", "code", "reason", "message", "details"),
    [
        (
            status.not_found("pods", "web"),
            404,
            "NotFound",
            'pods "web" not found',
            {"name": "web", "kind": "pods"},
        ),
        (
            status.not_found("deployments", "web", group="apps"),
            404,
            "NotFound",
            'deployments.apps "web" not found',
            {"name": "web", "group": "apps", "kind": "deployments"},
        ),
        (
            status.already_exists("pods", "web"),
            409,
            "AlreadyExists",
            'pods "web" already exists',
            {"name": "web", "kind": "pods"},
        ),
        (
            status.conflict("pods", "web", "no"),
            409,
            "Conflict",
            'Operation cannot be fulfilled on pods "web": no',
            {"name": "web", "kind": "pods"},
        ),
        (
            status.forbidden("pods", "", "no rule"),
            403,
            "Forbidden",
            "pods is forbidden: no rule",
            {"kind": "pods"},
        ),
        (
            status.forbidden("pods", "web", "no rule"),
            403,
            "Forbidden",
            'pods "web" is forbidden: no rule',
            {"name": "web", "kind": "pods"},
        ),
        (status.bad_request("what?"), 400, "BadRequest", "what?", {}),
        (status.unauthorized(), 401, "Unauthorized", "Unauthorized", {}),
        (
            status.method_not_allowed("pods", "connect"),
            405,
            "MethodNotAllowed",
            "connect is not supported on resources of kind 'pods'",
            {"kind": "pods"},
        ),
        (status.gone("away"), 410, "Gone", "away", {}),
        (status.expired("too old"), 410, "Expired", "too old", {}),
        (status.too_large("2 MB"), 413, "RequestEntityTooLarge", "2 MB", {}),
        (status.unsupported_media_type("text"), 415, "UnsupportedMediaType", "text", {}),
        (status.too_many_requests("busy", 3), 429, "TooManyRequests", "busy", {"retryAfterSeconds": 3}),
        (
            status.internal_error("oops"),
            500,
            "InternalError",
            "Internal error occurred: oops",
            {"causes": [{"message": "oops"}]},
        ),
        (status.service_unavailable("starting"), 503, "ServiceUnavailable", "starting", {}),
        (status.timeout("slow"), 504, "Timeout", "Timeout: slow", {}),
    ],
)
def test_constructors(error: ApiError, code: int, reason: str, message: str, details: dict[str, Any]) -> None:
    assert (error.code, error.reason, error.message, error.details) == (code, reason, message, details)
    wire = error.to_status()
    assert wire["kind"] == "Status"
    assert wire["status"] == "Failure"
    assert type(wire["reason"]) is str
    back = ApiError.from_status(wire)
    assert back.to_status() == wire
    for clone in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert clone.to_status() == wire


def test_invalid_lists_each_field_once() -> None:
    wrong = FieldError.invalid("spec.replicas", -1, "must not be negative")
    one = status.invalid("apps", "Deployment", "web", [wrong])
    assert one.message == 'Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must not be negative'
    assert one.causes == [
        {
            "reason": "FieldValueInvalid",
            "message": "Invalid value: -1: must not be negative",
            "field": "spec.replicas",
        }
    ]
    assert one.details["kind"] == "Deployment"
    two = status.invalid("", "Pod", "web", [FieldError.required("spec"), FieldError.required("metadata"), wrong, wrong])
    assert two.message == (
        'Pod "web" is invalid: [spec: Required value, metadata: Required value, '
        "spec.replicas: Invalid value: -1: must not be negative]"
    )


@pytest.mark.parametrize(
    ("predicate", "error"),
    [
        (status.is_not_found, status.not_found("pods", "x")),
        (status.is_already_exists, status.already_exists("pods", "x")),
        (status.is_conflict, status.conflict("pods", "x")),
        (status.is_invalid, status.invalid("", "Pod", "x", [FieldError.required("a")])),
        (status.is_bad_request, status.bad_request("x")),
        (status.is_unauthorized, status.unauthorized()),
        (status.is_forbidden, status.forbidden("pods", "", "x")),
        (status.is_expired, status.expired("x")),
        (status.is_expired, status.gone("x")),
        (status.is_too_many_requests, status.too_many_requests("x")),
        (status.is_retryable, status.service_unavailable("x")),
    ],
)
def test_predicates(predicate: Callable[[BaseException], bool], error: ApiError) -> None:
    assert predicate(error)
    assert not predicate(ValueError("x"))
    assert not predicate(status.not_acceptable("x"))


def test_success() -> None:
    assert status.success_status({"name": "web"}) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "web"},
    }


@pytest.mark.parametrize("body", [None, "<html>", {}, {"kind": "Pod"}, {"kind": "Status", "code": "x", "details": 7}])
def test_an_answer_that_is_no_status_is_still_an_error(body: Any) -> None:
    error = ApiError.from_status(body, code=503)
    assert (error.code, error.reason) == (503, "ServiceUnavailable")
    assert "503" in error.message
    assert ApiError.from_status(body, code=418).reason == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"kind": st.just("Status")}, optional=dict.fromkeys(("code", "reason", "message", "details"), json_values)
    )
)
def test_from_status_never_raises(body: dict[str, Any]) -> None:
    error = ApiError.from_status(body, code=500)
    assert error.code >= 400
    assert error.retry_after_seconds >= 0
    assert isinstance(error.causes, list)
