"""Addresses are allotted once also when several masters allot at the same time.

Each master knows from its watch cache what is in use; what another is allotting at this very moment is in no cache
yet. So an address is claimed first: a key in the store that only one of all can create. Then the cache catches up, and
what it shows in use by then is not taken after all. The claim goes when the Service is there for all to see; if its
creation fails or its master dies, a lease ends it.

Why that is enough: whoever can claim an address after another did so, comes after the other's Service was written,
and sees it once his cache has caught up (or after a lease, in which no creation can still be under way).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from control.store.errors import ConflictError, LeaseNotFoundError, StoreError
from control.store.store import Store
from kube import status
from kube.clock import Clock

PREFIX = "/claims/services/"
# longer than any request may take
CLAIM_SECONDS = 120
# claims made within this time share a lease
SHARED_SECONDS = 30
# waits for a claim of another to go, in seconds
RELEASE_PAUSES = (0.02, 0.05, 0.2)

log = logging.getLogger(__name__)


class AddressClaims:
    """Claims of one master in the store that it shares. `fresh` lets its cache catch up."""

    def __init__(self, store: Store, fresh: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self.fresh = fresh
        self._store = store
        self._clock = clock
        self._lease, self._lease_until = 0, 0.0
        self._mine: dict[str, tuple[int, float]] = {}  # revision, and when
        self._done: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def claim(self, what: str, holder: str) -> bool:
        """Whether `what` is `holder`'s to take: nobody else's claim is in the way."""
        for pause in (*RELEASE_PAUSES, None):
            lease = await self._shared_lease()
            try:
                revision = await self._store.put(PREFIX + what, holder.encode(), expected_revision=0, lease=lease)
            except ConflictError as error:
                if error.actual is not None and error.actual.value == holder.encode():
                    return True
                if pause is None:
                    return False
                # most claims last for milliseconds: what another gives back just now is free
                await self._clock.sleep(pause)
            except LeaseNotFoundError:
                self._lease = 0
            else:
                self._mine[what] = revision, self._clock.monotonic()
                return True
        raise status.internal_error("leases end faster than addresses can be claimed")

    def settled(self, what: str) -> None:
        """`what` is in use, as all can see, or free again: a claim of ours has done its duty."""
        mine = self._mine.pop(what, None)
        if mine is not None:
            self._done.put_nowait((what, mine[0]))

    async def run(self) -> None:
        """Take back claims that have done their duty, until cancelled."""
        while True:
            what, revision = await self._done.get()
            try:
                await self._store.delete(PREFIX + what, expected_revision=revision)
            except ConflictError:
                pass  # its lease was faster
            except StoreError as error:
                log.info("the claim of %s ends with its lease: %s", what, error)

    async def _shared_lease(self) -> int:
        now = self._clock.monotonic()
        if not self._lease or now > self._lease_until:
            self._lease = await self._store.grant_lease(CLAIM_SECONDS + SHARED_SECONDS)
            self._lease_until = now + SHARED_SECONDS
            ended = now - CLAIM_SECONDS - SHARED_SECONDS
            self._mine = {what: mine for what, mine in self._mine.items() if mine[1] > ended}
        return self._lease
