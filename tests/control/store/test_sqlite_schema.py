"""The file of the SQLite store: how it is made, migrated and refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from control.store.errors import SchemaError, StoreUnavailableError
from control.store.sqlite import SqliteStore
from control.store.sqlite.schema import APPLICATION_ID, MIGRATIONS, connect_reader, connect_writer
from kube.errors import KtoolError


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def open_and_close(path: Path) -> None:
    async def run() -> None:
        await (await SqliteStore.open(path)).close()

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_a_new_file_is_durable_and_private(path: Path) -> None:
    connection = connect_writer(path)
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "synchronous") == 2  # FULL: each commit is synced
    assert pragma(connection, "auto_vacuum") == 2  # incremental
    assert pragma(connection, "application_id") == APPLICATION_ID
    assert pragma(connection, "user_version") == len(MIGRATIONS)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        "state.db": 0o600,
        "state.db-wal": 0o600,
        "state.db-shm": 0o600,
    }
    connection.close()


def test_a_readable_file_becomes_private(path: Path) -> None:
    connect_writer(path).close()
    path.chmod(0o644)
    connect_writer(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_cannot_write(path: Path) -> None:
    writer = connect_writer(path)
    reader = connect_reader(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM log")
    reader.close()
    writer.close()


def test_the_directory_is_made_and_private(tmp_path: Path) -> None:
    open_and_close(tmp_path / "data" / "store" / "state.db")
    assert (tmp_path / "data" / "store").stat().st_mode & 0o077 == 0


def test_another_version_is_refused_untouched(path: Path) -> None:
    connect_writer(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(KtoolError) as caught:
        open_and_close(path)
    assert str(path) in caught.value.what
    assert caught.value.found == "schema version 99"
    assert caught.value.wanted == f"schema version {len(MIGRATIONS)} or older"
    assert "version of ktool" in caught.value.mend
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"state.db", "state.db.lock"}
    with pytest.raises(SchemaError):  # and the lock was let go
        open_and_close(path)


def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="another program"):
        open_and_close(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 100, b"short"])
def test_what_is_no_database_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SchemaError, match="is not a store"):
        open_and_close(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_hold_a_file_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailableError):
        open_and_close(path)
    with pytest.raises(StoreUnavailableError):
        open_and_close(Path("/dev/null/state.db"))


@pytest.mark.parametrize("interrupted", ["empty", "header"])
async def test_a_creation_that_was_interrupted_is_finished(path: Path, interrupted: str) -> None:
    if interrupted == "empty":
        os.close(os.open(path, os.O_CREAT, 0o600))
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    store = await SqliteStore.open(path)
    assert await store.put("/a", b"x") == 2
    await store.close()


def test_an_older_version_is_migrated_with_what_it_holds(path: Path) -> None:
    connection = connect_writer(path)
    connection.execute("INSERT INTO log VALUES(2, 'k', 2, 1, 0, 0, 'v')")
    connection.close()
    newer = (*MIGRATIONS, ("ALTER TABLE log ADD COLUMN extra INTEGER NOT NULL DEFAULT 7",))
    connection = connect_writer(path, migrations=newer)
    assert pragma(connection, "user_version") == len(MIGRATIONS) + 1
    assert connection.execute("SELECT rev, extra FROM log").fetchall() == [(2, 7)]
    connection.close()
    with pytest.raises(SchemaError):
        connect_writer(path)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    connect_writer(path).close()
    newer = (*MIGRATIONS, ("CREATE TABLE more(x)", "CREATE NONSENSE"))
    with pytest.raises(sqlite3.OperationalError):
        connect_writer(path, migrations=newer)
    connection = connect_writer(path)
    assert pragma(connection, "user_version") == len(MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    connection.close()
