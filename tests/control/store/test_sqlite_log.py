"""The log in SQL: what compaction leaves, what it gives back, and that the queries use their indexes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.store.errors import CompactedError
from control.store.sqlite import SqliteStore, log
from control.store.sqlite.log import Transaction
from control.store.sqlite.schema import connect_writer


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect_writer(tmp_path / "state.db")
    yield connection
    connection.close()


def transaction(connection: sqlite3.Connection) -> Transaction:
    return Transaction(connection, log.current_revision(connection))


def write(connection: sqlite3.Connection, script: str) -> None:
    """`a b -a` puts a, puts b, deletes a."""
    changes = transaction(connection)
    for word in script.split():
        if word.startswith("-"):
            changes.delete(word[1:], expected_revision=None)
        else:
            changes.put(word, b"x", expected_revision=None, lease=0)


def rows(connection: sqlite3.Connection) -> list[int]:
    return [revision for (revision,) in connection.execute("SELECT rev FROM log ORDER BY rev")]


@pytest.mark.parametrize(
    ("script", "compactions", "left"),
    [
        ("a a a", [4], [4]),
        ("a a a", [3], [3, 4]),
        ("a b a b", [4], [3, 4, 5]),
        ("a -a", [3], [3]),  # the deletion at the compacted revision itself stays
        ("a -a b", [3], [3, 4]),
        ("a -a b", [3, 4], [4]),  # and goes with the next compaction
        ("a -a a", [4], [4]),
        ("a -a a -a b", [6], [6]),
        ("a b -b a", [2, 3, 4, 5], [5]),
    ],
)
@pytest.mark.parametrize("span", [1, 2, 100])
def test_what_compaction_leaves(
    connection: sqlite3.Connection, script: str, compactions: list[int], left: list[int], span: int
) -> None:
    write(connection, script)
    for revision in compactions:
        transaction(connection).compact(revision)
        while not transaction(connection).reclaim(span):
            pass
    assert rows(connection) == left
    assert log.current_revision(connection) == len(script.split()) + 1


def test_a_compaction_that_was_interrupted_is_finished_by_the_next(connection: sqlite3.Connection) -> None:
    write(connection, "a a a a a a")
    transaction(connection).compact(6)
    assert not transaction(connection).reclaim(3)
    assert rows(connection) == [3, 4, 5, 6, 7]
    transaction(connection).compact(6)
    assert not transaction(connection).reclaim(2)
    assert transaction(connection).reclaim(2)
    assert transaction(connection).reclaim(2)  # nothing left to do
    assert rows(connection) == [6, 7]


def test_history_before_the_compacted_revision_is_refused(connection: sqlite3.Connection) -> None:
    write(connection, "a a a a")
    transaction(connection).compact(4)
    with pytest.raises(CompactedError):
        log.read_history(connection, "", 3, 5)
    events, upto = log.read_history(connection, "", 4, 5)
    assert ([event.kv.mod_revision for event in events], upto) == ([4, 5], 5)


async def test_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = await SqliteStore.open(path)
    for _ in range(40):
        await asyncio.gather(*(store.put(f"/{n}", bytes(5000)) for n in range(100)))
    await store.close()
    full = path.stat().st_size
    store = await SqliteStore.open(path)
    await store.compact(await store.revision())
    await store.close()
    assert path.stat().st_size < full / 5
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_no_query_scans_the_log(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    write(connection, "a b -b")
    changes = transaction(connection)
    lease = changes.grant(60)
    changes.put("a", b"x", expected_revision=None, lease=lease)
    log.read_key(connection, "a", 0)
    log.read_range(connection, "a", start_after="", limit=1, revision=0)
    log.read_history(connection, "a", 2, 3)
    changes.revoke(lease)
    changes.compact(3)
    changes.reclaim(100)
    connection.set_trace_callback(None)
    plans = {
        statement: [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        for statement in set(statements)
        if statement.startswith(("SELECT", "DELETE"))
    }
    assert len(plans) > 10
    scans = [(statement, step) for statement, steps in plans.items() for step in steps if step.startswith("SCAN")]
    assert [step for _, step in scans if step not in ("SCAN found", "SCAN (subquery-2)")] == []
