"""Time as a seam: what waits or looks at the clock is given one, so that tests decide when time passes.

`SystemClock` is the machine's. `VirtualClock` stands still until a test advances it; then sleepers wake in the order
of their deadlines, each with the clock showing exactly its deadline, and what they start gets to run before the next
one wakes. An hour of back-off takes a test milliseconds, and gives the same result each time.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count
from typing import Protocol


class Clock(Protocol):
    """What tells the time and waits."""

    def time(self) -> float:
        """Wall clock, seconds since 1970 (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. For durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once (after one turn of the event loop) if not positive."""
        ...


class SystemClock:
    """The machine's clock and the event loop's timers."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


# How often the event loop turns after each step of a virtual clock, so that what woke runs until it waits again.
# Each await of something ready costs a turn or two; code under test chains far fewer than this.
_SETTLE_TURNS = 50


class VirtualClock:
    """A clock that a test moves by hand.

    `start` is the first value of `time()` (seconds since 1970); `monotonic()` starts at 0.
    """

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def time(self) -> float:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    @property
    def sleepers(self) -> int:
        """How many tasks sleep on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: wake whoever is due on the way, in order, and let them run."""
        if seconds < 0:
            raise ValueError("time does not go back")
        end = self._elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():  # its task was cancelled meanwhile
                continue
            self._elapsed = due
            future.set_result(None)
            await self.settle()
        self._elapsed = end
        await self.settle()

    async def settle(self) -> None:
        """Let tasks that can run do so, without time passing."""
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
