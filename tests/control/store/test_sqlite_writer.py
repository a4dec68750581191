"""The writer's thread: group commit, failures of the engine, and the end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from control.store.errors import LeaseNotFoundError, StoreClosedError, StoreUnavailableError, ValueTooLargeError
from control.store.sqlite import SqliteStore, schema
from control.store.sqlite.log import Transaction, latest
from control.store.sqlite.schema import connect_writer
from control.store.sqlite.writer import Writer
from control.store.store import Event, EventType
from kube.clock import VirtualClock


class Observed(sqlite3.Connection):
    """A real connection that counts commits, and fails on order."""

    commits = 0
    broken: tuple[str, ...] = ()

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        if sql in self.broken:
            raise sqlite3.OperationalError("disk I/O error")
        self.commits += sql == "COMMIT"
        return super().execute(sql, *parameters)  # type: ignore[arg-type]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Observed]:
    path = tmp_path / "state.db"
    connect_writer(path).close()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Observed)
    yield connection
    connection.close()


class Listener:
    """What a writer tells its owner."""

    def __init__(self) -> None:
        self.revisions: list[int] = []
        self.failed = False

    def publish(self, events: Sequence[Event]) -> None:
        self.revisions += [event.kv.mod_revision for event in events]

    def fail(self) -> None:
        self.failed = True


def put(writer: Writer, key: str) -> asyncio.Future[int]:
    return writer.submit(lambda transaction: transaction.put(key, b"x", expected_revision=None, lease=0))


class Blocked:
    """Keeps a writer's thread in one change, so that what follows has to wait, until `release`."""

    def __init__(self, writer: Writer) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._released = asyncio.Event()
        self._change = writer.submit(self._block)

    def _block(self, transaction: Transaction) -> None:
        self._loop.call_soon_threadsafe(self._begun.set)
        asyncio.run_coroutine_threadsafe(self._released.wait(), self._loop).result(10)

    async def begun(self) -> None:
        await self._begun.wait()

    async def release(self) -> None:
        self._released.set()
        await self._change


async def test_what_waits_is_committed_together(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    blocked = Blocked(writer)
    await blocked.begun()
    puts = [put(writer, f"/{i}") for i in range(1000)]
    await blocked.release()
    assert await asyncio.gather(*puts) == list(range(2, 1002))
    assert connection.commits == 3  # the one that blocked, then 512 and 488
    assert listener.revisions == list(range(2, 1002))
    await writer.stop()


async def test_stopping_finishes_what_waits(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    blocked = Blocked(writer)
    await blocked.begun()
    puts = [put(writer, f"/{i}") for i in range(10)]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(writer.stop())
        group.create_task(blocked.release())
    assert [await future for future in puts] == list(range(2, 12))
    with pytest.raises(StoreClosedError):
        put(writer, "/later")


async def test_events_are_told_before_the_result(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    assert await put(writer, "/a") == 2
    assert listener.revisions == [2]
    await writer.stop()


async def test_nothing_is_told_before_the_commit(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    connection.broken = ("COMMIT",)
    results = await asyncio.gather(*(put(writer, f"/{i}") for i in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    assert "disk I/O error" in str(results[0])
    assert listener.revisions == []
    assert latest(connection, "/0") is None
    connection.broken = ()
    assert await put(writer, "/a") == 2  # the failed ones took no revision
    assert listener.revisions == [2]
    await writer.stop()


async def test_a_thread_that_cannot_go_on_tells_everybody(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    connection.broken = ("COMMIT", "ROLLBACK")
    puts = [put(writer, f"/{i}") for i in range(1000)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert {type(result) for result in results} == {StoreClosedError}
    assert listener.failed
    with pytest.raises(StoreClosedError, match="disk I/O error"):
        put(writer, "/later")
    await writer.stop()


async def test_a_change_with_a_fault_spoils_its_transaction_only(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)

    def faulty(transaction: Transaction) -> None:
        transaction.put("/half", b"x", expected_revision=None, lease=0)
        raise TypeError("a programming error")

    with pytest.raises(StoreUnavailableError, match="a programming error"):
        await writer.submit(faulty)
    assert latest(connection, "/half") is None
    assert await put(writer, "/a") == 2
    await writer.stop()


async def test_a_value_that_sqlite_cannot_hold_is_refused_alone(connection: Observed) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    big = writer.submit(lambda transaction: transaction.put("/big", bytes(20_000), expected_revision=None, lease=0))
    results = await asyncio.gather(put(writer, "/a"), big, put(writer, "/b"), return_exceptions=True)
    assert [type(result) for result in results] == [int, ValueTooLargeError, int]
    await writer.stop()


async def test_what_is_committed_is_known_even_if_the_caller_has_left(connection: Observed) -> None:
    listener = Listener()
    writer = Writer(connection, publish=listener.publish, failed=listener.fail)
    known: list[int] = []
    future = writer.submit(lambda transaction: transaction.grant(60), committed=known.append)
    future.cancel()
    await put(writer, "/a")
    assert known == [1]
    await writer.stop()


async def test_an_expired_lease_is_ended_once_the_disk_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "_BUSY_SECONDS", 0.05)
    clock = VirtualClock()
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    lease = await store.grant_lease(60)
    await store.put("/a", b"x", lease=lease)
    blocker = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # nobody else can write now
    await clock.advance(60)
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.put("/b", b"x")  # queued behind the end of the lease, so that has failed too
    assert "trying again" in caplog.text
    with pytest.raises(LeaseNotFoundError):
        await store.keepalive(lease)
    blocker.execute("ROLLBACK")
    blocker.close()
    await clock.advance(5)
    async with asyncio.timeout(10), store.watch("/a", from_revision=3) as watch:
        [event] = await anext(watch)
    assert event.type is EventType.DELETE
    await store.close()
