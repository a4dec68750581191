"""The database file: its tables, how they came to be, and how connections to it are set up.

The tables change only by appending to `MIGRATIONS`; what has been released there is frozen. The number of migrations
applied is the schema's version and stands in the file (`user_version`), beside a mark that says whose file it is
(`application_id`). Both are looked at through a read-only connection before anything is written, so a file of another
version or another program is refused untouched.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from control.store.errors import SchemaError

APPLICATION_ID = 0x6B746F6C  # "ktol"

# One migration is the list of statements that leads from version i to i + 1.
#
# `log` is the whole truth: one row per revision, only ever appended, removed only by compaction. `version` 0 marks a
# deletion. `prev_rev` is the row that this one supersedes (0: none), which makes the previous value of an event and
# the victims of a compaction single look-ups. The key index carries `version`, so that finding what exists at a
# revision reads the index only.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE log(
            rev INTEGER PRIMARY KEY,
            key BLOB NOT NULL,
            create_rev INTEGER NOT NULL,
            version INTEGER NOT NULL,
            prev_rev INTEGER NOT NULL,
            lease INTEGER NOT NULL,
            value BLOB NOT NULL
        )""",
        "CREATE INDEX log_key ON log(key, rev, version)",
        "CREATE INDEX log_lease ON log(lease, key) WHERE lease != 0",
        # AUTOINCREMENT: the id of a lease that has ended is never given to another one
        "CREATE TABLE lease(id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_seconds INTEGER NOT NULL)",
        "CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counter VALUES ('compact_revision', 0), ('reclaimed_revision', 0)",
    ),
)

_WRITER_CACHE_KIB = 2048
_READER_CACHE_KIB = 512
_CHECKPOINT_PAGES = 2000  # about 8 MiB of write-ahead log
_BUSY_SECONDS = 5.0  # somebody may look at the file with the sqlite3 shell


def connect_writer(path: Path, *, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> sqlite3.Connection:
    """The one connection that writes, to a file that is created (mode 0600) or migrated as needed.

    Commits are synced to disk before they return. Raises `SchemaError` for a file that is not ours or is of a newer
    version, `sqlite3.Error` or `OSError` when it cannot be used.
    """
    fresh = _create(path)
    if not fresh:
        _inspect(path, len(migrations))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
    try:
        # Only before the first table: compaction can then give pages back a few at a time.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={2 * _CHECKPOINT_PAGES * 4096}")
        connection.execute(f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}")
        _migrate(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. It may move between threads, used by one at a time."""
    connection = _connect_read_only(path)
    connection.execute(f"PRAGMA cache_size=-{_READER_CACHE_KIB}")
    return connection


def _connect_read_only(path: Path, options: str = "") -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_SECONDS,
    )


def _create(path: Path) -> bool:
    """Make sure that the file exists and is the owner's only; true if it is empty."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(fd, 0o600)
        empty = os.fstat(fd).st_size == 0
    finally:
        os.close(fd)
    if empty:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the new file's name must survive a power loss as its content does
        finally:
            os.close(directory)
    return empty


def _inspect(path: Path, wanted: int) -> None:
    """Raise `SchemaError` unless the file is ours, of version `wanted` or one that migrates to it."""
    # Without a write-ahead log beside it nothing changes the file, and then not even the files that readers share are
    # made.
    unused = not path.with_name(path.name + "-wal").exists()
    connection = _connect_read_only(path, "&immutable=1" if unused else "")
    try:
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):  # "file is not a database", "malformed"
            raise SchemaError(
                f"{path} is not a store",
                found=str(error),
                wanted="a store made by ktool",
                mend="Restore it from a backup, or move it away to start with an empty cluster",
            ) from error
        raise
    finally:
        connection.close()
    if not tables and owner in (0, APPLICATION_ID) and version == 0:
        return  # created, but its first migration never committed
    if owner != APPLICATION_ID:
        raise SchemaError(
            f"{path} is not a store",
            found=f"a database of another program (application id {owner:#x})",
            wanted="a store made by ktool",
            mend="Give the master a data directory of its own",
        )
    if not 0 < version <= wanted:
        raise SchemaError(
            f"the store {path} was written by another version of ktool",
            found=f"schema version {version}",
            wanted=f"schema version {wanted} or older",
            mend="Run the version of ktool that wrote it (or a newer one), or move the file away to start empty",
        )


def _migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
