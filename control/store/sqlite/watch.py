"""Watching the log without a queue per watcher.

The obvious way gives each watcher a queue and puts each event into all of them. A watcher that stalls then either
grows without bound or loses events. Here nothing is queued: the latest events of the whole store are kept once, in a
window of bounded size, and a watcher is only a cursor, the next revision it has not handed out. Awake, it takes what
it wants from the window; if it has fallen behind the window, it reads the history from the log, in portions, until it
has caught up. A stalled watcher costs nothing, and the only thing that can stop it is the one that the contract
names: compaction has removed what it needs (etcd keeps slow watchers in the same way, as "unsynced").

Two things need care. A watcher of a quiet prefix must not fall behind just because others write: publishing moves the
cursors of those that have seen everything and are not concerned. And revisions must have no holes: each is exactly
one row and one event, so "the window starts at or before my cursor" proves that nothing is missing.

Everything here runs in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from control.store.errors import CompactedError, StoreClosedError
from control.store.store import Event

# Reads the history: (prefix, first revision, last revision) -> (events, revision up to which these are all).
ReadHistory = Callable[[str, int, int], Awaitable[tuple[list[Event], int]]]
# Reads the compacted revision.
ReadCompacted = Callable[[], Awaitable[int]]

WINDOW_EVENTS = 1000
WINDOW_BYTES = 2 << 20


class RecentEvents:
    """A window on the end of the log, bounded in events and bytes. Revisions follow each other without holes."""

    def __init__(self, revision: int, *, max_events: int, max_bytes: int) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.revision = revision

    def append(self, events: Sequence[Event]) -> None:
        """Add the events of a commit; the oldest fall out."""
        self._events.extend(events)
        self._bytes += sum(map(_size, events))
        while self._events and (len(self._events) > self._max_events or self._bytes > self._max_bytes):
            self._bytes -= _size(self._events.popleft())
        self.revision = events[-1].kv.mod_revision

    def since(self, revision: int) -> list[Event] | None:
        """All events from `revision` on, or None when the window starts later."""
        wanted = self.revision + 1 - revision
        if wanted > len(self._events):
            return None
        newest = reversed(self._events)
        return [event for event, _ in zip(newest, range(wanted), strict=False)][::-1]


class EventHub:
    """Where commits are announced and watches are opened. `revision` is the last one announced."""

    def __init__(
        self,
        revision: int,
        *,
        read_history: ReadHistory,
        read_compacted: ReadCompacted,
        max_events: int = WINDOW_EVENTS,
        max_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._recent = RecentEvents(revision, max_events=max_events, max_bytes=max_bytes)
        self._watches: set[LogWatch] = set()
        self._closed = False
        self.read_history = read_history
        self.read_compacted = read_compacted

    @property
    def revision(self) -> int:
        return self._recent.revision

    def publish(self, events: Sequence[Event]) -> None:
        """Announce the events of a commit."""
        self._recent.append(events)
        for watch in self._watches:
            watch.published(events)

    def recent(self, revision: int) -> list[Event] | None:
        """All events from `revision` on, or None when some are only in the log. Raises `StoreClosedError`."""
        if self._closed:
            raise StoreClosedError
        return self._recent.since(revision)

    def add(self, watch: LogWatch) -> None:
        self._watches.add(watch)

    def discard(self, watch: LogWatch) -> None:
        self._watches.discard(watch)

    def close(self) -> None:
        """Every watch ends with `StoreClosedError`."""
        self._closed = True
        for watch in self._watches:
            watch.wake()


class LogWatch:
    """One watch (Watch): a prefix and a cursor."""

    def __init__(self, hub: EventHub, prefix: str, from_revision: int) -> None:
        self._hub = hub
        self._prefix = prefix
        self._next = from_revision  # the first revision that has not been handed out
        self._entered = False
        self._started = False
        self._awake = asyncio.Event()

    @property
    def progress(self) -> int:
        """Watch.progress."""
        return min(self._next - 1, self._hub.revision)

    async def __aenter__(self) -> Self:
        self._hub.add(self)
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hub.discard(self)
        self._entered = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        # The cursor moves without a pause between taking events and returning them: a cancelled wait loses nothing.
        if not self._entered:
            raise RuntimeError("a watch is iterated inside its context manager")
        while True:
            self._awake.clear()
            upto = self._hub.revision
            events = self._hub.recent(self._next)
            if self._next > upto:
                self._started = True  # at the end of the history, so none of it is missing
                await self._awake.wait()
                continue
            if not self._started:
                await self._check_not_compacted()
                continue
            if events is None:
                events, upto = await self._hub.read_history(self._prefix, self._next, upto)
            else:
                events = [event for event in events if event.kv.key.startswith(self._prefix)]
            self._next = upto + 1
            if events:
                return events

    def published(self, events: Sequence[Event]) -> None:
        """A commit was announced: wake up if it concerns this watch, move on if not."""
        first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        if self._next < first or self._next > last:
            return  # behind: it will come to these by itself; or it is not interested yet
        if any(event.kv.mod_revision >= self._next and event.kv.key.startswith(self._prefix) for event in events):
            self._awake.set()
        else:
            self._next = last + 1

    def wake(self) -> None:
        """Look again."""
        self._awake.set()

    async def _check_not_compacted(self) -> None:
        """A watch that starts in forgotten history is refused, even if the window happens to remember it still."""
        compacted = await self._hub.read_compacted()
        if self._next < compacted:
            raise CompactedError(self._next, compacted)
        self._started = True


def _size(event: Event) -> int:
    return len(event.kv.value) + (len(event.prev_kv.value) if event.prev_kv else 0) + 2 * len(event.kv.key)
