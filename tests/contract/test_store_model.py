"""The store's contract once more: whatever is called in whatever order, it behaves as a plain list of events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from control.store.errors import CompactedError, ConflictError, FutureRevisionError, KeyNotFoundError
from control.store.store import DeleteResult, Event, EventType, KeyValue, Store
from tests.contract.store_engines import ENGINES, Engine, running, take

T = TypeVar("T")

KEYS = st.sampled_from(["/a", "/a/1", "/a/2", "/b", "/ab"])
PREFIXES = st.sampled_from(["", "/", "/a", "/a/", "/b", "/none"])


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls, compared with a list of events kept beside the store."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = engine
        self.directory = directory
        self.store = self.run(self.open())
        self.events: list[Event] = []
        self.revision = 1
        self.compacted = 0
        self.leases: set[int] = set()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    async def open(self) -> Store:
        return await self.engine(self.directory)

    def state(self, revision: int) -> dict[str, KeyValue]:
        keys: dict[str, KeyValue] = {}
        for event in self.events:
            if event.kv.mod_revision > revision:
                break
            if event.type is EventType.PUT:
                keys[event.kv.key] = event.kv
            else:
                del keys[event.kv.key]
        return dict(sorted(keys.items()))

    def happened(
        self, kind: EventType, key: str, value: bytes = b"", lease: int = 0, *, revision: int | None = None
    ) -> None:
        old = self.state(self.revision).get(key)
        self.revision = revision = revision or self.revision + 1
        if kind is EventType.DELETE:
            kv = KeyValue(key, b"", 0, revision, 0)
        else:
            kv = KeyValue(
                key, value, old.create_revision if old else revision, revision, old.version + 1 if old else 1, lease
            )
        self.events.append(Event(kind, kv, old))

    @rule(key=KEYS, value=st.binary(max_size=4), guess=st.sampled_from(["any", "none", "right", "wrong"]))
    def put(self, key: str, value: bytes, guess: str) -> None:
        old = self.state(self.revision).get(key)
        actual = old.mod_revision if old else 0
        expected = {"any": None, "none": 0, "right": actual, "wrong": actual + 1}[guess]
        call = self.store.put(key, value, expected_revision=expected)
        if expected in (None, actual):
            assert self.run(call) == self.revision + 1
            self.happened(EventType.PUT, key, value)
        else:
            with pytest.raises(ConflictError) as caught:
                self.run(call)
            assert caught.value.actual == old

    @rule(key=KEYS, exact=st.booleans())
    def delete(self, key: str, exact: bool) -> None:
        old = self.state(self.revision).get(key)
        call = self.store.delete(key, expected_revision=old.mod_revision if old and exact else None)
        if old is None:
            with pytest.raises(KeyNotFoundError):
                self.run(call)
        else:
            assert self.run(call) == DeleteResult(self.revision + 1, old)
            self.happened(EventType.DELETE, key)

    @rule(prefix=PREFIXES, after=st.one_of(st.just(""), KEYS), limit=st.integers(0, 3), data=st.data())
    def range(self, prefix: str, after: str, limit: int, data: st.DataObject) -> None:
        revision = data.draw(st.integers(0, self.revision + 1))
        call = self.store.range(prefix, start_after=after, limit=limit, revision=revision)
        if revision > self.revision:
            with pytest.raises(FutureRevisionError):
                self.run(call)
        elif revision and revision == self.compacted - 1:
            with suppress(CompactedError):  # an engine may keep this one
                self.run(call)
        elif 0 < revision < self.compacted:
            with pytest.raises(CompactedError):
                self.run(call)
        else:
            page = self.run(call)
            state = self.state(revision or self.revision)
            items = [kv for key, kv in state.items() if key.startswith(prefix) and key > after]
            shown = items[:limit] if limit else items
            assert list(page.items) == shown
            assert (page.revision, page.remaining) == (revision or self.revision, len(items) - len(shown))
            assert page.more == (page.remaining > 0)

    @rule(prefix=PREFIXES, data=st.data())
    def watch(self, prefix: str, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, self.revision))
        if first == 1 and self.compacted == 2:
            return  # nothing ever happened at revision 1: an engine may not mind
        wanted = [e for e in self.events if e.kv.mod_revision >= first and e.kv.key.startswith(prefix)]

        async def seen() -> list[Event]:
            async with self.store.watch(prefix, from_revision=first) as watch:
                if first < self.compacted:
                    with pytest.raises(CompactedError):
                        await anext(watch)
                    return wanted
                return await take(watch, len(wanted))

        events = self.run(seen())
        assert [(e.type, e.kv) for e in events] == [(e.type, e.kv) for e in wanted]
        later = [e for e in events if e.kv.mod_revision > self.compacted]
        assert later == [e for e in wanted if e.kv.mod_revision > self.compacted]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        revision = data.draw(st.integers(1, self.revision))
        self.run(self.store.compact(revision))
        self.compacted = max(self.compacted, revision)

    @rule()
    def grant(self) -> None:
        lease = self.run(self.store.grant_lease(3600))
        assert lease not in self.leases
        self.leases.add(lease)

    @precondition(lambda self: self.leases)
    @rule(key=KEYS, data=st.data())
    def put_with_lease(self, key: str, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        assert self.run(self.store.put(key, b"leased", lease=lease)) == self.revision + 1
        self.happened(EventType.PUT, key, b"leased", lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        self.leases.remove(lease)
        self.run(self.store.revoke(lease))
        tied = [key for key, kv in self.state(self.revision).items() if kv.lease == lease]
        before, now = self.revision, self.run(self.store.revision())
        # all in one revision, or each in its own
        assert now - before in ((0,) if not tied else (1, len(tied)))
        together = now == before + 1
        for key in tied:
            self.happened(EventType.DELETE, key, revision=now if together else None)

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())

    @invariant()
    def revision_is_known(self) -> None:
        assert self.run(self.store.revision()) == self.revision

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_any_sequence_of_calls_behaves_as_a_list_of_events(engine: str, tmp_path: Path) -> None:
    runs = iter(range(1_000_000))
    with running(engine) as open_engine:

        def machine() -> StoreMachine:
            return StoreMachine(open_engine, tmp_path / str(next(runs)))

        run_state_machine_as_test(
            cast(type[RuleBasedStateMachine], machine),  # it is only called
            settings=settings(
                database=None,
                max_examples=25 if engine != "etcd" else 10,  # each has an etcd of its own
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
