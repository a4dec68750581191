from __future__ import annotations

import contextlib
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import quantity
from kube.quantity import Family, QuantityError


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("+1", "1"),
        ("1.", "1"),
        (".5", "0.5"),
        ("500m", "0.5"),
        ("-1.5", "-1.5"),
        ("1n", "0.000000001"),
        ("100u", "0.0001"),
        ("1k", "1000"),
        ("1E", "1e18"),
        ("1E3", "1000"),
        ("1e-3", "0.001"),
        ("1.5e2", "150"),
        ("1Ki", "1024"),
        ("1.5Ki", "1536"),
        ("0.1Gi", "107374182.4"),
        ("128Mi", "134217728"),
        ("1Ei", "1152921504606846976"),
        # finer than a nano is rounded away from zero, larger than 2^63-1 is capped
        ("0.1n", "0.000000001"),
        ("-0.1n", "-0.000000001"),
        ("1.0000000001", "1.000000001"),
        ("1e-999999999", "0.000000001"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775807"),
        ("8Ei", "9223372036854775807"),
        ("-8Ei", "-9223372036854775807"),
        ("1e999999999", "9223372036854775807"),
        ("0e999999999", "0"),
        (5, "5"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (Decimal("2.5"), "2.5"),
    ],
)
def test_parse(text: Any, exact: str) -> None:
    assert quantity.parse(text) == Decimal(exact)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 ", " 1", "m", "Ki", ".", "-", "1mi", "1ki", "1K", "1KiB", "1mm", "1e", "1e1.5", "1e9999999999",
        "0x10", "1,5", "1_000", "١", "nan", "inf", "1Ki3", "--1", "1\n",
        float("nan"), float("inf"), Decimal("Infinity"), True, None, [], {},
    ],
)  # fmt: skip
def test_what_is_not_a_quantity_is_refused(text: Any) -> None:
    with pytest.raises(QuantityError) as caught:
        quantity.parse(text)
    assert caught.value.found
    assert "128Mi" in caught.value.wanted


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"),
        ("0Ki", "0"),
        ("0m", "0"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("0.1", "100m"),
        ("1500m", "1500m"),
        ("1.5", "1500m"),
        ("1000", "1k"),
        ("1500", "1500"),
        ("1000k", "1M"),
        ("1234567", "1234567"),
        ("0.000001", "1u"),
        ("0.0000011", "1100n"),
        ("1024Mi", "1Gi"),
        ("1536Mi", "1536Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("1048576Ki", "1Gi"),
        ("0.5Ki", "512"),
        ("0.0005Ki", "512m"),
        ("0.3Ki", "307200m"),
        ("0.1Gi", "107374182400m"),
        ("1e3", "1e3"),
        ("1500e0", "1500"),
        ("1.5e3", "1500"),
        ("100e-3", "100e-3"),
        ("12e8", "1200e6"),
        ("-1024Mi", "-1Gi"),
        ("-0.5", "-500m"),
        ("1000P", "1E"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("123Mi", "123Mi"),
        (2, "2"),
        (0.25, "250m"),
        (1000, "1k"),
    ],
)
def test_canonical(text: Any, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize(
    ("text", "units", "thousandths"),
    [
        ("1", 1, 1000),
        ("100m", 1, 100),
        ("1500m", 2, 1500),
        ("1u", 1, 1),
        ("1001u", 1, 2),
        ("-1500m", -2, -1500),
        ("1Ki", 1024, 1024000),
        ("0", 0, 0),
    ],
)
def test_whole_units_and_thousandths_round_away_from_zero(text: str, units: int, thousandths: int) -> None:
    assert quantity.value(text) == units
    assert quantity.milli(text) == thousandths


@pytest.mark.parametrize(
    ("a", "b", "total", "difference"),
    [
        ("100m", "900m", "1", "-800m"),
        ("512Mi", "512Mi", "1Gi", "0"),
        ("1Gi", "1G", "2073741824", "73741824"),
        ("0", "1Gi", "1Gi", "-1Gi"),
        ("1", "1Ki", "1025", "-1023"),
        (1, "1n", "1000000001n", "999999999n"),
    ],
)
def test_arithmetic(a: Any, b: Any, total: str, difference: str) -> None:
    assert quantity.add(a, b) == total
    assert quantity.subtract(a, b) == difference
    assert quantity.total([a, b]) == quantity.parse(total)


suffixes = st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-2"])
numbers = st.from_regex(r"-?[0-9]{1,6}(\.[0-9]{1,6})?", fullmatch=True)
POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "e3": 3, "E-2": -2}


@given(numbers, suffixes)
def test_parse_agrees_with_fractions(number: str, suffix: str) -> None:
    binary = suffix.endswith("i")
    factor = Fraction(1024) ** ("KMGT".index(suffix[0]) + 1) if binary else Fraction(10) ** POWERS[suffix]
    nanos = Fraction(number) * factor * 10**9
    rounded = -((-nanos) // 1) if nanos >= 0 else nanos // 1
    assert Fraction(quantity.parse(number + suffix)) * 10**9 == rounded


@given(numbers, suffixes)
def test_canonical_keeps_the_value_and_is_stable(number: str, suffix: str) -> None:
    text = number + suffix
    canonical = quantity.canonical(text)
    assert quantity.parse(canonical) == quantity.parse(text)
    assert quantity.canonical(canonical) == canonical
    assert "." not in canonical


@given(numbers, numbers, suffixes)
def test_equal_quantities_have_one_canonical_form(a: str, b: str, suffix: str) -> None:
    total = quantity.add(a + suffix, b + suffix)
    assert quantity.parse(quantity.subtract(total, b + suffix)) == quantity.parse(a + suffix)


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_numbers_written_in_a_family_read_back(number: int) -> None:
    for family in Family:
        assert quantity.parse(quantity.to_string(number, family)) == number


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_quantity_error(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert quantity.parse(quantity.canonical(text)) == quantity.parse(text)
