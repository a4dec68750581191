"""What a store can refuse, each as a type with the fields a caller decides by.

The names follow etcd's client errors: a failed comparison, `ErrCompacted`, `ErrFutureRev`, `ErrLeaseNotFound`.
"""

from __future__ import annotations

from control.store.store import KeyValue
from kube.errors import KtoolError


class StoreError(KtoolError):
    """Any error of a store."""


class ConflictError(StoreError):
    """The key is not at the revision that the caller expects; nothing was changed.

    `expected` is the wanted mod_revision (0: the key must not exist), `actual` what the store holds (None: nothing).
    """

    def __init__(self, key: str, expected: int, actual: KeyValue | None) -> None:
        super().__init__(
            f"key {key!r} is not at the expected revision",
            found="no such key" if actual is None else f"revision {actual.mod_revision}",
            wanted=f"revision {expected}" if expected else "no such key",
            mend="Read the key again and repeat the change on what it holds now",
        )
        self.key = key
        self.expected = expected
        self.actual = actual


class KeyNotFoundError(StoreError):
    """The key to delete does not exist."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key!r} does not exist")
        self.key = key


class CompactedError(StoreError):
    """The history asked for has been compacted away: list again and watch from there (etcd: ErrCompacted).

    `compact_revision` is the oldest revision that can still be read or watched from.
    """

    def __init__(self, revision: int, compact_revision: int) -> None:
        super().__init__(
            "the requested revision has been compacted",
            found=f"revision {revision}",
            wanted=f"revision {compact_revision} or later",
            mend="List again and continue from the revision of that list",
        )
        self.revision = revision
        self.compact_revision = compact_revision


class FutureRevisionError(StoreError):
    """The revision asked for has not happened yet (etcd: ErrFutureRev). `current` is the latest one."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(
            "the requested revision has not happened yet",
            found=f"revision {revision}",
            wanted=f"revision {current} or earlier",
        )
        self.revision = revision
        self.current = current


class LeaseNotFoundError(StoreError):
    """The lease was never granted, has expired or was revoked (etcd: ErrLeaseNotFound)."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"lease {lease} does not exist or has expired")
        self.lease = lease


class StoreClosedError(StoreError):
    """The store has been closed, or closed itself after an error that it cannot survive."""

    def __init__(self, what: str = "the store is closed", *, found: str = "") -> None:
        super().__init__(what, found=found)


class StoreUnavailableError(StoreError):
    """The engine could not read or write (disk full, I/O error, etcd out of reach). What was acknowledged is untouched.

    The call itself was not acknowledged, but may have happened, or happen yet: read before repeating it.
    """

    what = "the store cannot read or write its data"

    def __init__(
        self,
        found: str,
        *,
        mend: str = "Check the free space and the health of the disk under the store's directory (df, dmesg)",
    ) -> None:
        super().__init__(self.what, found=found, mend=mend)


class OutcomeUnknownError(StoreUnavailableError):
    """The engine went out of reach while it had a change (etcd: "request timed out"), and does not answer since.

    Where an engine tells this apart, any other `StoreUnavailableError` means that nothing has happened.
    """

    what = "nobody can say whether the store has taken the change"


class ValueTooLargeError(StoreError, ValueError):
    """The value is larger than the engine takes; nothing was changed (etcd: ErrRequestTooLarge)."""

    def __init__(self, key: str, size: int, *, mend: str = "Split it into several objects") -> None:
        super().__init__(f"the value of {key!r} is too large", found=f"{size} bytes", mend=mend)


class StoreInUseError(StoreError):
    """Another process has this store open. `holder` is its pid as far as it is known (0: unknown)."""

    def __init__(self, path: str, holder: int) -> None:
        super().__init__(
            f"the store {path} is open in another process",
            found=f"held by pid {holder}" if holder else "held by an unknown process",
            wanted="one master per store",
            mend="Stop the other master, or give this one a data directory of its own",
        )
        self.path = path
        self.holder = holder


class SchemaError(StoreError):
    """The file is not a store of this version; nothing in it was changed."""
