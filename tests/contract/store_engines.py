"""The engines that the store's contract is tested with.

`sqlite-narrow` is the SQLite engine with almost no memory for recent events, so that its watches read the log. `etcd`
is a real one for each directory, started when its store is opened first and ended with the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from control.store.etcd.backend import EtcdStore
from control.store.sqlite import SqliteStore
from control.store.store import Event, Store, Watch
from tests import etcd

# An engine opens the store that lives in a directory; opening it again after close finds what was there.
Engine = Callable[[Path], Awaitable[Store]]
ENGINES = (
    "sqlite",
    "sqlite-narrow",
    pytest.param("etcd", marks=pytest.mark.skipif(etcd.missing() != "", reason=etcd.missing())),
)


@contextlib.contextmanager
def running(name: str) -> Iterator[Engine]:
    """An engine by name, and what it needs to run."""
    if name == "sqlite":
        yield lambda directory: SqliteStore.open(directory / "state.db")
    elif name == "sqlite-narrow":
        yield lambda directory: SqliteStore.open(directory / "state.db", window_events=3)
    else:
        with contextlib.ExitStack() as stack:
            servers: dict[Path, etcd.EtcdServer] = {}

            async def open_etcd(directory: Path) -> Store:
                if directory not in servers:
                    servers[directory] = stack.enter_context(etcd.etcd(directory))
                return await EtcdStore.open(servers[directory].config())

            yield open_etcd


async def take(watch: Watch, count: int, *, at_least: bool = False) -> list[Event]:
    """The next `count` events (or more)."""
    events: list[Event] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += await anext(watch)
    assert at_least or len(events) == count
    return events
