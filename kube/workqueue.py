"""A rate-limited work queue of keys (client-go: `workqueue.RateLimitingInterface`).

The problem: events come in bursts, about the same objects, while workers are busy with them; and work fails. A plain
queue would do the same work many times over, let two workers reconcile one object at once, and hammer what fails. So:

- A key waits in the queue at most once, however often it is added.
- A key that is being worked on is not handed out again; if it is added meanwhile, it returns to the queue when its
  worker is done. So nothing is missed and nothing runs twice at the same time.
- A failing key comes back after 5 ms, 10 ms, 20 ms, ... up to 1000 s; `forget` ends that after a success.

There is no background task: whoever waits in `get` also waits for the next delayed key.

    while True:
        key = await queue.get()
        try:
            await reconcile(key)
        except ApiError:
            log.warning(...)
            queue.add_rate_limited(key)
        else:
            queue.forget(key)
        finally:
            queue.done(key)
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

from kube.clock import Clock, SystemClock

K = TypeVar("K", bound=Hashable)

BASE_DELAY = 0.005
MAX_DELAY = 1000.0


class ShutDownError(Exception):
    """The queue is shut down and empty: the worker should end."""


class WorkQueue(Generic[K]):
    """A queue of keys for any number of workers on one event loop.

    `name` stands in logs and metrics; delays are in seconds. The public counters are `adds` (keys that entered the
    queue) and `retries` (rate-limited adds).
    """

    def __init__(
        self,
        name: str = "",
        *,
        clock: Clock | None = None,
        base_delay: float = BASE_DELAY,
        max_delay: float = MAX_DELAY,
    ) -> None:
        self.name = name
        self.adds = 0
        self.retries = 0
        self._clock: Clock = clock or SystemClock()
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._queue: deque[K] = deque()  # in the order in which they will be handed out
        self._dirty: set[K] = set()  # must be worked on: in the queue, or added while being worked on
        self._started: dict[K, float] = {}  # being worked on, since when
        self._due: dict[K, float] = {}  # delayed keys and when they enter the queue
        self._delayed: list[tuple[float, int, K]] = []  # the same as a heap; entries that _due contradicts are stale
        self._order = count()
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shut_down = False

    # --- putting keys in -------------------------------------------------------------------------------------------

    def add(self, key: K) -> None:
        """Ask for work on a key; nothing happens if it waits already, or after shut_down."""
        if self._shut_down or key in self._dirty:
            return
        self.adds += 1
        self._dirty.add(key)
        if key not in self._started:
            self._queue.append(key)
            self._wake_one()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for work on a key after some seconds; of several delays the earliest counts."""
        if self._shut_down:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        if self._delayed[0][2] == key:  # those who wait for a later one must look again
            self._wake_all()

    def add_rate_limited(self, key: K) -> None:
        """Ask for work on a key that failed: later each time, until `forget`."""
        self.retries += 1
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2^failures of a key that fails for days would not fit a float
        self.add_after(key, min(self._base_delay * 2 ** min(failures, 64), self._max_delay))

    def forget(self, key: K) -> None:
        """The key is fine again: its next failure starts from the shortest delay."""
        self._failures.pop(key, None)

    # --- taking keys out -------------------------------------------------------------------------------------------

    async def get(self) -> K:
        """The next key to work on; waits for one. Each key must be given back with `done`.

        After shut_down it hands out what is left, then raises ShutDownError.
        """
        while True:
            self._promote()
            if self._queue:
                key = self._queue.popleft()
                self._dirty.discard(key)
                self._started[key] = self._clock.monotonic()
                return key
            if self._shut_down:
                raise ShutDownError(self.name)
            await self._wait()

    def done(self, key: K) -> None:
        """The work on a key is over; if the key was added meanwhile, it enters the queue again."""
        if self._started.pop(key, None) is None:
            return
        if key in self._dirty:
            self._queue.append(key)
            self._wake_one()

    def shut_down(self) -> None:
        """Take no more keys; workers get what is queued and then ShutDownError. Delayed keys are dropped."""
        self._shut_down = True
        self._due.clear()
        self._delayed.clear()
        self._wake_all()

    # --- numbers ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many keys are ready to be handed out (depth)."""
        self._promote()
        return len(self._queue)

    @property
    def delayed(self) -> int:
        """How many keys wait for their time."""
        self._promote()
        return len(self._due)

    @property
    def processing(self) -> int:
        """How many keys are being worked on."""
        return len(self._started)

    def failures(self, key: K) -> int:
        """How often a key was added rate-limited since it was last forgotten (client-go: `NumRequeues`)."""
        return self._failures.get(key, 0)

    def longest_running(self) -> float:
        """For how many seconds the slowest unfinished key has been worked on; 0 if none is."""
        return self._clock.monotonic() - min(self._started.values()) if self._started else 0.0

    # --- waiting ---------------------------------------------------------------------------------------------------

    def _promote(self) -> None:
        """Move delayed keys whose time has come into the queue."""
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    async def _wait(self) -> None:
        """Return when there may be something to hand out."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        self._getters.append(woken)
        timer: asyncio.Task[None] | None = None
        if self._delayed:
            seconds = self._delayed[0][0] - self._clock.monotonic()
            timer = loop.create_task(self._clock.sleep(seconds), name=f"workqueue {self.name}: next delayed key")
            timer.add_done_callback(lambda _: _wake(woken))
        try:
            await woken
        except asyncio.CancelledError:
            # The wake-up may have been meant for us; somebody else must take the key now.
            if woken.done() and not woken.cancelled():
                self._wake_one()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if woken in self._getters:
                self._getters.remove(woken)

    def _wake_one(self) -> None:
        while self._getters:
            if _wake(self._getters.popleft()):
                return

    def _wake_all(self) -> None:
        for woken in self._getters:
            _wake(woken)
        self._getters.clear()


def _wake(waiting: asyncio.Future[None]) -> bool:
    """Wake a waiter; False if it was awake (or gone) already."""
    if waiting.done():
        return False
    waiting.set_result(None)
    return True
