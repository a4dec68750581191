"""Leases on virtual time: the deadlines as data, and the store's timer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.store.errors import LeaseNotFoundError
from control.store.sqlite import SqliteStore
from control.store.sqlite.leases import LeaseDeadlines
from kube.clock import VirtualClock


class TestLeaseDeadlines:
    def test_the_earliest_comes_first(self) -> None:
        leases = LeaseDeadlines()
        leases.add(1, 30, now=0)
        leases.add(2, 10, now=0)
        leases.add(3, 20, now=5)
        assert leases.next_deadline() == 10
        assert leases.expire(9.9) == []
        assert leases.expire(25) == [2, 3]
        assert leases.next_deadline() == 30
        assert leases.expire(30) == [1]
        assert leases.next_deadline() is None

    def test_renewing_moves_the_deadline(self) -> None:
        leases = LeaseDeadlines()
        leases.add(1, 10, now=0)
        assert leases.renew(1, now=7) == 10
        assert leases.expire(10) == []
        assert leases.next_deadline() == 17
        assert leases.expire(17) == [1]
        assert leases.renew(1, now=17) is None

    def test_a_removed_one_never_expires(self) -> None:
        leases = LeaseDeadlines()
        leases.add(1, 10, now=0)
        leases.remove(1)
        leases.remove(1)
        assert leases.next_deadline() is None
        assert leases.renew(1, now=0) is None

    def test_a_postponed_one_comes_up_again_but_does_not_live(self) -> None:
        leases = LeaseDeadlines()
        leases.add(1, 10, now=0)
        assert leases.expire(10) == [1]
        leases.postpone(1, until=15)
        assert leases.renew(1, now=11) is None
        assert leases.expire(15) == [1]

    def test_leases_that_end_early_do_not_pile_up(self) -> None:
        leases = LeaseDeadlines()
        for lease in range(1, 1001):
            leases.add(lease, 3600, now=lease)
            leases.remove(lease)
        assert len(leases._queue) < 50

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("add"), st.integers(1, 9), st.integers(1, 20)),
                st.tuples(st.just("renew"), st.integers(1, 9), st.just(0)),
                st.tuples(st.just("remove"), st.integers(1, 9), st.just(0)),
                st.tuples(st.just("wait"), st.integers(1, 9), st.just(0)),
            )
        )
    )
    def test_as_a_plain_map_of_deadlines(self, steps: list[tuple[str, int, int]]) -> None:
        leases, model, now = LeaseDeadlines(), dict[int, tuple[int, int]](), 0
        for step, lease, ttl in steps:
            match step:
                case "add" if lease not in model:
                    leases.add(lease, ttl, now=now)
                    model[lease] = (now + ttl, ttl)
                case "renew":
                    assert leases.renew(lease, now=now) == (model[lease][1] if lease in model else None)
                    if lease in model:
                        model[lease] = (now + model[lease][1], model[lease][1])
                case "remove":
                    leases.remove(lease)
                    model.pop(lease, None)
                case "wait":
                    now += lease
                    due = sorted((deadline, n) for n, (deadline, _) in model.items() if deadline <= now)
                    assert leases.expire(now) == [n for _, n in due]
                    for _, n in due:
                        del model[n]
            assert leases.next_deadline() == min((deadline for deadline, _ in model.values()), default=None)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    yield store
    await store.close()


async def deletion(store: SqliteStore, prefix: str, from_revision: int) -> int:
    """The revision of the next event, which is a deletion."""
    async with asyncio.timeout(10), store.watch(prefix, from_revision=from_revision) as watch:
        [event] = await anext(watch)
        assert event.type.value == "DELETE"
        return event.kv.mod_revision


async def test_a_lease_lives_exactly_its_time(store: SqliteStore, clock: VirtualClock) -> None:
    lease = await store.grant_lease(60)
    revision = await store.put("/a", b"x", lease=lease)
    await clock.advance(59.9)
    assert await store.keepalive(lease) == 60
    await clock.advance(59.9)
    assert await store.get("/a") is not None
    await clock.advance(0.2)
    assert await deletion(store, "/a", revision + 1) == revision + 1
    with pytest.raises(LeaseNotFoundError):
        await store.put("/b", b"x", lease=lease)


async def test_a_shorter_lease_that_comes_later_ends_earlier(store: SqliteStore, clock: VirtualClock) -> None:
    long, short = await store.grant_lease(3600), await store.grant_lease(10)
    await store.put("/long", b"x", lease=long)
    await store.put("/short", b"x", lease=short)
    await clock.advance(10)
    assert await deletion(store, "/", 4) == 4
    assert await store.get("/long") is not None
    await clock.advance(3590)
    assert await deletion(store, "/", 5) == 5


async def test_a_restart_gives_leases_their_full_time_again(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "state.db"
    store = await SqliteStore.open(path, clock=clock)
    lease = await store.grant_lease(60)
    await store.put("/a", b"x", lease=lease)
    await clock.advance(50)
    await store.close()
    await clock.advance(1000)
    store = await SqliteStore.open(path, clock=clock)
    await clock.advance(59)
    assert await store.get("/a") is not None
    await clock.advance(1)
    assert await deletion(store, "/a", 3) == 3
    await store.close()


async def test_without_leases_nothing_waits(store: SqliteStore, clock: VirtualClock) -> None:
    assert clock.sleepers == 0
    lease = await store.grant_lease(60)
    await clock.settle()
    assert clock.sleepers == 1
    await store.revoke(lease)
    await clock.advance(60)
    assert clock.sleepers == 0
