"""Hypothesis on shared machines: slow input generation or a slow example says nothing about the code."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ktool", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("ktool")
