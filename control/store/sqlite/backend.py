"""The embedded store: one SQLite file, used by one process.

The parts, each in a file of its own: an append-only `log` gives revisions, history, watch and compaction; one
`writer` thread commits in groups and decides every comparison; `readers` read beside it; `watch` tells what happened
from a window in memory and, behind it, from the log; `leases` knows deadlines; `schema` and `lock` guard the file.
This module is the shell: it puts them together under the Store contract and runs the timer of the leases.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Self

from control.store.errors import FutureRevisionError, LeaseNotFoundError, StoreClosedError, StoreUnavailableError
from control.store.sqlite import log
from control.store.sqlite.leases import LeaseDeadlines
from control.store.sqlite.lock import StoreLock
from control.store.sqlite.readers import Readers
from control.store.sqlite.schema import connect_writer
from control.store.sqlite.watch import WINDOW_BYTES, WINDOW_EVENTS, EventHub, LogWatch
from control.store.sqlite.writer import Writer
from control.store.store import DeleteResult, Event, KeyValue, RangeResult
from kube.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

_RECLAIM_SPAN = 500  # revisions compacted in one transaction: other writes get their turn in between
_RETRY_SECONDS = 5  # after a lease's keys could not be deleted


class SqliteStore:
    """A `Store` in the SQLite file at a path; make it by `open`."""

    def __init__(
        self,
        lock: StoreLock,
        connection: sqlite3.Connection,
        path: Path,
        *,
        clock: Clock,
        window_events: int,
        window_bytes: int,
    ) -> None:
        self._lock = lock
        self._clock = clock
        self._readers = Readers(path)
        self._hub = EventHub(
            log.current_revision(connection),
            read_history=lambda prefix, first, last: self._readers.read(log.read_history, prefix, first, last),
            read_compacted=lambda: self._readers.read(log.compact_revision),
            max_events=window_events,
            max_bytes=window_bytes,
        )
        self._leases = LeaseDeadlines()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0.0
        self._closed = False
        for lease, ttl_seconds in log.leases(connection):
            self._leases.add(lease, ttl_seconds, now=clock.monotonic())
        self._writer = Writer(connection, publish=self._hub.publish, failed=self._hub.close)
        self._set_timer()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        window_events: int = WINDOW_EVENTS,
        window_bytes: int = WINDOW_BYTES,
    ) -> Self:
        """Open the store in the file `path`, which is made, with its directory, if it does not exist.

        `window_events` and `window_bytes` bound the memory for recent events. Blocks the event loop for the
        milliseconds that opening takes. Raises `StoreInUseError` if another process has it open, `SchemaError` if the
        file is not ours or is of a newer version (nothing in it is changed), `StoreUnavailableError` if it cannot be
        used.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = StoreLock(path)
            try:
                connection = connect_writer(path)
                try:
                    return cls(
                        lock,
                        connection,
                        path,
                        clock=clock or SystemClock(),
                        window_events=window_events,
                        window_bytes=window_bytes,
                    )
                except BaseException:
                    connection.close()
                    raise
            except BaseException:
                lock.release()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailableError(f"{path}: {error}") from error

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """Store.get."""
        _check_key(key)
        _check_not_negative("revision", revision)
        return await self._readers.read(log.read_key, key, revision)

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """Store.range."""
        _check_not_negative("limit", limit)
        _check_not_negative("revision", revision)
        return await self._readers.read(log.read_range, prefix, start_after=start_after, limit=limit, revision=revision)

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None, lease: int = 0) -> int:
        """Store.put."""
        _check_key(key)
        return await self._writer.submit(
            lambda transaction: transaction.put(key, value, expected_revision=expected_revision, lease=lease)
        )

    async def delete(self, key: str, *, expected_revision: int | None = None) -> DeleteResult:
        """Store.delete."""
        _check_key(key)
        return await self._writer.submit(
            lambda transaction: transaction.delete(key, expected_revision=expected_revision)
        )

    def watch(self, prefix: str, *, from_revision: int) -> LogWatch:
        """Store.watch."""
        if from_revision < log.FIRST_REVISION:
            raise ValueError(f"from_revision must be at least {log.FIRST_REVISION}, not {from_revision}")
        return LogWatch(self._hub, prefix, from_revision)

    async def history(self, prefix: str, *, first: int, last: int) -> list[Event]:
        """Store.history."""
        if first < log.FIRST_REVISION:
            raise ValueError(f"first must be at least {log.FIRST_REVISION}, not {first}")
        current = await self.revision()
        if last > current:
            raise FutureRevisionError(last, current)
        found: list[Event] = []
        while first <= last:
            events, upto = await self._readers.read(log.read_history, prefix, first, last)
            found += events
            first = upto + 1
        return found

    async def compact(self, revision: int) -> None:
        """Store.compact."""
        await self._writer.submit(lambda transaction: transaction.compact(revision))
        while not await self._writer.submit(lambda transaction: transaction.reclaim(_RECLAIM_SPAN)):
            pass
        while not await self._writer.submit(lambda transaction: transaction.vacuum()):
            pass

    async def revision(self) -> int:
        """Store.revision."""
        if self._closed:
            raise StoreClosedError
        return self._hub.revision

    async def grant_lease(self, ttl_seconds: int) -> int:
        """Store.grant_lease."""
        if ttl_seconds < 1:
            raise ValueError(f"ttl_seconds must be at least 1, not {ttl_seconds}")

        def begin(lease: int) -> None:
            self._leases.add(lease, ttl_seconds, now=self._clock.monotonic())
            self._set_timer()

        return await self._writer.submit(lambda transaction: transaction.grant(ttl_seconds), committed=begin)

    async def keepalive(self, lease: int) -> int:
        """Store.keepalive."""
        if self._closed:
            raise StoreClosedError
        ttl = self._leases.renew(lease, now=self._clock.monotonic())
        if ttl is None:
            raise LeaseNotFoundError(lease)
        return ttl

    async def revoke(self, lease: int) -> None:
        """Store.revoke."""
        await self._writer.submit(
            lambda transaction: transaction.revoke(lease), committed=lambda _: self._leases.remove(lease)
        )

    async def close(self) -> None:
        """Store.close."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait([self._timer])
        self._hub.close()
        await self._readers.stop()
        await self._writer.stop()  # last: whoever closes last, if able to write, folds the write-ahead log in
        self._lock.release()

    def _set_timer(self) -> None:
        """See to it that the timer goes off at the next deadline at the latest."""
        due = self._leases.next_deadline()
        if due is None or self._closed:
            return
        if self._timer is not None and not self._timer.done():
            if self._timer_due <= due:
                return
            self._timer.cancel()  # it only sleeps: what it does afterwards has no pause
        self._timer_due = due
        self._timer = asyncio.create_task(self._sleep_until(due), name="store-leases")

    async def _sleep_until(self, due: float) -> None:
        await self._clock.sleep(due - self._clock.monotonic())
        self._timer = None
        for lease in self._leases.expire(self._clock.monotonic()):
            self._end(lease)
        self._set_timer()

    def _end(self, lease: int) -> None:
        """Have the writer delete an expired lease and its keys."""

        def ended(future: asyncio.Future[None]) -> None:
            error = future.exception()
            if isinstance(error, StoreUnavailableError):
                logger.warning("lease %d has expired but cannot be ended, trying again: %s", lease, error)
                self._leases.postpone(lease, until=self._clock.monotonic() + _RETRY_SECONDS)
                self._set_timer()
            elif error is not None and not isinstance(error, LeaseNotFoundError | StoreClosedError):
                logger.error("lease %d cannot be ended", lease, exc_info=error)

        try:
            self._writer.submit(lambda transaction: transaction.revoke(lease)).add_done_callback(ended)
        except StoreClosedError as error:
            logger.warning("lease %d has expired after the store: %s", lease, error)


def _check_key(key: str) -> None:
    if not key:
        raise ValueError("a key may not be empty")


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name} may not be negative: {value}")
