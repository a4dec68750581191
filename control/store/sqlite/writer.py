"""The one writer: a thread that commits everything waiting in one transaction.

A durable commit costs one sync of the disk, whether it carries one change or five hundred. So changes are not
committed one by one: while one transaction is being synced the next changes gather in a queue, and the thread takes
them all at once (group commit). Under load the syncs are shared; when idle, a single change waits for nobody, and the
thread sleeps in the queue without polling.

The order of the queue is the order of revisions. Each change is decided inside the transaction, against what the ones
before it did, so comparing and swapping needs no locks, and a refused change leaves its neighbours alone. What the
callers and watchers learn, they learn after the commit, in one turn of the event loop: events first, then results.

If the engine fails (disk full, I/O error), the whole transaction is rolled back and every change in it reports
`StoreUnavailableError`; the next transaction starts from the last committed state. If even rolling back fails, the
thread ends and every waiting and later change is told so, rather than left waiting.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from msgspec import Struct

from control.store.errors import StoreClosedError, StoreError, StoreUnavailableError
from control.store.sqlite.log import Transaction, current_revision
from control.store.store import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 512  # changes in one transaction: bounds what a failure takes with it, and the wait of the first in line


class _Request(Struct, frozen=True):
    change: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None


class _Outcome(Struct, frozen=True):
    request: _Request
    result: Any
    error: Exception | None


class Writer:
    """Owns `connection` and the thread that writes through it.

    `publish` receives the events of each commit, in order, in the event loop that constructed the writer; `failed` is
    called there if the thread has ended by an error.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        publish: Callable[[Sequence[Event]], None],
        failed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._publish = publish
        self._failed = failed
        self._revision = current_revision(connection)
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._batch: list[_Request] = []
        self._stopped = False
        self._failure = ""
        # A daemon: a process that forgets to close its store can still exit. What was acknowledged is on disk.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(
        self, change: Callable[[Transaction], T], *, committed: Callable[[T], None] | None = None
    ) -> asyncio.Future[T]:
        """Queue a change; the future has its result once it is durable, or the error for which it was refused.

        `committed` is called with the result in the event loop even if nobody waits for the future any more. Raises
        `StoreClosedError` after `stop` or the thread's end.
        """
        if self._failure:
            raise _ended(self._failure)
        if self._stopped:
            raise StoreClosedError
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Request(change, future, committed))
        return future

    async def stop(self) -> None:
        """Accept nothing more, finish what is queued, close the connection."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while self._gather():
                self._post(self._deliver, *self._commit(self._batch))
                self._batch = []
        except Exception as error:
            logger.exception("the store's writer has ended")
            self._post(self._fail, str(error))
        finally:
            self._connection.close()

    def _gather(self) -> bool:
        """Wait for a change and take what else is there into `_batch`; false at the end."""
        request = self._queue.get()
        while request is not None:
            self._batch.append(request)
            if len(self._batch) == _BATCH:
                return True
            try:
                request = self._queue.get_nowait()
            except Empty:
                return True
        if self._batch:
            self._queue.put(None)  # nothing follows the end, so it is still the end
        return bool(self._batch)

    def _commit(self, batch: Sequence[_Request]) -> tuple[list[_Outcome], list[Event]]:
        transaction = Transaction(self._connection, self._revision)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(request, transaction) for request in batch]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            logger.error("a commit of %d changes failed: %s", len(batch), error)
            return self._undo(batch, str(error)), []
        except Exception as error:
            logger.exception("a commit of %d changes failed", len(batch))
            return self._undo(batch, repr(error)), []
        self._revision = transaction.revision
        return outcomes, transaction.events

    def _undo(self, batch: Sequence[_Request], reason: str) -> list[_Outcome]:
        if self._connection.in_transaction:  # after some errors SQLite has rolled back already
            self._connection.execute("ROLLBACK")
        return [_Outcome(request, None, StoreUnavailableError(reason)) for request in batch]

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        """Call back in the event loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.warning("the event loop was closed before its store")  # so nobody is left to tell

    def _deliver(self, outcomes: Sequence[_Outcome], events: Sequence[Event]) -> None:
        if events:
            self._publish(events)
        for outcome in outcomes:
            request, error = outcome.request, outcome.error
            if error is None and request.committed is not None:
                request.committed(outcome.result)
            if request.future.done():
                continue  # its caller was cancelled
            if error is None:
                request.future.set_result(outcome.result)
            else:
                request.future.set_exception(error)

    def _fail(self, reason: str) -> None:
        """The thread is gone: tell everybody who waits. Runs in the event loop, as `submit` does."""
        self._failure = reason or "unknown"
        waiting = self._batch
        while not self._queue.empty():
            request = self._queue.get_nowait()
            if request is not None:
                waiting.append(request)
        for request in waiting:
            if not request.future.done():
                request.future.set_exception(_ended(reason))
        self._failed()


def _ended(reason: str) -> StoreClosedError:
    return StoreClosedError("the store closed itself after an error", found=reason)


def _attempt(request: _Request, transaction: Transaction) -> _Outcome:
    try:
        return _Outcome(request, request.change(transaction), None)
    except (StoreError, ValueError) as refusal:  # refused before anything was written
        return _Outcome(request, None, refusal)
