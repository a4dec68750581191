"""When leases expire: plain data over a monotonic clock, decided without looking at one."""

from __future__ import annotations

import heapq


class LeaseDeadlines:
    """The deadlines of the living leases, in seconds of whichever monotonic clock the caller reads.

    A renewal changes only the deadline: the queue has one entry per lease, which is found too early when it comes up
    and goes back in with the newer time. So renewing is cheap. Entries of leases that ended early stay until there
    are more of them than of the living.
    """

    def __init__(self) -> None:
        self._ttl: dict[int, int] = {}
        self._deadline: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []

    def add(self, lease: int, ttl_seconds: int, *, now: float) -> None:
        """The lease lives for `ttl_seconds` from `now`. It must be a new one."""
        self._ttl[lease] = ttl_seconds
        self._deadline[lease] = now + ttl_seconds
        if len(self._queue) > 2 * len(self._deadline) + 16:
            self._queue = [(deadline, living) for living, deadline in self._deadline.items()]
            heapq.heapify(self._queue)
        else:
            heapq.heappush(self._queue, (now + ttl_seconds, lease))

    def renew(self, lease: int, *, now: float) -> int | None:
        """Its full time again from `now`: returns that in seconds, or None if the lease does not live."""
        ttl = self._ttl.get(lease)
        if ttl is not None:
            self._deadline[lease] = now + ttl
        return ttl

    def postpone(self, lease: int, *, until: float) -> None:
        """A lease that expired comes up again at `until`. It lives no more: it cannot be renewed."""
        self._deadline[lease] = until
        heapq.heappush(self._queue, (until, lease))

    def remove(self, lease: int) -> None:
        """Forget the lease, if it is known."""
        self._ttl.pop(lease, None)
        self._deadline.pop(lease, None)

    def next_deadline(self) -> float | None:
        """When to look again; never later than the next expiry. None when no lease lives."""
        while self._queue:
            due, lease = self._queue[0]
            deadline = self._deadline.get(lease)
            if deadline == due:
                return due
            if deadline is None:
                heapq.heappop(self._queue)
            else:
                heapq.heapreplace(self._queue, (deadline, lease))
        return None

    def expire(self, now: float) -> list[int]:
        """Remove and return the leases whose deadline has come, the earliest first."""
        expired = []
        while (due := self.next_deadline()) is not None and due <= now:
            _, lease = heapq.heappop(self._queue)
            self.remove(lease)
            expired.append(lease)
        return expired
