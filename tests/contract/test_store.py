"""The store's contract, the same for every engine: what etcd promises and the API server relies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from control.store.errors import (
    CompactedError,
    ConflictError,
    FutureRevisionError,
    KeyNotFoundError,
    LeaseNotFoundError,
    StoreClosedError,
)
from control.store.store import DeleteResult, Event, EventType, KeyValue, Store
from tests.contract.store_engines import ENGINES, running, take

Opener = Callable[[], Awaitable[Store]]


@pytest.fixture(params=ENGINES)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the store (again); all are closed at the end."""
    opened: list[Store] = []

    with running(request.param) as engine:

        async def open_again() -> Store:
            store = await engine(tmp_path)
            opened.append(store)
            return store

        yield open_again
        for store in opened:
            await store.close()


@pytest.fixture
async def store(open_store: Opener) -> Store:
    return await open_store()


async def changes(store: Store, prefix: str, from_revision: int, count: int) -> list[tuple[str, str, bytes, int]]:
    async with store.watch(prefix, from_revision=from_revision) as watch:
        return [(e.type.value, e.kv.key, e.kv.value, e.kv.mod_revision) for e in await take(watch, count)]


class TestKeys:
    async def test_an_empty_store_has_a_revision_and_no_keys(self, store: Store) -> None:
        assert await store.revision() == 1
        assert await store.get("/a") is None
        page = await store.range("")
        assert (page.items, page.revision, page.more, page.remaining) == ((), 1, False, 0)

    async def test_a_key_goes_through_its_life(self, store: Store) -> None:
        assert await store.put("/a", b"one") == 2
        assert await store.put("/b", b"other") == 3
        assert await store.put("/a", b"two") == 4
        assert await store.get("/a") == KeyValue("/a", b"two", create_revision=2, mod_revision=4, version=2)
        assert await store.delete("/a") == DeleteResult(5, KeyValue("/a", b"two", 2, 4, 2))
        assert await store.get("/a") is None
        assert await store.put("/a", b"") == 6
        assert await store.get("/a") == KeyValue("/a", b"", create_revision=6, mod_revision=6, version=1)
        assert await store.revision() == 6

    async def test_the_past_can_be_read(self, store: Store) -> None:
        await store.put("/a", b"one")
        await store.put("/a", b"two")
        await store.delete("/a")
        seen = [await store.get("/a", revision=revision) for revision in (1, 2, 3, 4)]
        assert [kv and kv.value for kv in seen] == [None, b"one", b"two", None]

    async def test_the_future_cannot(self, store: Store) -> None:
        await store.put("/a", b"one")
        with pytest.raises(FutureRevisionError) as caught:
            await store.get("/a", revision=3)
        assert (caught.value.revision, caught.value.current) == (3, 2)
        with pytest.raises(FutureRevisionError):
            await store.range("/", revision=3)

    async def test_a_range_that_nothing_can_be_in_has_a_revision_too(self, store: Store) -> None:
        await store.put("/b", b"one")
        await store.put("/b", b"two")
        assert (await store.range("/a/", start_after="/b")).revision == 3
        assert (await store.range("/a/", start_after="/b", revision=2)).items == ()
        with pytest.raises(FutureRevisionError):
            await store.range("/a/", start_after="/b", revision=4)
        await store.compact(3)
        with pytest.raises(CompactedError):
            await store.range("/a/", start_after="/b", revision=1)

    async def test_deleting_nothing_is_an_error_and_no_revision(self, store: Store) -> None:
        with pytest.raises(KeyNotFoundError) as caught:
            await store.delete("/a")
        assert caught.value.key == "/a"
        assert await store.revision() == 1

    async def test_any_text_is_a_key_and_any_bytes_a_value(self, store: Store) -> None:
        keys = ["/ä", "/\x00", "/\U0010ffff", "/z", "/日本", "/'; --", "/%"]
        for key in keys:
            await store.put(key, bytes(range(256)) + key.encode())
        page = await store.range("/")
        assert [kv.key for kv in page.items] == sorted(keys)
        assert all(kv.value == bytes(range(256)) + kv.key.encode() for kv in page.items)
        assert [kv.key for kv in (await store.range("/\U0010ffff")).items] == ["/\U0010ffff"]

    async def test_a_key_needs_a_name(self, store: Store) -> None:
        for call in (store.get(""), store.put("", b""), store.delete("")):
            with pytest.raises(ValueError):
                await call

    async def test_a_big_value_comes_back(self, store: Store) -> None:
        value = bytes(1_500_000)
        revision = await store.put("/big", value)
        kv = await store.get("/big")
        assert kv is not None
        assert (kv.value, kv.mod_revision) == (value, revision)


