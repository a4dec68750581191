"""Times on the wire (RFC 3339, Kubernetes: `metav1.Time`, `metav1.MicroTime`) and ages for people.

Inside ktool a moment is a float, seconds since 1970 (UTC), as a `Clock` tells it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from kube.clock import Clock
from kube.errors import KtoolError

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class TimeError(KtoolError, ValueError):
    """Not a time in RFC 3339's form."""


def rfc3339(epoch: float) -> str:
    """`2026-01-31T12:00:00Z`: a moment to the second, cut off and not rounded (Kubernetes: `Time`)."""
    return datetime.fromtimestamp(epoch // 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro(epoch: float) -> str:
    """`2026-01-31T12:00:00.000000Z`: a moment to the microsecond (Kubernetes: `MicroTime`, used by Leases)."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now_rfc3339(clock: Clock) -> str:
    """Now, to the second."""
    return rfc3339(clock.time())


def now_micro(clock: Clock) -> str:
    """Now, to the microsecond."""
    return micro(clock.time())


def parse(text: str) -> float:
    """Seconds since 1970 of a time in RFC 3339's form, with or without a fraction; TimeError if it is none."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _error(text)
    fraction, sign = match[7], match[8]
    try:
        year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise _error(text) from error
    if sign:
        hours, minutes = int(match[9]), int(match[10])
        if hours > 23 or minutes > 59:
            raise _error(text)
        offset = timedelta(hours=hours, minutes=minutes).total_seconds()
        offset = offset if sign == "+" else -offset
    else:
        offset = 0.0
    return moment.timestamp() - offset + (float(f"0.{fraction}") if fraction else 0.0)


def _error(found: object) -> TimeError:
    return TimeError("not a time", found=repr(found), wanted="RFC 3339, such as 2026-01-31T12:00:00Z")


def human_duration(seconds: float) -> str:
    """A duration as kubectl shows it: `42s`, `5m3s`, `3h10m`, `5d3h`, `2y11d`: two units while the first is small.

    Slightly negative (clocks differ) counts as 0; clearly negative is `<invalid>`.
    """
    total = int(seconds)
    if total <= -2:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 2 * MINUTE:
        return f"{total}s"
    if total < 10 * MINUTE:
        return _two(total, MINUTE, "m", 1, "s")
    if total < 3 * HOUR:
        return f"{total // MINUTE}m"
    if total < 8 * HOUR:
        return _two(total, HOUR, "h", MINUTE, "m")
    if total < 2 * DAY:
        return f"{total // HOUR}h"
    if total < 8 * DAY:
        return _two(total, DAY, "d", HOUR, "h")
    if total < 2 * 365 * DAY:
        return f"{total // DAY}d"
    if total < 8 * 365 * DAY:
        return _two(total, 365 * DAY, "y", DAY, "d")
    return f"{total // (365 * DAY)}y"


def _two(total: int, large: int, large_unit: str, small: int, small_unit: str) -> str:
    first, rest = divmod(total, large)
    second = rest // small
    return f"{first}{large_unit}{second}{small_unit}" if second else f"{first}{large_unit}"


def age(timestamp: str | None, clock: Clock) -> str:
    """How long ago a timestamp is, as kubectl's AGE column shows it; `<unknown>` if there is none."""
    if not timestamp:
        return "<unknown>"
    return human_duration(clock.time() - parse(timestamp))
