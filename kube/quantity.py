"""Amounts of resources (Kubernetes: `resource.Quantity`): `500m` CPU, `1Gi` memory, exactly.

A quantity is a decimal number and a suffix: binary (Ki Mi Gi Ti Pi Ei), decimal (n u m k M G T P E) or a decimal
exponent (e3, E-2). Arithmetic is exact, in decimals: a float would lose a byte of a large volume and make two equal
requests unequal. As in Kubernetes, nothing is finer than one nano (rounded away from zero) and nothing is larger than
2^63-1 (capped). The canonical form has no fraction, the largest suffix that keeps it so, and stays in the family of
the suffix that the user chose: `0.5` is `500m`, `1024Mi` is `1Gi`, `1500` stays `1500`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_UP, Context, Decimal
from enum import Enum
from functools import lru_cache

from kube.errors import KtoolError

QuantityLike = str | int | float | Decimal


class Family(Enum):
    """Which suffixes a quantity is written with (Kubernetes: `Format`)."""

    DECIMAL = "DecimalSI"
    BINARY = "BinarySI"
    EXPONENT = "DecimalExponent"


class QuantityError(KtoolError, ValueError):
    """Not a quantity."""


MAXIMUM = Decimal(2**63 - 1)
_NANO = Decimal("1e-9")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_OF_POWER = {power: suffix for suffix, power in _BINARY.items()}
_DECIMAL_OF_EXPONENT = {exponent: suffix for suffix, exponent in _DECIMAL.items()}

_FORM = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))(?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE](?P<exponent>[+-]?\d{1,9}))",
    re.ASCII,
)
_WANTED = "a number with an optional suffix, such as 2, 0.5, 500m, 128Mi, 1Gi"

# The numbers that can come out of arithmetic on quantities: 19 digits before the point, 9 after, room for sums.
_EXACT = Context(prec=80)


def parse(q: QuantityLike) -> Decimal:
    """The exact value of a quantity (`1Gi` is 1073741824, `500m` is 0.5); QuantityError if it is none."""
    return _read(q)[0]


def value(q: QuantityLike) -> int:
    """The value in whole units, rounded away from zero: bytes of memory, cores (`1500m` CPU is 2)."""
    return int(_read(q)[0].to_integral_value(ROUND_UP))


def milli(q: QuantityLike) -> int:
    """The value in thousandths, rounded away from zero: millicores (`0.5` CPU is 500)."""
    return int(_read(q)[0].scaleb(3, _EXACT).to_integral_value(ROUND_UP))


def canonical(q: QuantityLike) -> str:
    """A quantity's canonical form: equal quantities of one family become equal strings."""
    if isinstance(q, str):
        return _canonical(q)
    return to_string(*_read(q))


def to_string(amount: Decimal | int, family: Family = Family.DECIMAL) -> str:
    """The canonical form of a number in a family of suffixes."""
    exact = _bounded(Decimal(amount))
    if exact == 0:
        return "0"
    whole = exact == exact.to_integral_value()
    if family is Family.BINARY and whole and abs(exact) >= 1024:
        number, power = int(exact), 0
        while number % 1024 == 0 and power + 1 in _BINARY_OF_POWER:
            number, power = number // 1024, power + 1
        return f"{number}{_BINARY_OF_POWER.get(power, '')}"
    # A fraction, or too small for Ki, cannot be written in binary suffixes without losing some of it.
    nanos, exponent = int(exact.scaleb(9, _EXACT)), -9
    while nanos % 1000 == 0 and exponent < 18:
        nanos, exponent = nanos // 1000, exponent + 3
    if family is Family.EXPONENT:
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_DECIMAL_OF_EXPONENT[exponent]}"


def add(a: QuantityLike, b: QuantityLike) -> str:
    """The sum of two quantities, canonical, in the family of the first (of the second if the first is zero)."""
    (left, family), (right, other) = _read(a), _read(b)
    return to_string(_EXACT.add(left, right), family if left else other)


def subtract(a: QuantityLike, b: QuantityLike) -> str:
    """The difference of two quantities, canonical, in the family of the first (of the second if it is zero)."""
    (left, family), (right, other) = _read(a), _read(b)
    return to_string(_EXACT.subtract(left, right), family if left else other)


def total(quantities: Iterable[QuantityLike]) -> Decimal:
    """The exact sum of any number of quantities."""
    result = Decimal(0)
    for q in quantities:
        result = _EXACT.add(result, parse(q))
    return result


def _read(q: QuantityLike) -> tuple[Decimal, Family]:
    if isinstance(q, str):
        return _parse(q)
    if isinstance(q, bool) or not isinstance(q, int | float | Decimal):
        raise _error(q)
    if isinstance(q, float):
        return _parse(repr(q))  # the shortest decimal that means this float: what stood in the JSON
    exact = Decimal(q)
    if not exact.is_finite():
        raise _error(q)
    return _bounded(exact), Family.DECIMAL


# Clusters repeat a few quantities very often ("100m", "128Mi"); a Decimal never changes, so it can be shared.
@lru_cache(maxsize=8192)
def _parse(text: str) -> tuple[Decimal, Family]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise _error(text)
    suffix = match["suffix"]
    number = Decimal(match["number"])
    if suffix in _BINARY:
        exact = Context(prec=len(text) + 40).multiply(number, Decimal(1024 ** _BINARY[suffix]))
        small = -1 < exact < 1
        return _bounded(exact), Family.DECIMAL if small else Family.BINARY
    if suffix in _DECIMAL:
        return _shifted(number, _DECIMAL[suffix]), Family.DECIMAL
    return _shifted(number, int(match["exponent"])), Family.EXPONENT


def _shifted(number: Decimal, exponent: int) -> Decimal:
    """number * 10^exponent within Kubernetes' bounds, however wild the exponent."""
    if number == 0 or exponent == 0:
        return _bounded(number)
    magnitude = number.adjusted() + exponent
    if magnitude > 20:
        return MAXIMUM.copy_sign(number)
    if magnitude < -10:
        return _NANO.copy_sign(number)
    return _bounded(number.scaleb(exponent, Context(prec=len(number.as_tuple().digits) + 1)))


def _bounded(number: Decimal) -> Decimal:
    """Capped at 2^63-1 and rounded away from zero to whole nanos."""
    if abs(number) >= MAXIMUM:
        return MAXIMUM.copy_sign(number)
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -9:
        return number.quantize(_NANO, ROUND_UP, _EXACT)
    return number


@lru_cache(maxsize=8192)
def _canonical(text: str) -> str:
    return to_string(*_parse(text))


def _error(found: object) -> QuantityError:
    text = repr(found)
    return QuantityError("not a quantity", found=text if len(text) <= 80 else text[:77] + "...", wanted=_WANTED)