class TestCompareAndSwap:
    async def test_zero_means_that_the_key_must_not_exist(self, store: Store) -> None:
        revision = await store.put("/a", b"one", expected_revision=0)
        with pytest.raises(ConflictError) as caught:
            await store.put("/a", b"two", expected_revision=0)
        assert (caught.value.key, caught.value.expected) == ("/a", 0)
        assert caught.value.actual == KeyValue("/a", b"one", revision, revision, 1)
        await store.delete("/a")
        await store.put("/a", b"three", expected_revision=0)

    async def test_only_the_latest_revision_matches(self, store: Store) -> None:
        first = await store.put("/a", b"one")
        second = await store.put("/a", b"two", expected_revision=first)
        with pytest.raises(ConflictError):
            await store.put("/a", b"three", expected_revision=first)
        with pytest.raises(ConflictError):
            await store.delete("/a", expected_revision=first)
        assert (await store.delete("/a", expected_revision=second)).previous.value == b"two"

    async def test_what_does_not_exist_matches_no_revision(self, store: Store) -> None:
        with pytest.raises(ConflictError) as caught:
            await store.put("/a", b"one", expected_revision=7)
        assert caught.value.actual is None
        with pytest.raises(ConflictError):
            await store.delete("/a", expected_revision=7)
        assert await store.revision() == 1

    async def test_a_refused_change_leaves_its_neighbours_alone(self, store: Store) -> None:
        calls = [store.put("/a", b"x", expected_revision=0) for _ in range(3)]
        calls += [store.put("/b", b"x"), store.put("/c", b"x", lease=99), store.put("/d", b"x")]
        results = await asyncio.gather(*calls, return_exceptions=True)
        kinds = [type(result) for result in results]
        assert sorted(kind.__name__ for kind in kinds[:3]) == ["ConflictError", "ConflictError", "int"]
        assert kinds[3:] == [int, LeaseNotFoundError, int]
        assert [kv.key for kv in (await store.range("/")).items] == ["/a", "/b", "/d"]
        assert await store.revision() == 4

    async def test_twenty_writers_increment_one_counter(self, store: Store) -> None:
        await store.put("/counter", b"0")
        successes = conflicts = 0

        async def increment() -> None:
            nonlocal successes, conflicts
            for _ in range(50):
                kv = await store.get("/counter")
                assert kv is not None
                try:
                    await store.put("/counter", b"%d" % (int(kv.value) + 1), expected_revision=kv.mod_revision)
                    successes += 1
                except ConflictError:
                    conflicts += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(increment())
        kv = await store.get("/counter")
        assert kv is not None
        assert successes + conflicts == 1000
        assert int(kv.value) == successes > 0
        assert kv.version == successes + 1


class TestRange:
    async def test_only_the_prefix_in_key_order(self, store: Store) -> None:
        for key in ("/b/2", "/a", "/b", "/b/10", "/b/1", "/c"):
            await store.put(key, b"")
        await store.delete("/b/2")
        assert [kv.key for kv in (await store.range("/b/")).items] == ["/b/1", "/b/10"]
        assert [kv.key for kv in (await store.range("/b")).items] == ["/b", "/b/1", "/b/10"]
        assert len((await store.range("")).items) == 5

    async def test_pages_at_one_revision_while_others_write(self, store: Store) -> None:
        for i in range(100):
            await store.put(f"/k/{i:03}", b"old")
        writing = True

        async def write() -> None:
            i = 0
            while writing:
                await store.put(f"/k/{i % 100:03}", b"new")
                await store.put(f"/k/{i % 100:03}/more", b"new")
                if i % 3 == 0:
                    await store.delete(f"/k/{i % 100:03}")
                i += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            page = await store.range("/k/", limit=7)
            items, revision, remaining = list(page.items), page.revision, [page.remaining]
            while page.more:
                page = await store.range("/k/", limit=7, start_after=items[-1].key, revision=revision)
                assert page.revision == revision
                items += page.items
                remaining.append(page.remaining)
            writing = False
        expected = await store.range("/k/", revision=revision)
        assert tuple(items) == expected.items
        assert remaining == [max(0, len(items) - 7 * (n + 1)) for n in range(len(remaining))]

    async def test_the_last_page_says_so(self, store: Store) -> None:
        for key in ("/a", "/b", "/c"):
            await store.put(key, b"")
        first = await store.range("/", limit=2)
        assert ([kv.key for kv in first.items], first.more, first.remaining) == (["/a", "/b"], True, 1)
        exact = await store.range("/", limit=3)
        assert (exact.more, exact.remaining) == (False, 0)
        rest = await store.range("/", limit=2, start_after="/b")
        assert ([kv.key for kv in rest.items], rest.more) == (["/c"], False)
        before = await store.range("/b", start_after="/a")
        assert [kv.key for kv in before.items] == ["/b"]

    async def test_a_negative_limit_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError):
            await store.range("/", limit=-1)


