"""The store of several masters: an etcd cluster, version 3.4 or later.

etcd's model *is* the contract's, so most calls are one message each, and etcd's revision is the global revision. What
is left to do is in files of its own: `config` (where etcd is), `members` (a channel to each), `calls` (deadlines,
failover, what may be repeated), `failure` (what an error means), `messages` (translation), `watch` (promises over a
stream that breaks).

Where the engines differ, the contract leaves room (control/store/store.py): the end of a lease is one revision here,
however many keys it deletes; `compact` keeps one revision more than it must; the least time to live is etcd's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Self

import grpc.aio

from control.store.errors import (
    CompactedError,
    ConflictError,
    FutureRevisionError,
    KeyNotFoundError,
    LeaseNotFoundError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    ValueTooLargeError,
)
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.calls import COMPACT_SECONDS, MEND, READ_SECONDS, REQUIRE_LEADER, CallError, Calls
from control.store.etcd.config import EtcdConfig
from control.store.etcd.failure import Meaning, Retry, text
from control.store.etcd.messages import EVERYTHING, Keys, compare_and_swap
from control.store.etcd.watch import EtcdWatch
from control.store.store import DeleteResult, Event, KeyValue, RangeResult
from kube.clock import Clock, SystemClock

FIRST_REVISION = 1  # of an empty etcd
_MAX_LEASE = 2**63 - 1

log = logging.getLogger(__name__)


class EtcdStore:
    """A `Store` in an etcd cluster; make it by `open`."""

    def __init__(self, config: EtcdConfig, *, clock: Clock, retry: Retry) -> None:
        self._keys = Keys(config.prefix)
        self._clock = clock
        self._retry = retry
        self._calls = Calls(config, clock, retry=retry)
        self._watches: set[EtcdWatch] = set()
        self._known_revision = FIRST_REVISION
        self._read_revision = _SharedRead(self._current_revision)

    @classmethod
    async def open(cls, config: EtcdConfig, *, clock: Clock | None = None, retry: Retry | None = None) -> Self:
        """Use the etcd of `config`. It need not answer yet: calls find that out, and go on when it does.

        Raises `StoreUnavailableError` if the certificates' files cannot be read.
        """
        return cls(config, clock=clock or SystemClock(), retry=retry or Retry())

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """Store.get."""
        _check_key(key)
        _check_not_negative("revision", revision)
        response = await self._range(rpc.RangeRequest(key=self._keys.encode(key), revision=revision))
        return self._keys.key_value(response.kvs[0]) if response.kvs else None

    async def range(self, prefix: str, *, start_after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """Store.range."""
        _check_not_negative("limit", limit)
        _check_not_negative("revision", revision)
        low, end = self._keys.bounds(prefix, start_after)
        if end != EVERYTHING[1] and low >= end:
            # Nothing can follow, and etcd would take such a range for a mistake. It is asked for the revision all the
            # same, with any one key.
            response = await self._range(rpc.RangeRequest(key=low, revision=revision, count_only=True))
            return RangeResult((), revision or response.header.revision, more=False, remaining=0)
        response = await self._range(rpc.RangeRequest(key=low, range_end=end, limit=limit, revision=revision))
        items = tuple(map(self._keys.key_value, response.kvs))
        return RangeResult(items, revision or response.header.revision, response.more, response.count - len(items))

    async def put(self, key: str, value: bytes, *, expected_revision: int | None = None, lease: int = 0) -> int:
        """Store.put."""
        _check_key(key)
        if lease and not 0 < lease <= _MAX_LEASE:
            raise LeaseNotFoundError(lease)
        raw = self._keys.encode(key)
        put = rpc.PutRequest(key=raw, value=value, lease=lease)
        try:
            if expected_revision is None:
                response = await self._calls.write(lambda member: member.put, put)
                return self._saw(response.header.revision)
            txn = compare_and_swap(raw, expected_revision, rpc.RequestOp(request_put=put))
            try:
                return self._saw((await self._swap(key, expected_revision, txn)).header.revision)
            except OutcomeUnknownError as unknown:
                return await self._put_again(key, put, expected_revision, txn, unknown)
        except CallError as error:
            if error.meaning is Meaning.NO_LEASE:
                raise LeaseNotFoundError(lease) from None
            if error.meaning is Meaning.TOO_LARGE:
                raise ValueTooLargeError(
                    key, len(value), mend="Split it, or raise etcd's --max-request-bytes"
                ) from None
            raise _unexpected(error) from error

    async def delete(self, key: str, *, expected_revision: int | None = None) -> DeleteResult:
        """Store.delete."""
        _check_key(key)
        raw = self._keys.encode(key)
        delete = rpc.DeleteRangeRequest(key=raw, prev_kv=True)
        try:
            if expected_revision is None:
                deleted: rpc.DeleteRangeResponse = await self._calls.write(lambda member: member.delete_range, delete)
                revision = deleted.header.revision
            else:
                txn = compare_and_swap(raw, expected_revision, rpc.RequestOp(request_delete_range=delete))
                response = await self._swap(key, expected_revision, txn)
                deleted, revision = response.responses[0].response_delete_range, response.header.revision
        except CallError as error:
            raise _unexpected(error) from error
        if not deleted.deleted:
            raise KeyNotFoundError(key)
        return DeleteResult(self._saw(revision), self._keys.key_value(deleted.prev_kvs[0]))

    def watch(self, prefix: str, *, from_revision: int) -> EtcdWatch:
        """Store.watch."""
        if from_revision < FIRST_REVISION:
            raise ValueError(f"from_revision must be at least {FIRST_REVISION}, not {from_revision}")
        return EtcdWatch(
            self._calls,
            self._keys,
            prefix,
            from_revision,
            clock=self._clock,
            retry=self._retry,
            read_compacted=self._oldest_revision,
            known_revision=lambda: self._known_revision,
            saw_revision=self._saw,
            open_watches=self._watches,
        )

    async def history(self, prefix: str, *, first: int, last: int) -> list[Event]:
        """Store.history."""
        if first < FIRST_REVISION:
            raise ValueError(f"first must be at least {FIRST_REVISION}, not {first}")
        current = await self.revision()
        if last > current:
            raise FutureRevisionError(last, current)
        found: list[Event] = []
        async with self.watch(prefix, from_revision=first) as watch:
            # revision 1 is that of an empty etcd: nothing happened in it
            while watch.progress < last and last > FIRST_REVISION:
                found += await watch.advance()
        return [event for event in found if event.kv.mod_revision <= last]

    async def compact(self, revision: int) -> None:
        """Store.compact. One revision more is kept: see `watch` for what etcd forgets at the compacted one."""
        current = await self.revision()
        if revision > current:
            raise FutureRevisionError(revision, current)
        if revision <= FIRST_REVISION + 1:
            return
        request = rpc.CompactionRequest(revision=revision - 1, physical=True)
        try:
            await self._calls.write(lambda member: member.compact, request, seconds=COMPACT_SECONDS)
        except CallError as error:
            if error.meaning is not Meaning.COMPACTED:  # which somebody else has done already
                raise _unexpected(error) from error

    async def revision(self) -> int:
        """Store.revision. Callers at the same time share one question to etcd."""
        if self._calls.closed.is_set():
            raise StoreClosedError
        return await self._read_revision()

    async def grant_lease(self, ttl_seconds: int) -> int:
        """Store.grant_lease."""
        if ttl_seconds < 1:
            raise ValueError(f"ttl_seconds must be at least 1, not {ttl_seconds}")
        request = rpc.LeaseGrantRequest(TTL=ttl_seconds)
        try:
            response: rpc.LeaseGrantResponse = await self._calls.write(lambda member: member.lease_grant, request)
        except CallError as error:
            raise _unexpected(error) from error
        return response.ID

    async def keepalive(self, lease: int) -> int:
        """Store.keepalive."""
        if not 0 < lease <= _MAX_LEASE:
            raise LeaseNotFoundError(lease)

        try:
            # renewing twice is renewing: it may be repeated like a read
            response: rpc.LeaseKeepAliveResponse = await self._calls.read(
                lambda member: member.keep_alive_once, rpc.LeaseKeepAliveRequest(ID=lease)
            )
        except CallError as error:
            raise _lease_error(error, lease) from error
        if response.TTL <= 0:
            raise LeaseNotFoundError(lease)
        return response.TTL

    async def revoke(self, lease: int) -> None:
        """Store.revoke."""
        if not 0 < lease <= _MAX_LEASE:
            raise LeaseNotFoundError(lease)
        try:
            await self._calls.write(lambda member: member.lease_revoke, rpc.LeaseRevokeRequest(ID=lease))
        except CallError as error:
            raise _lease_error(error, lease) from error

    async def close(self) -> None:
        """Store.close."""
        self._calls.closed.set()
        for watch in [*self._watches]:
            watch.interrupt()
        await self._calls.close()

    async def _range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        try:
            response: rpc.RangeResponse = await self._calls.read(lambda member: member.range, request)
        except CallError as error:
            if error.meaning is Meaning.COMPACTED:
                raise CompactedError(request.revision, await self._oldest_revision()) from None
            if error.meaning is Meaning.FUTURE:
                raise FutureRevisionError(request.revision, await self.revision()) from None
            raise _unexpected(error) from error
        self._saw(response.header.revision)
        return response

    async def _current_revision(self) -> int:
        response = await self._range(rpc.RangeRequest(key=EVERYTHING[0], count_only=True))
        return response.header.revision

    async def _swap(self, key: str, expected_revision: int, txn: rpc.TxnRequest) -> rpc.TxnResponse:
        response: rpc.TxnResponse = await self._calls.write(lambda member: member.txn, txn)
        if not response.succeeded:
            found = response.responses[0].response_range.kvs
            raise ConflictError(key, expected_revision, self._keys.key_value(found[0]) if found else None)
        return response

    async def _put_again(
        self, key: str, put: rpc.PutRequest, expected_revision: int, txn: rpc.TxnRequest, unknown: OutcomeUnknownError
    ) -> int:
        """Find out what became of a swap that was not answered, by doing it again: it can happen but once.

        If what is there now is what was to be written, it has happened. If it is something else, it may have, and been
        written over since: then nobody can say.
        """
        try:
            response = await self._swap(key, expected_revision, txn)
        except ConflictError as conflict:
            there = conflict.actual
            if there is None or (there.value, there.lease) != (put.value, put.lease):
                raise unknown from None
            return self._saw(there.mod_revision)
        except (StoreUnavailableError, CallError):
            raise unknown from None
        return self._saw(response.header.revision)

    async def _oldest_revision(self) -> int:
        """The oldest revision that can be watched from (CompactedError.compact_revision).

        etcd tells its compacted revision only to a watch that it refuses for it: so this is one, of the first revision.
        """
        stream = self._calls.members.current.watch(metadata=REQUIRE_LEADER)
        try:
            async with asyncio.timeout(READ_SECONDS):
                create = rpc.WatchCreateRequest(key=EVERYTHING[0], start_revision=1)
                await stream.write(rpc.WatchRequest(create_request=create))
                while isinstance(response := await stream.read(), rpc.WatchResponse):
                    if response.compact_revision:
                        return response.compact_revision + 1
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise StoreUnavailableError(
                f"etcd does not tell its compacted revision: {text(error)}", mend=MEND
            ) from error
        finally:
            stream.cancel()
        raise StoreUnavailableError("etcd does not tell its compacted revision: the stream ended", mend=MEND)

    def _saw(self, revision: int) -> int:
        self._known_revision = max(self._known_revision, revision)
        return revision


class _SharedRead:
    """One question for all who ask at the same time: each gets an answer to one that was put after he asked."""

    def __init__(self, read: Callable[[], Awaitable[int]]) -> None:
        self._read = read
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def __call__(self) -> int:
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running), name="etcd-revision")
            self._next.add_done_callback(_looked_at)
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[int] | None) -> int:
        if before is not None:
            await asyncio.wait((before,))
        self._running, self._next = self._next, None  # who comes from here on asked too late for this one
        return await self._read()


def _looked_at(task: asyncio.Task[int]) -> None:
    """Those who asked may all have gone: then nobody is there to take the error, and nothing is wrong with that."""
    if not task.cancelled():
        task.exception()


def _lease_error(error: CallError, lease: int) -> StoreError:
    return LeaseNotFoundError(lease) if error.meaning is Meaning.NO_LEASE else _unexpected(error)


def _unexpected(error: CallError) -> StoreUnavailableError:
    return StoreUnavailableError(f"etcd answers what it should not: {error.details}", mend=MEND)


def _check_key(key: str) -> None:
    if not key:
        raise ValueError("a key may not be empty")


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name} may not be negative: {value}")
