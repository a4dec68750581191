"""A token bucket on a clock (client-go: `flowcontrol.RateLimiter`)."""

from __future__ import annotations

from kube.clock import Clock

RETRY_SECONDS = 60.0


class TokenBucket:
    """At most `burst` at once, and `rate` per second in the long run. `rate` may be changed at any time; 0 stops."""

    def __init__(self, clock: Clock, *, rate: float = 0.0, burst: int = 1) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = clock.monotonic()

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._refill()
        self._rate = rate

    def take(self) -> float | None:
        """Take a token: None if there was one, else the seconds after which to ask again."""
        self._refill()
        if self._rate <= 0:
            return RETRY_SECONDS
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return None
        return (1.0 - self._tokens) / self._rate

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