class TestWatch:
    async def test_from_the_past_into_the_present(self, store: Store) -> None:
        await store.put("/w/a", b"one")
        await store.put("/other", b"x")
        await store.put("/w/a", b"two")
        async with store.watch("/w/", from_revision=2) as watch:
            past = await take(watch, 2)
            await store.delete("/w/a")
            await store.put("/w/b", b"three")
            events = past + await take(watch, 2)
        one, two = KeyValue("/w/a", b"one", 2, 2, 1), KeyValue("/w/a", b"two", 2, 4, 2)
        assert events == [
            Event(EventType.PUT, one, None),
            Event(EventType.PUT, two, one),
            Event(EventType.DELETE, KeyValue("/w/a", b"", 0, 5, 0), two),
            Event(EventType.PUT, KeyValue("/w/b", b"three", 6, 6, 1), None),
        ]

    async def test_starts_in_the_middle(self, store: Store) -> None:
        for i in range(10):
            await store.put("/w", b"%d" % i)
        assert [value for _, _, value, _ in await changes(store, "/w", 7, 5)] == [b"5", b"6", b"7", b"8", b"9"]

    async def test_waits_for_a_future_revision(self, store: Store) -> None:
        async with store.watch("", from_revision=5) as watch:
            for i in range(2, 8):
                assert await store.put("/w", b"%d" % i) == i
            assert [event.kv.mod_revision for event in await take(watch, 3)] == [5, 6, 7]

    async def test_resumed_in_a_thousand_writes_sees_each_once_in_order(self, store: Store) -> None:
        async def write() -> None:
            async with asyncio.TaskGroup() as group:
                for writer in range(10):
                    group.create_task(write_part(writer))

        async def write_part(writer: int) -> None:
            for i in range(100):
                await store.put(f"/w/{writer}", b"%d" % i)
                await store.put(f"/quiet/{writer}", b"")

        seen: list[tuple[str, bytes]] = []
        revisions: list[int] = [1]
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            while len(seen) < 1000:
                # dropped after some events, and resumed from the revision after the last one seen
                dropped_at = len(seen) + 130
                async with asyncio.timeout(20), store.watch("/w/", from_revision=revisions[-1] + 1) as watch:
                    async for events in watch:
                        seen += [(event.kv.key, event.kv.value) for event in events]
                        revisions += [event.kv.mod_revision for event in events]
                        if len(seen) >= min(dropped_at, 1000):
                            break
        assert revisions == sorted(set(revisions))
        for writer in range(10):
            assert [v for k, v in seen if k == f"/w/{writer}"] == [b"%d" % i for i in range(100)]

    async def test_a_cancelled_wait_loses_nothing(self, store: Store) -> None:
        async with store.watch("/", from_revision=2) as watch:
            seen: list[Event] = []
            for i in range(50):
                waiting = asyncio.ensure_future(anext(watch))
                await asyncio.sleep(0)
                put = asyncio.ensure_future(store.put("/a", b"%d" % i))
                for _ in range(i % 7):
                    await asyncio.sleep(0)
                waiting.cancel()
                await put
                with suppress(asyncio.CancelledError):
                    seen += await waiting
            seen += await take(watch, 50 - len(seen))
        assert [event.kv.value for event in seen] == [b"%d" % i for i in range(50)]

    async def test_a_watcher_that_stalls_still_sees_everything(self, store: Store) -> None:
        async with store.watch("/w", from_revision=2) as stalled:
            written: dict[int, bytes] = {}
            for i in range(0, 3000, 10):
                values = [b"%d" % (i + n) for n in range(10)]
                written |= zip(await asyncio.gather(*(store.put("/w", v) for v in values)), values, strict=True)
            seen = await take(stalled, 3000)
            assert [(event.kv.mod_revision, event.kv.value) for event in seen] == sorted(written.items())

    async def test_an_open_watch_of_a_quiet_prefix_outlives_compaction(self, store: Store) -> None:
        async with store.watch("/quiet", from_revision=2) as watch:
            waiting = asyncio.ensure_future(take(watch, 1))
            for i in range(50):
                await store.put("/busy", b"%d" % i)
            await store.compact(await store.revision())
            await store.put("/quiet", b"at last")
            assert [event.kv.value for event in await waiting] == [b"at last"]

    async def test_progress_moves_with_the_events_of_others(self, store: Store) -> None:
        async with store.watch("/w/", from_revision=2) as watch:
            assert watch.progress == 1
            await store.put("/w/a", b"")
            await store.put("/other", b"")
            assert watch.progress == 1  # one event has not been handed out
            await take(watch, 1)
            waiting = asyncio.ensure_future(anext(watch))
            await store.put("/other", b"")
            for _ in range(20_000):
                if watch.progress == 4:
                    break
                await asyncio.sleep(0.001)
            assert watch.progress == await store.revision() == 4
            await store.put("/w/b", b"")
            assert [event.kv.key for event in await waiting] == ["/w/b"]
            assert watch.progress == 5

    async def test_many_watchers_see_the_same(self, store: Store) -> None:
        async def watch_all() -> list[tuple[str, str, bytes, int]]:
            return await changes(store, "/w", 2, 100)

        watchers = [asyncio.ensure_future(watch_all()) for _ in range(20)]
        for i in range(100):
            await store.put(f"/w/{i % 7}", b"%d" % i)
        seen = await asyncio.gather(*watchers)
        assert all(events == seen[0] for events in seen)
        assert [value for _, _, value, _ in seen[0]] == [b"%d" % i for i in range(100)]

    async def test_ends_with_the_store(self, store: Store) -> None:
        async with store.watch("/", from_revision=2) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.01)
            await store.close()
            with pytest.raises(StoreClosedError):
                await waiting

    async def test_revision_zero_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError):
            store.watch("/", from_revision=0)


