"""The window of recent events and the cursors over it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from control.store.sqlite import SqliteStore
from control.store.sqlite.watch import EventHub, LogWatch, RecentEvents
from control.store.store import Event, EventType, KeyValue


def event(revision: int, key: str = "/a", size: int = 0) -> Event:
    return Event(EventType.PUT, KeyValue(key, bytes(size), revision, revision, 1), None)


def revisions(events: list[Event] | None) -> list[int] | None:
    return None if events is None else [event.kv.mod_revision for event in events]


class TestRecentEvents:
    def test_knows_the_end_and_says_what_it_does_not_know(self) -> None:
        recent = RecentEvents(10, max_events=3, max_bytes=1000)
        assert revisions(recent.since(11)) == []
        assert recent.since(10) is None
        recent.append([event(11), event(12)])
        recent.append([event(13), event(14)])
        assert recent.revision == 14
        assert recent.since(11) is None
        assert revisions(recent.since(12)) == [12, 13, 14]
        assert revisions(recent.since(14)) == [14]
        assert revisions(recent.since(15)) == revisions(recent.since(99)) == []

    def test_is_bounded_in_bytes(self) -> None:
        recent = RecentEvents(1, max_events=1000, max_bytes=1000)
        recent.append([event(revision, size=300) for revision in range(2, 10)])
        assert revisions(recent.since(7)) == [7, 8, 9]
        assert recent.since(6) is None
        recent.append([event(10, size=5000)])
        assert recent.since(10) is None
        assert revisions(recent.since(11)) == []


async def no_history(prefix: str, first: int, last: int) -> tuple[list[Event], int]:
    raise AssertionError(f"read the log from {first} to {last}")


async def never_compacted() -> int:
    return 0


async def test_who_keeps_up_never_reads_the_log() -> None:
    hub = EventHub(1, read_history=no_history, read_compacted=never_compacted, max_events=2, max_bytes=1000)
    async with LogWatch(hub, "/a", 2) as concerned, LogWatch(hub, "/b", 2) as quiet:
        waiting = asyncio.ensure_future(anext(quiet))
        for revision in range(2, 20):
            hub.publish([event(revision)])
            assert revisions(list(await anext(concerned))) == [revision]
        assert quiet.progress == 19
        hub.publish([event(20, "/b")])
        assert revisions(list(await waiting)) == [20]


async def test_who_has_left_is_forgotten(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "state.db")
    watch = store.watch("/", from_revision=2)
    async with watch:
        pass
    assert not store._hub._watches
    with pytest.raises(RuntimeError, match="inside its context manager"):
        await anext(watch)
    await store.close()


async def test_a_watch_far_behind_reads_in_bounded_portions(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "state.db", window_events=1)
    for _ in range(25):
        await asyncio.gather(*(store.put("/w", bytes(100)) for _ in range(100)))
    await asyncio.gather(*(store.put("/w", bytes(1_000_000)) for _ in range(12)))
    async with store.watch("/w", from_revision=2) as watch:
        sizes: list[int] = []
        while sum(sizes) < 2512:
            sizes.append(len(await anext(watch)))
    assert max(sizes) <= 1000  # revisions
    assert max(sizes[-3:]) <= 8  # megabytes: a value and the one before it
    await store.close()
