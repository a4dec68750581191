"""The log in SQL: what a transaction may do to it, and how it is read.

Everything here runs in the thread that owns the connection it is given and knows nothing of the event loop. Rows are
never changed, so whoever reads at a revision sees the same rows until compaction removes them; each read checks the
compacted revision and reads inside one SQLite snapshot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter

from control.store.errors import (
    CompactedError,
    ConflictError,
    FutureRevisionError,
    KeyNotFoundError,
    LeaseNotFoundError,
    ValueTooLargeError,
)
from control.store.store import DeleteResult, Event, EventType, KeyValue, RangeResult

FIRST_REVISION = 1  # of an empty store
_COLUMNS = "key, value, create_rev, rev, version, lease"
_LAST = 2**63 - 1

_HISTORY_SPAN = 1000  # revisions looked at in one read of the history
_HISTORY_BYTES = 4 << 20  # and the size of the values at which it stops early
_VACUUM_PAGES = 256  # given back to the file system in one transaction
_VACUUM_RESERVE = 4  # one part in so many of the file is kept free for what is written next

_Row = tuple[bytes, bytes, int, int, int, int]


class Transaction:
    """One open write transaction: several callers' changes that are committed together.

    Each change is decided against what the ones before it left. One that is refused raises before it has written
    anything, so the others are not touched. `revision` and `events` tell what the transaction has done so far.
    """

    __slots__ = ("_connection", "events", "revision")

    def __init__(self, connection: sqlite3.Connection, revision: int) -> None:
        self._connection = connection
        self.revision = revision
        self.events: list[Event] = []

    def put(self, key: str, value: bytes, *, expected_revision: int | None, lease: int) -> int:
        """Append a new value of `key` (Store.put)."""
        previous = self._current(key, expected_revision)
        if lease and not self._lease_exists(lease):
            raise LeaseNotFoundError(lease)
        revision = self.revision + 1
        if previous is None:
            now = KeyValue(key, value, revision, revision, 1, lease)
        else:
            now = KeyValue(key, value, previous.create_revision, revision, previous.version + 1, lease)
        self._append(EventType.PUT, now, previous)
        return revision

    def delete(self, key: str, *, expected_revision: int | None) -> DeleteResult:
        """Append the end of `key` (Store.delete)."""
        previous = self._current(key, expected_revision)
        if previous is None:
            raise KeyNotFoundError(key)
        revision = self.revision + 1
        self._append(EventType.DELETE, KeyValue(key, b"", 0, revision, 0), previous)
        return DeleteResult(revision, previous)

    def grant(self, ttl_seconds: int) -> int:
        """Record a new lease and return its id."""
        lease = self._connection.execute("INSERT INTO lease(ttl_seconds) VALUES(?)", (ttl_seconds,)).lastrowid
        assert lease is not None
        return lease

    def revoke(self, lease: int) -> None:
        """Remove the lease and delete the keys that are tied to it now, in key order."""
        if not self._lease_exists(lease):
            raise LeaseNotFoundError(lease)
        # Rows of the past may name the lease too: only what a key holds now ties it.
        # (The second condition is what lets SQLite use the partial index.)
        keys = self._connection.execute(
            "SELECT DISTINCT key FROM log WHERE lease = ? AND lease != 0 ORDER BY key", (lease,)
        ).fetchall()
        for (raw,) in keys:
            key = raw.decode()
            current = latest(self._connection, key)
            if current is not None and current.lease == lease:
                self.delete(key, expected_revision=None)
        self._connection.execute("DELETE FROM lease WHERE id = ?", (lease,))

    def compact(self, revision: int) -> int:
        """Record that history before `revision` is forgotten; returns the compacted revision, which never falls."""
        if revision > self.revision:
            raise FutureRevisionError(revision, self.revision)
        compacted = _counter(self._connection, "compact_revision")
        if revision <= compacted:
            return compacted
        self._set_counter("compact_revision", revision)
        return revision

    def reclaim(self, span: int) -> bool:
        """Remove forgotten rows: those that `span` further revisions supersede. True when none are left.

        What is superseded up to the compacted revision goes, and so do deletions before it: the row at that revision
        itself always stays, so the greatest revision in the log never falls and a watch from there misses nothing.
        """
        compacted = compact_revision(self._connection)
        begin = _counter(self._connection, "reclaimed_revision")
        if begin >= compacted:
            return True
        end = min(begin + span, compacted)
        execute = self._connection.execute
        execute(
            "DELETE FROM log WHERE rev IN (SELECT prev_rev FROM log WHERE rev > ? AND rev <= ? AND prev_rev > 0)",
            (begin, end),
        )
        # From `begin` on: the deletion at the previous compacted revision was kept then.
        execute(
            "DELETE FROM log WHERE version = 0 AND rev >= ? AND rev <= ? AND rev < ?",
            (begin, end, compacted),
        )
        self._set_counter("reclaimed_revision", end)
        return end == compacted

    def vacuum(self) -> bool:
        """Give some free pages back to the file system. True when no more than a reserve is left."""
        free: int = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        pages: int = self._connection.execute("PRAGMA page_count").fetchone()[0]
        spare = free - max(_VACUUM_PAGES, pages // _VACUUM_RESERVE)
        if spare <= 0:
            return True
        # One page is freed with each step of the statement, and sqlite3 steps only once if there are no columns.
        for _ in range(min(spare, _VACUUM_PAGES)):
            self._connection.execute("PRAGMA incremental_vacuum(1)")
        return spare <= _VACUUM_PAGES

    def _current(self, key: str, expected_revision: int | None) -> KeyValue | None:
        """What `key` holds; `ConflictError` if that is not at `expected_revision`."""
        current = latest(self._connection, key)
        if expected_revision is not None and expected_revision != (current.mod_revision if current else 0):
            raise ConflictError(key, expected_revision, current)
        return current

    def _append(self, kind: EventType, now: KeyValue, previous: KeyValue | None) -> None:
        row = (
            now.mod_revision,
            now.key.encode(),
            now.create_revision,
            now.version,
            previous.mod_revision if previous else 0,
            now.lease,
            now.value,
        )
        try:
            self._connection.execute(
                "INSERT INTO log(rev, key, create_rev, version, prev_rev, lease, value) VALUES(?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        except (sqlite3.DataError, OverflowError) as error:  # beyond SQLite's limit: this caller's fault alone
            raise ValueTooLargeError(now.key, len(now.value)) from error
        self.revision = now.mod_revision
        self.events.append(Event(kind, now, previous))

    def _lease_exists(self, lease: int) -> bool:
        if not 0 < lease <= _LAST:
            return False
        return self._connection.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is not None

    def _set_counter(self, name: str, value: int) -> None:
        self._connection.execute("UPDATE counter SET value = ? WHERE name = ?", (value, name))


def latest(connection: sqlite3.Connection, key: str, revision: int = _LAST) -> KeyValue | None:
    """What `key` holds as of `revision`."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM log WHERE key = ? AND rev <= ? ORDER BY rev DESC LIMIT 1",  # noqa: S608 (constant)
        (key.encode(), revision),
    ).fetchone()
    return _key_value(row) if row is not None and row[4] else None


