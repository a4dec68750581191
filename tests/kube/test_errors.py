from __future__ import annotations

import pytest

from kube.errors import FieldError, FieldErrorType, KtoolError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KtoolError("port in use"), "port in use"),
        (KtoolError("port in use", found="nginx"), "port in use (found: nginx)"),
        (
            KtoolError("swap is on", found="2 GiB", wanted="none", mend="Run swapoff -a"),
            "swap is on (found: 2 GiB; wanted: none). Run swapoff -a",
        ),
    ],
)
def test_a_user_error_reads_as_one_line(error: KtoolError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("error", "type_", "text"),
    [
        (FieldError.required("a.b"), "FieldValueRequired", "a.b: Required value"),
        (FieldError.required("a", "needed"), "FieldValueRequired", "a: Required value: needed"),
        (FieldError.invalid("a", "X", "lower case"), "FieldValueInvalid", 'a: Invalid value: "X": lower case'),
        (FieldError.invalid("a", -1, wanted="at least 0"), "FieldValueInvalid", "a: Invalid value: -1: at least 0"),
        (FieldError.invalid("a", {"k": [1]}, "x"), "FieldValueInvalid", 'a: Invalid value: {"k": [1]}: x'),
        (FieldError.invalid("a", None, "x"), "FieldValueInvalid", "a: Invalid value: null: x"),
        (
            FieldError.not_supported("a", "X", ["Y", "Z"]),
            "FieldValueNotSupported",
            'a: Unsupported value: "X": supported values: "Y", "Z"',
        ),
        (FieldError.duplicate("a[1]", "web"), "FieldValueDuplicate", 'a[1]: Duplicate value: "web"'),
        (FieldError.forbidden("a", "never"), "FieldValueForbidden", "a: Forbidden: never"),
        (FieldError.not_found("a", "v"), "FieldValueNotFound", 'a: Not found: "v"'),
        (FieldError.too_long("a", "x" * 99, 63), "FieldValueTooLong", "a: Too long: may not be more than 63 bytes"),
        (FieldError.too_many("a", 3, 2), "FieldValueTooMany", "a: Too many: 3: must have at most 2 items"),
        (FieldError.type_invalid("a", 1, "a string"), "FieldValueTypeInvalid", "a: Invalid value: 1: a string"),
        (FieldError("", FieldErrorType.FORBIDDEN, "no"), "FieldValueForbidden", "Forbidden: no"),
    ],
)
def test_a_field_error_names_path_value_and_wish(error: FieldError, type_: str, text: str) -> None:
    assert error.type == type_
    assert str(error) == text
