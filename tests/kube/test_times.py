from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import times
from kube.clock import VirtualClock

NOON = 1769860800.0  # 2026-01-31T12:00:00Z


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T14:30:00+02:30", NOON),
        ("2026-01-31T07:00:00-05:00", NOON),
        ("2026-01-31T12:00:00.5Z", NOON + 0.5),
        ("2026-01-31T12:00:00.250000Z", NOON + 0.25),
        ("2026-01-31T12:00:00.125000000Z", NOON + 0.125),
    ],
)
def test_parse(text: str, epoch: float) -> None:
    assert times.parse(text) == epoch


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:00",
        "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:00+25:00",
        "2026-01-31T12:00:00.Z",
        "٢026-01-31T12:00:00Z",
    ],
)
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(times.TimeError) as caught:
        times.parse(text)
    assert caught.value.found == repr(text)
    assert "RFC 3339" in caught.value.wanted


def test_format() -> None:
    assert times.rfc3339(NOON + 0.999) == "2026-01-31T12:00:00Z"
    assert times.rfc3339(-0.5) == "1969-12-31T23:59:59Z"
    assert times.micro(NOON + 0.25) == "2026-01-31T12:00:00.250000Z"
    clock = VirtualClock(start=NOON)
    assert times.now_rfc3339(clock) == "2026-01-31T12:00:00Z"
    assert times.now_micro(clock) == "2026-01-31T12:00:00.000000Z"


@given(st.integers(min_value=0, max_value=4_000_000_000), st.integers(min_value=0, max_value=999_999))
def test_round_trip(seconds: int, micros: int) -> None:
    moment = seconds + micros / 1e6
    assert times.parse(times.micro(moment)) == pytest.approx(moment, abs=1e-6)
    assert times.parse(times.rfc3339(seconds)) == seconds


M, H, D = times.MINUTE, times.HOUR, times.DAY


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (2 * M, "2m"),
        (5 * M + 3, "5m3s"),
        (10 * M + 3, "10m"),
        (179 * M + 59, "179m"),
        (3 * H, "3h"),
        (3 * H + 10 * M, "3h10m"),
        (8 * H + 10 * M, "8h"),
        (47 * H, "47h"),
        (48 * H, "2d"),
        (5 * D + 3 * H, "5d3h"),
        (8 * D + 3 * H, "8d"),
        (729 * D, "729d"),
        (741 * D, "2y11d"),
        (8 * 365 * D + 20 * D, "8y"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert times.human_duration(seconds) == text


def test_age() -> None:
    clock = VirtualClock(start=NOON)
    assert times.age("2026-01-31T11:55:00Z", clock) == "5m"
    assert times.age(None, clock) == "<unknown>"