def current_revision(connection: sqlite3.Connection) -> int:
    """The revision of the latest change."""
    (revision,) = connection.execute("SELECT max(rev) FROM log").fetchone()
    return revision or FIRST_REVISION


def compact_revision(connection: sqlite3.Connection) -> int:
    """The oldest revision that can be read; 0 if nothing has been compacted."""
    return _counter(connection, "compact_revision")


def leases(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Every lease: (id, time to live in seconds)."""
    return connection.execute("SELECT id, ttl_seconds FROM lease").fetchall()


def read_key(connection: sqlite3.Connection, key: str, revision: int) -> KeyValue | None:
    """Store.get."""
    with _snapshot(connection):
        if revision:
            _check_readable(connection, revision)
        return latest(connection, key, revision or _LAST)


def read_range(
    connection: sqlite3.Connection, prefix: str, *, start_after: str, limit: int, revision: int
) -> RangeResult:
    """Store.range."""
    with _snapshot(connection):
        if revision:
            _check_readable(connection, revision)
        else:
            revision = current_revision(connection)
        low, high = _bounds(prefix)
        after = max(low, start_after.encode() + b"\x00") if start_after else low
        # The inner query walks the key index alone: per key the last row up to the revision (SQLite takes `version`
        # from the row that has the maximum), dropped if it is a deletion. Only the rows of the page are then fetched.
        found = (
            "SELECT key, max(rev) AS rev, version FROM log WHERE key >= ? AND key < ? AND rev <= ?"
            " GROUP BY key HAVING version > 0"
        )
        rows = connection.execute(
            f"SELECT log.key, value, create_rev, log.rev, log.version, lease"  # noqa: S608 (constants)
            f" FROM ({found} ORDER BY key LIMIT ?) AS found CROSS JOIN log ON log.rev = found.rev",
            (after, high, revision, limit + 1 if limit else -1),
        ).fetchall()
        rows.sort(key=itemgetter(0))  # they come in this order already; SQLite would copy every value to make sure
        more = bool(limit) and len(rows) > limit
        remaining = 0
        if more:
            del rows[limit:]
            (remaining,) = connection.execute(
                f"SELECT count(*) FROM ({found})",  # noqa: S608 (constant)
                (rows[-1][0] + b"\x00", high, revision),
            ).fetchone()
        return RangeResult(tuple(map(_key_value, rows)), revision, more, remaining)


def read_history(connection: sqlite3.Connection, prefix: str, first: int, last: int) -> tuple[list[Event], int]:
    """The prefix's events from revision `first` on, and the revision up to which these are all of them.

    That is `last` at most, and less when there is more than one portion to read: a reader far behind proceeds in
    bounded steps. Raises `CompactedError` when `first` has been forgotten.
    """
    with _snapshot(connection):
        compacted = compact_revision(connection)
        if first < compacted:
            raise CompactedError(first, compacted)
        upto = min(last, first + _HISTORY_SPAN - 1)
        low, high = _bounds(prefix)
        # Along the revisions, not the keys (the unary plus keeps the key index out): the span bounds the work.
        rows = connection.execute(
            "SELECT now.key, now.value, now.create_rev, now.rev, now.version, now.lease,"
            " was.key, was.value, was.create_rev, was.rev, was.version, was.lease"
            " FROM log AS now LEFT JOIN log AS was ON was.rev = now.prev_rev"
            " WHERE now.rev >= ? AND now.rev <= ? AND +now.key >= ? AND +now.key < ? ORDER BY now.rev",
            (first, upto, low, high),
        )
        events = []
        size = 0
        for row in rows:
            now = _key_value(row[:6])
            previous = _key_value(row[6:]) if row[6] is not None else None
            events.append(Event(EventType.PUT if now.version else EventType.DELETE, now, previous))
            size += len(now.value) + (len(previous.value) if previous else 0)
            if size >= _HISTORY_BYTES:
                upto = now.mod_revision
                break
        rows.close()
        return events, upto


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All reads inside see the same commit."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")  # nothing was written


def _check_readable(connection: sqlite3.Connection, revision: int) -> None:
    compacted = compact_revision(connection)
    if revision < compacted:
        raise CompactedError(revision, compacted)
    current = current_revision(connection)
    if revision > current:
        raise FutureRevisionError(revision, current)


def _counter(connection: sqlite3.Connection, name: str) -> int:
    row: tuple[int] = connection.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
    return row[0]


def _bounds(prefix: str) -> tuple[bytes, bytes]:
    """The half-open range of encoded keys that start with `prefix`. UTF-8 has no byte 0xff, so adding 1 is safe."""
    low = prefix.encode()
    return low, low[:-1] + bytes([low[-1] + 1]) if low else b"\xff"


def _key_value(row: _Row) -> KeyValue:
    key, value, create_revision, mod_revision, version, lease = row
    return KeyValue(key.decode(), value, create_revision, mod_revision, version, lease)
