"""Times as the engine writes them: RFC 3339 with nanoseconds, `0001-01-01T00:00:00Z` for never."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"\.(\d{1,6})\d*")


def parse(text: str) -> datetime | None:
    """The time in UTC with microseconds (the rest is cut off); None for never."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(_FRACTION.sub(lambda match: f".{match[1]:0<6}", text)).astimezone(UTC)


def parse_known(text: str) -> datetime:
    """As `parse`, for a time that is always set; the epoch if the engine left it out all the same."""
    return parse(text) or datetime.fromtimestamp(0, UTC)


def unix(time: datetime) -> str:
    """The time as the engine's query parameters want it: seconds, a dot, nine digits of nanoseconds."""
    return f"{int(time.timestamp())}.{time.microsecond:06d}000"