class TestHistory:
    async def test_it_is_what_a_watch_would_have_told(self, store: Store) -> None:
        for i in range(2100):  # more than one portion
            await store.put(f"/{'ab'[i % 2]}/{i % 10}", b"%d" % i)
        await store.delete("/a/0")
        last = await store.put("/b/9", b"end")
        for prefix in ("", "/a/", "/nothing"):
            history = await store.history(prefix, first=2, last=last)
            count = len(history)
            assert count == {"": last - 1, "/a/": 1051, "/nothing": 0}[prefix]
            if count:
                async with store.watch(prefix, from_revision=2) as watch:
                    assert await take(watch, count) == history

    async def test_only_what_was_asked_for(self, store: Store) -> None:
        for i in range(5):
            await store.put("/a", b"%d" % i)  # revisions 2 to 6
        assert [e.kv.value for e in await store.history("/a", first=3, last=5)] == [b"1", b"2", b"3"]
        assert await store.history("/a", first=5, last=4) == []
        [event] = await store.history("/a", first=6, last=6)
        assert event.prev_kv == KeyValue("/a", b"3", 2, 5, 4)

    async def test_what_is_forgotten_and_what_has_not_happened(self, store: Store) -> None:
        for i in range(5):
            await store.put("/a", b"%d" % i)
        await store.compact(4)
        with pytest.raises(CompactedError):
            await store.history("/a", first=3, last=6)
        assert len(await store.history("/a", first=4, last=6)) == 3
        with pytest.raises(FutureRevisionError):
            await store.history("/a", first=4, last=7)


