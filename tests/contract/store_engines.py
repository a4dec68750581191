"""The engines that the store's contract is tested with.

`sqlite-narrow` is the SQLite engine with almost no memory for recent events, so that its watches read the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from control.store.sqlite import SqliteStore
from control.store.store import Event, Store, Watch

# An engine opens the store that lives in a directory; opening it again after close finds what was there.
Engine = Callable[[Path], Awaitable[Store]]
ENGINES: dict[str, Engine] = {
    "sqlite": lambda directory: SqliteStore.open(directory / "state.db"),
    "sqlite-narrow": lambda directory: SqliteStore.open(directory / "state.db", window_events=3),
}


async def take(watch: Watch, count: int) -> list[Event]:
    """The next `count` events."""
    events: list[Event] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += await anext(watch)
    assert len(events) == count
    return events
