"""A watch of etcd: the store's promises over a stream that may break at any time.

Some things are not as the contract wants them, and are made so here:

* **Progress.** The watch asks for the changes of *all* keys and drops those of other prefixes. So each revision shows,
  and the watch knows up to where it has handed out everything, without asking (progress notifications of etcd before
  3.4.25 and 3.5.8 could overtake events).
* **The compacted revision.** etcd before 3.4.35 and 3.5.16 forgets a deletion at exactly the compacted revision, and
  a watch from there misses it silently. So the watch asks from one revision earlier: what comes from etcd's compacted
  revision itself is never used, and a watch that needs it is refused (the store compacts one revision less).
* **Breaks.** The stream ends with its member or its connection. It is opened again at the next revision, on the next
  member; only when that fails for a while the iterator raises `StoreUnavailableError`, and goes on when iterated again.
* **Cancelled waits.** gRPC ends a stream when a wait for it is cancelled. So reading (and opening) is a task of its
  own, which goes on when its waiter goes away; the next one takes the result.

A watcher that stalls leaves its messages where they are: HTTP/2's flow control stops the stream, and etcd lets the
watch fall behind and reads its history later. No memory fills up, here or there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

import grpc.aio

from control.store.errors import CompactedError, StoreClosedError, StoreError, StoreUnavailableError
from control.store.etcd import rpc_pb2 as rpc
from control.store.etcd.calls import MEND, REQUIRE_LEADER, Calls
from control.store.etcd.failure import Retry, text
from control.store.etcd.members import Member
from control.store.etcd.messages import EVERYTHING, Keys, lacks_previous
from control.store.store import Event
from kube.clock import Clock

log = logging.getLogger(__name__)

_OPEN_SECONDS = 3.0  # within which a member must confirm a new watch


class EtcdWatch:
    """One watch (Watch): a prefix, a cursor, and a stream while there is one."""

    def __init__(
        self,
        calls: Calls,
        keys: Keys,
        prefix: str,
        from_revision: int,
        *,
        clock: Clock,
        retry: Retry,
        read_compacted: Callable[[], Awaitable[int]],
        known_revision: Callable[[], int],
        saw_revision: Callable[[int], int],
        open_watches: set[EtcdWatch],
    ) -> None:
        self._calls = calls
        self._keys = keys
        self._prefix = keys.encode(prefix)
        self._next = from_revision  # the first revision that has not been handed out
        self._clock = clock
        self._retry = retry
        self._read_compacted = read_compacted
        self._known_revision = known_revision
        self._saw_revision = saw_revision
        self._open_watches = open_watches
        self._entered = False
        self._member = calls.members.current
        self._stream: Any = None
        self._pending: asyncio.Task[rpc.WatchResponse] | None = None

    @property
    def progress(self) -> int:
        """Watch.progress."""
        return min(self._next - 1, self._known_revision())

    async def __aenter__(self) -> Self:
        self._entered = True
        self._open_watches.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered = False
        self._open_watches.discard(self)
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait((pending,))
            if not pending.cancelled():
                pending.exception()  # looked at: nobody waits for it any more
        self._end_stream()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        while True:
            events = await self.advance()
            if events:
                return events

    async def advance(self) -> list[Event]:
        """What the next message brings: perhaps nothing of ours, only progress. Errors as the iterator's."""
        if not self._entered:
            raise RuntimeError("a watch is iterated inside its context manager")
        if self._pending is None:
            self._pending = asyncio.create_task(self._response(), name="etcd-watch")
        await asyncio.wait((self._pending,))
        # From here to the return there is no pause but in front of an error: a cancelled wait loses nothing.
        pending, self._pending = self._pending, None
        response = pending.result()
        if response.canceled:
            raise self._cancelled(response)
        events = [event for event in response.events if event.kv.mod_revision >= self._next]
        if not events:
            return []
        ours = [event for event in events if event.kv.key.startswith(self._prefix)]
        if any(map(lacks_previous, ours)):
            # compaction went past while etcd was telling it: what was before can be told no more
            self._end_stream()
            raise CompactedError(self._next, await self._read_compacted())
        self._next = self._saw_revision(events[-1].kv.mod_revision) + 1
        return [self._keys.event(event) for event in ours]

    async def _response(self) -> rpc.WatchResponse:
        """The next message of the stream, which is opened if there is none, and again if it breaks."""
        began = self._clock.monotonic()
        attempt = 0
        while True:
            if self._calls.closed.is_set():
                raise StoreClosedError
            member = self._calls.members.current if self._stream is None else self._member
            try:
                response = await (self._open(member) if self._stream is None else self._stream.read())
                if isinstance(response, rpc.WatchResponse) and response.created and not response.canceled:
                    response = await self._stream.read()
                if isinstance(response, rpc.WatchResponse):
                    return response
                details = "the member ended the stream"
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                details = text(error)
            except asyncio.CancelledError:
                # closing the store cancels the stream, and with it whoever reads it
                if not self._calls.closed.is_set():
                    raise
                raise StoreClosedError from None
            self._end_stream()
            self._calls.members.failed(member)
            attempt += 1
            pause = self._retry.pause(attempt, len(self._calls.members), elapsed=self._clock.monotonic() - began)
            if pause is None:
                raise StoreUnavailableError(f"etcd cannot be watched: {details}", mend=MEND)
            level = logging.INFO if attempt == 1 else logging.DEBUG
            log.log(level, "a watch of etcd broke off at revision %d, opening it again: %s", self._next, details)
            await self._clock.sleep(pause)

    async def _open(self, member: Member) -> Any:
        """Ask a member for the changes; its answer, which may be that it creates no watch for us."""
        self._member = member
        self._stream = member.watch(metadata=REQUIRE_LEADER)
        create = rpc.WatchCreateRequest(
            key=EVERYTHING[0], range_end=EVERYTHING[1], start_revision=max(1, self._next - 1), prev_kv=True
        )
        async with asyncio.timeout(_OPEN_SECONDS):
            await self._stream.write(rpc.WatchRequest(create_request=create))
            return await self._stream.read()

    def interrupt(self) -> None:
        """The store is closed: end the wait."""
        if self._pending is not None:
            self._pending.cancel()

    def _cancelled(self, response: rpc.WatchResponse) -> StoreError:
        """What it means that etcd has ended the watch by itself."""
        self._end_stream()
        if response.compact_revision:
            return CompactedError(self._next, response.compact_revision + 1)
        return StoreUnavailableError(f"etcd ended a watch: {response.cancel_reason or 'no reason given'}", mend=MEND)

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