class TestCompaction:
    async def test_history_is_gone_and_the_present_stays(self, store: Store) -> None:
        await store.put("/gone", b"x")
        await store.put("/a", b"one")
        await store.put("/a", b"two")
        await store.put("/b", b"one")
        await store.delete("/gone")  # revision 6
        await store.put("/a", b"three")
        await store.compact(6)
        for revision in (1, 4):  # an engine may keep 5
            with pytest.raises(CompactedError) as caught:
                await store.range("/", revision=revision)
            assert (caught.value.revision, caught.value.compact_revision) == (revision, 6)
            with pytest.raises(CompactedError):
                await store.get("/a", revision=revision)
        assert [(kv.key, kv.value) for kv in (await store.range("/", revision=6)).items] == [
            ("/a", b"two"),
            ("/b", b"one"),
        ]
        kv = await store.get("/a")
        assert kv == KeyValue("/a", b"three", create_revision=3, mod_revision=7, version=3)

    async def test_a_watch_from_forgotten_history_is_refused(self, store: Store) -> None:
        for i in range(10):
            await store.put("/a", b"%d" % i)
        await store.compact(8)
        for prefix in ("/a", "/nothing", ""):
            async with store.watch(prefix, from_revision=7) as watch:
                with pytest.raises(CompactedError) as caught:
                    await anext(watch)
                assert caught.value.compact_revision == 8
        assert [revision for *_, revision in await changes(store, "/a", 8, 4)] == [8, 9, 10, 11]

    async def test_a_deletion_at_the_compacted_revision_is_still_seen(self, store: Store) -> None:
        await store.put("/a", b"x")
        deleted = (await store.delete("/a")).revision
        await store.put("/b", b"x")
        await store.compact(deleted)
        assert [(kind, revision) for kind, _, _, revision in await changes(store, "/a", deleted, 1)] == [
            ("DELETE", deleted)
        ]
        await store.compact(deleted + 1)
        assert [kv.key for kv in (await store.range("/")).items] == ["/b"]

    async def test_the_previous_value_after_compaction_is_known(self, store: Store) -> None:
        await store.put("/a", b"one")
        await store.put("/b", b"other")
        await store.compact(3)
        await store.put("/a", b"two")
        async with store.watch("/a", from_revision=4) as watch:
            [event] = await take(watch, 1)
        assert event.prev_kv == KeyValue("/a", b"one", 2, 2, 1)

    async def test_a_stalled_watcher_that_was_overtaken_is_told(self, store: Store) -> None:
        async with store.watch("/a", from_revision=2) as watch:
            await store.put("/a", b"first")
            await take(watch, 1)
            for _ in range(300):
                await asyncio.gather(*(store.put("/a", bytes(4000)) for _ in range(10)))
            await store.compact(await store.revision())
            with pytest.raises(CompactedError):
                async for _ in watch:
                    pass

    async def test_compacting_again_or_backward_changes_nothing(self, store: Store) -> None:
        for i in range(5):
            await store.put("/a", b"%d" % i)
        await store.compact(4)
        await store.compact(4)
        await store.compact(2)
        assert (await store.range("/", revision=4)).revision == 4
        with pytest.raises(CompactedError):
            await store.range("/", revision=2)

    async def test_the_future_cannot_be_compacted(self, store: Store) -> None:
        with pytest.raises(FutureRevisionError):
            await store.compact(2)

    async def test_the_revision_survives_the_deletion_and_compaction_of_everything(self, open_store: Opener) -> None:
        store = await open_store()
        await store.put("/a", b"x")
        last = (await store.delete("/a")).revision
        await store.compact(last)
        await store.close()
        store = await open_store()
        assert await store.revision() == last
        assert (await store.range("")).revision == last
        assert await store.put("/a", b"x") == last + 1

    async def test_writes_go_on_meanwhile(self, store: Store) -> None:
        for _ in range(200):
            await asyncio.gather(*(store.put(f"/{n}", b"x" * 500) for n in range(10)))
        compaction = asyncio.ensure_future(store.compact(await store.revision()))
        revisions = [await store.put("/during", b"x") for _ in range(20)]
        await compaction
        assert revisions == list(range(2002, 2022))
        assert len((await store.range("/")).items) == 11


