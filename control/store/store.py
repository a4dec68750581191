"""The store's contract: etcd's data model and nothing more.

One flat space of keys, one global revision that each change raises by at least one. Everything that the API server
promises to its clients is built on these few facts:

* A change is acknowledged (the awaited call returns) only when it is durable, and then every later read sees it.
* `put` and `delete` compare the key's `mod_revision` and swap, atomically. The API server's `resourceVersion` *is*
  the `mod_revision`, so the stored bytes never contain it.
* A range reads one revision, also a past one, so a list can be paged while others write.
* A watch gives every change of a prefix from a revision on: in order, each once, with no gap. A watcher that cannot
  keep up costs the store no memory: it reads the history at its own pace, until compaction overtakes it and it gets
  `CompactedError`: the "410 Gone, list again" of the Kubernetes API.
* `compact` forgets history. What is current stays; a read or watch of what was forgotten says so.
* One revision is one change, but for the end of a lease: the deletions of its keys may share one.
* The revision never goes backward: not by deletion, compaction or restart.

Keys are non-empty text, ordered by their UTF-8 bytes (which is the order of code points). Revisions start at 1 in an
empty store, so the first change is revision 2 and 0 never names one.

Cancelling a waiting `put` or `delete` does not say whether it happened: read before repeating it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct


class KeyValue(Struct, frozen=True):
    """A key with its value at one revision (etcd: mvccpb.KeyValue).

    `create_revision` is the change that created the key, `mod_revision` the one that wrote this value, `version` how
    often the key has been written since its creation (from 1), `lease` the lease it ends with (0: none). In the event
    of a deletion `value` is empty and `create_revision`, `version` and `lease` are 0.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class RangeResult(Struct, frozen=True):
    """One page of a range: `items` in key order, all as of `revision`.

    `more` tells that keys follow the last item, `remaining` how many.
    """

    items: tuple[KeyValue, ...]
    revision: int
    more: bool
    remaining: int


class DeleteResult(Struct, frozen=True):
    """What a deletion removed, and the revision at which it happened."""

    revision: int
    previous: KeyValue


class EventType(Enum):
    """What happened to a key (etcd: mvccpb.Event.EventType)."""

    PUT = "PUT"
    DELETE = "DELETE"


class Event(Struct, frozen=True):
    """One change of one key; `kv.mod_revision` is its revision.

    `prev_kv` is what the key held before; None when it did not exist. (It is None as well for an event at exactly
    the compacted revision, the one place where what was before is already forgotten.)
    """

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None


class Watch(Protocol):
    """An open watch: an asynchronous iterator over non-empty batches of events, closed by its context manager.

    Events come in the order of their revisions, each once; a batch never ends in the middle of a revision. The
    iterator never ends by itself: it raises `CompactedError` when what comes next has been compacted,
    `StoreClosedError` when the store is closed, `StoreUnavailableError` when the history cannot be read (iterate
    again to continue).
    """

    @property
    def progress(self) -> int:
        """Every event of the prefix up to this revision has been handed out (etcd: progress notification).

        It moves on when other prefixes are written, so a bookmark can carry it.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Sequence[Event]: ...


class Store(Protocol):
    """etcd's model over whichever engine. Any call may raise `StoreClosedError` or `StoreUnavailableError`."""

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """What `key` holds at `revision` (0: now), or None.

        Raises `CompactedError` or `FutureRevisionError` for a revision that cannot be read.
        """
        ...

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """The keys that start with `prefix` (empty: all) and follow `start_after`, at `revision` (0: now).

        At most `limit` items (0: all). For the next page pass the last item's key and the result's revision. Raises
        `CompactedError` or `FutureRevisionError` for a revision that cannot be read.
        """
        ...

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None, lease: int = 0) -> int:
        """Write `key` and return the new revision, which is its `mod_revision` from now on.

        With `expected_revision` only if that is the key's mod_revision (0: only if it does not exist), else
        `ConflictError`. `lease` ties the key to a lease's end and takes it from an earlier one (0: from any);
        `LeaseNotFoundError` if there is no such lease, `ValueTooLargeError` if the engine does not take so much.

        Of calls at the same time the revisions may have any order.
        """
        ...

    async def delete(self, key: str, *, expected_revision: int | None = None) -> DeleteResult:
        """Remove `key`, as a revision of its own.

        With `expected_revision` only if that is the key's mod_revision, else `ConflictError`. Without it,
        `KeyNotFoundError` if there is no such key.
        """
        ...

    def watch(self, prefix: str, *, from_revision: int) -> Watch:
        """Every event of the keys starting with `prefix` (empty: all) from `from_revision` on, that one included.

        After a list at revision R watch from R + 1. A revision in the future is waited for. Raises (when iterated)
        `CompactedError` if `from_revision` is older than the compacted revision.
        """
        ...

    async def history(self, prefix: str, *, first: int, last: int) -> list[Event]:
        """Every event of the keys starting with `prefix` (empty: all) from revision `first` to `last`, both included.

        What a watch would hand out, as far as it has happened: nobody waits for what comes next. Raises
        `CompactedError` if `first` is older than the compacted revision, `FutureRevisionError` if `last` has not
        happened yet.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget all history before `revision`: reads and watches from older revisions raise `CompactedError`.

        An engine may keep the one revision before it (etcd's does). What each key holds at `revision` stays. Returns
        when the space has been reclaimed; writes go on meanwhile. A revision that has been compacted already is no
        error; one in the future is a `FutureRevisionError`.
        """
        ...

    async def revision(self) -> int:
        """The revision of the latest change."""
        ...

    async def grant_lease(self, ttl_seconds: int) -> int:
        """A new lease (its id, from 1) that expires `ttl_seconds` after the last sign of life.

        An engine may have a least time to live, of a few seconds, and raise a shorter one to it. On expiry the keys
        tied to it are deleted, as an ordinary revision or one for each. A restart of the store counts as a sign of
        life: leases start over with their full time, so a pause never expires what its holder could not renew.
        """
        ...

    async def keepalive(self, lease: int) -> int:
        """Renew a lease; returns its time to live in seconds. Raises `LeaseNotFoundError`."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease now and delete the keys tied to it. Raises `LeaseNotFoundError`."""
        ...

    async def close(self) -> None:
        """Finish the writes that were begun, then let go of the engine. Watches end with `StoreClosedError`."""
        ...
