"""One call to etcd: to which member, how long, how often, and what its failure is to the caller.

    read()    repeated on the next member until `Retry` gives up
    write()   repeated only while it certainly reached nobody; what may be repeated besides, its caller knows

Every attempt has a deadline of its own, so that a member that hangs (stopped, cut off) is noticed and left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from control.store.errors import OutcomeUnknownError, StoreClosedError, StoreUnavailableError
from control.store.etcd.config import EtcdConfig
from control.store.etcd.failure import Meaning, Retry, meaning
from control.store.etcd.members import Member, Members
from kube.clock import Clock

# etcd itself answers or gives up within about 7 s (its request timeout is 5 s and two elections)
WRITE_SECONDS = 10.0
READ_SECONDS = 2.5
COMPACT_SECONDS = 300.0
# a member without a leader is to say so instead of waiting (clientv3.WithRequireLeader)
REQUIRE_LEADER = (("hasleader", "true"),)

MEND = "Check that etcd runs and can be reached: etcdctl endpoint health, and etcd's log"
READ_AGAIN = "Look whether it is there before you repeat it"

log = logging.getLogger(__name__)


class CallError(Exception):
    """A call that etcd refused for a reason that depends on what was called."""

    def __init__(self, meaning: Meaning, details: str) -> None:
        super().__init__(details)
        self.meaning = meaning
        self.details = details


class Calls:
    """Unary calls to a cluster. After `close` none begins; those that had begun are waited for."""

    def __init__(self, config: EtcdConfig, clock: Clock, *, retry: Retry | None = None) -> None:
        self.members = Members(config)
        self.closed = asyncio.Event()
        self._clock = clock
        self._retry = retry or Retry()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def read(self, call: Callable[[Member], Callable[..., Any]], request: Any) -> Any:
        """The answer to something that changes nothing. CallError, StoreUnavailableError, StoreClosedError."""
        return await self._call(call, request, READ_SECONDS, repeatable=True)

    async def write(
        self, call: Callable[[Member], Callable[..., Any]], request: Any, *, seconds: float = WRITE_SECONDS
    ) -> Any:
        """The answer to a change. OutcomeUnknownError if it may have happened, StoreUnavailableError if not."""
        return await self._call(call, request, seconds, repeatable=False)

    async def _call(
        self, call: Callable[[Member], Callable[..., Any]], request: Any, seconds: float, *, repeatable: bool
    ) -> Any:
        if self.closed.is_set():
            raise StoreClosedError
        self._under_way += 1
        self._idle.clear()
        try:
            began = self._clock.monotonic()
            attempt = 0
            while True:
                attempt += 1
                member = self.members.current
                try:
                    return await call(member)(request, timeout=seconds, metadata=REQUIRE_LEADER)
                except grpc.aio.AioRpcError as error:
                    details = error.details() or error.code().name
                    what = meaning(error.code(), details)
                if what not in (Meaning.NOT_SENT, Meaning.UNKNOWN):
                    raise refused(what, details)
                self.members.failed(member)
                if what is Meaning.UNKNOWN and not repeatable:
                    raise OutcomeUnknownError(f"etcd at {member.target}: {details}", mend=READ_AGAIN)
                pause = self._retry.pause(attempt, len(self.members), elapsed=self._clock.monotonic() - began)
                if pause is None:
                    raise StoreUnavailableError(f"etcd at {member.target}: {details}", mend=MEND)
                await self._clock.sleep(pause)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def close(self) -> None:
        """Let nothing more begin, finish what was begun (each has its deadline), close the channels."""
        self.closed.set()
        await self._idle.wait()
        await self.members.close()


def refused(what: Meaning, details: str) -> CallError | StoreUnavailableError:
    """The error of a call that reached etcd."""
    if what is Meaning.DENIED:
        return StoreUnavailableError(
            f"etcd refuses: {details}", mend="Give the user of the client certificate (its CN) a role for all keys"
        )
    if what is Meaning.FULL:
        return StoreUnavailableError(
            f"etcd refuses: {details}",
            mend="Make room: etcdctl defrag, then etcdctl alarm disarm (etcd: Maintenance, Space quota)",
        )
    return CallError(what, details)
