"""Plain JSON data: copying and comparing it.

What a patch returns must share nothing with what it was given: the old object sits in a cache, and whoever gets the
new one will go on changing it (defaults, status).
"""

from __future__ import annotations

from typing import Any


def copied(value: Any) -> Any:
    """A deep copy of plain JSON data."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two pieces of plain JSON data are equal as JSON: `true` is not 1, but 1 is 1.0."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)
