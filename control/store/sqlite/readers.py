"""Reading without disturbing anybody: a few threads with read-only connections of their own.

In WAL mode readers neither wait for the writer nor hold it up, and the event loop waits for neither. Threads and
connections are made when they are first needed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Concatenate, ParamSpec, TypeVar

from control.store.errors import StoreClosedError, StoreUnavailableError
from control.store.sqlite.schema import connect_reader

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 2


class Readers:
    """Runs read functions on the database at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-reader")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._closed = False

    async def read(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`function(connection, ...)` in a reader's thread. SQLite's errors become `StoreUnavailableError`."""
        if self._closed:
            raise StoreClosedError

        def call() -> T:
            try:
                connection = self._take()
                try:
                    return function(connection, *args, **kwargs)
                finally:
                    self._idle.put(connection)
            except sqlite3.Error as error:
                raise StoreUnavailableError(str(error)) from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def stop(self) -> None:
        """Finish the reads that were begun, close the connections."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.get_nowait()
        except Empty:
            return connect_reader(self._path)