class TestLeases:
    async def test_expiry_deletes_the_keys_as_ordinary_revisions(self, store: Store) -> None:
        lease = await store.grant_lease(3)  # long enough for the three puts, however busy the machine is
        await store.put("/l/a", b"x", lease=lease)
        await store.put("/l/b", b"x", lease=lease)
        await store.put("/stays", b"x")
        kv = await store.get("/l/a")
        assert kv is not None
        assert kv.lease == lease
        events = await changes(store, "/l/", 2, 4)  # the deletions may be one revision
        assert sorted((kind, key) for kind, key, _, _ in events[2:]) == [("DELETE", "/l/a"), ("DELETE", "/l/b")]
        assert [kv.key for kv in (await store.range("/")).items] == ["/stays"]
        with pytest.raises(LeaseNotFoundError) as caught:
            await store.keepalive(lease)
        assert caught.value.lease == lease

    async def test_keepalive_puts_it_off(self, store: Store) -> None:
        lease = await store.grant_lease(4)
        await store.put("/a", b"x", lease=lease)
        for _ in range(5):
            await asyncio.sleep(1)
            assert await store.keepalive(lease) == 4
        assert await store.get("/a") is not None

    async def test_revoke_ends_it_now(self, store: Store) -> None:
        lease = await store.grant_lease(3600)
        other = await store.grant_lease(3600)
        assert lease != other
        await store.put("/a", b"x", lease=lease)
        await store.put("/b", b"x", lease=lease)
        await store.put("/b", b"taken from the lease")
        await store.put("/c", b"x", lease=lease)
        await store.put("/c", b"taken by another", lease=other)
        await store.put("/d", b"x", lease=lease)
        await store.delete("/d")
        await store.put("/d", b"made anew")
        await store.revoke(lease)
        assert [kv.key for kv in (await store.range("/")).items] == ["/b", "/c", "/d"]
        for call in (store.revoke(lease), store.keepalive(lease), store.put("/e", b"", lease=lease)):
            with pytest.raises(LeaseNotFoundError):
                await call

    async def test_survives_a_restart(self, open_store: Opener) -> None:
        store = await open_store()
        lease = await store.grant_lease(3600)
        await store.put("/a", b"x", lease=lease)
        await store.close()
        store = await open_store()
        assert await store.keepalive(lease) == 3600
        assert await store.grant_lease(5) != lease
        await store.revoke(lease)
        assert await store.get("/a") is None

    async def test_needs_a_time_to_live(self, store: Store) -> None:
        with pytest.raises(ValueError):
            await store.grant_lease(0)


class TestLife:
    async def test_everything_is_there_after_reopening(self, open_store: Opener) -> None:
        store = await open_store()
        for i in range(20):
            await store.put(f"/{i % 4}", b"%d" % i)
        await store.delete("/0")
        await store.compact(10)
        before = await store.range("/")
        await store.close()
        store = await open_store()
        assert await store.range("/") == before
        assert [revision for *_, revision in await changes(store, "", 11, 12)] == list(range(11, 23))
        with pytest.raises(CompactedError):
            await store.range("/", revision=8)

    async def test_close_finishes_what_was_begun(self, open_store: Opener) -> None:
        store = await open_store()
        puts = [asyncio.ensure_future(store.put(f"/{i}", b"x")) for i in range(100)]
        await asyncio.sleep(0)
        await store.close()
        assert sorted(await asyncio.gather(*puts)) == list(range(2, 102))
        store = await open_store()
        assert len((await store.range("/")).items) == 100

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        await store.close()
        await store.close()
        calls = [store.get("/a"), store.range("/"), store.put("/a", b""), store.delete("/a"), store.revision()]
        calls += [store.compact(1), store.grant_lease(1), store.keepalive(1), store.revoke(1)]
        for call in calls:
            with pytest.raises(StoreClosedError):
                await call

    async def test_a_cancelled_caller_does_not_hinder_others(self, store: Store) -> None:
        puts = [asyncio.ensure_future(store.put(f"/{i}", b"x")) for i in range(50)]
        await asyncio.sleep(0)
        for put in puts[::2]:
            put.cancel()
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert all(isinstance(result, int) for result in results[1::2])
        revision = await store.put("/after", b"x")
        assert [r for *_, r in await changes(store, "", 2, revision - 1)] == list(range(2, revision + 1))
