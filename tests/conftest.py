"""Fixtures that several directories of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import engine

# On shared machines slow input generation or a slow example says nothing about the code.
settings.register_profile(
    "ktool", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("ktool")


@pytest.fixture(scope="session")
def private_engine() -> Iterator[engine.Engine]:
    """A Docker Engine of this test run's own, in a network namespace without uplink (see tests/engine.py)."""
    reason = engine.missing()
    if reason:
        pytest.skip(f"no private Docker Engine: {reason}")
    with engine.private_engine() as started:
        yield started
