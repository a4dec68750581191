"""Several masters take turns in compacting the store that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from control.compaction import TURN_KEY, compact_in_turn
from control.store.errors import FutureRevisionError
from control.store.sqlite import SqliteStore
from kube.clock import VirtualClock

INTERVAL = 300.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    found = await SqliteStore.open(tmp_path / "state.db")
    yield found
    await found.close()


@asynccontextmanager
async def masters(store: SqliteStore, clock: VirtualClock, number: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    running = [asyncio.create_task(compact_in_turn(store, clock, interval=INTERVAL)) for _ in range(number)]
    try:
        yield running
    finally:
        for task in running:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*running)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2000):
        if await check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


async def held(store: SqliteStore) -> bytes:
    found = await store.get(TURN_KEY)
    return found.value if found else b""


async def test_one_of_all_compacts_to_the_revision_of_an_interval_ago(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, compacted = VirtualClock(), []
    compact = store.compact

    async def noted(revision: int) -> None:
        compacted.append(revision)
        await compact(revision)

    monkeypatch.setattr(store, "compact", noted)
    first = await store.put("/a", b"1")
    async with masters(store, clock, 3):
        await eventually(lambda: _is(held(store), first))
        await eventually(lambda: asleep(clock, 3))  # the other two have seen it
        await store.put("/a", b"2")
        await clock.advance(INTERVAL)
        await eventually(lambda: _is(held(store), first + 2))
        await eventually(lambda: asleep(clock, 3))
        await clock.advance(INTERVAL)
        await eventually(lambda: _is(held(store), first + 3))
        await eventually(lambda: asleep(clock, 3))
    assert compacted == [first, first + 2]


async def test_what_the_turns_key_should_not_hold_and_what_a_restored_store_has_not_reached(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, failed = VirtualClock(), []

    async def too_early(revision: int) -> None:
        failed.append(revision)
        raise FutureRevisionError(revision, 1)

    monkeypatch.setattr(store, "compact", too_early)
    first = await store.put(TURN_KEY, b"no number")
    async with masters(store, clock, 1) as running:
        for turn in range(3):
            await eventually(lambda: asleep(clock, 1))
            await clock.advance(INTERVAL)
            await eventually(lambda turn=turn: _is(held(store), first + turn))  # type: ignore[misc]
        await eventually(lambda: asleep(clock, 1))
        assert failed == [first, first]
        assert not running[0].done()


async def asleep(clock: VirtualClock, number: int) -> bool:
    """Whether so many wait for their next turn."""
    return clock.sleepers == number


async def _is(found: Awaitable[bytes], revision: int) -> bool:
    return await found == b"%d" % revision
