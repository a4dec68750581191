"""Addresses are allotted once also when several masters allot at the same time.

Each master knows from its watch cache what is in use; what another is allotting at this very moment is in no cache
yet. So an address is claimed first: a key in the store that only one of all can create. Then the cache catches up, and
what it shows in use by then is not taken after all. The claim goes when the Service is there for all to see, or was
refused; if nobody knows what became of it, or its master dies, a lease ends it.

Why that is enough: whoever can claim an address after another did so, comes after the other's Service was written,
and sees it once his cache has caught up (or after a lease, in which no creation can still be under way).

So a claim may end early only for what was written after it was made, and only by who made it. A Service that had the
address before, and whose story the cache tells late, ends no claim; one that is tried again under the same name takes
the earlier try's claim over by writing it anew, and from then on the earlier one cannot end it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec import Struct

from control.store.errors import ConflictError, KeyNotFoundError, LeaseNotFoundError, StoreError
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


class Claim(Struct, frozen=True):
    """A claim of ours: of what, its key's revision, since when, and whether it was somebody else's try before."""

    what: str
    revision: int
    at: float
    taken_over: bool = False


class AddressClaims:
    """Claims of one master in the store that it shares. `fresh` lets its cache catch up."""

    def __init__(self, store: Store, fresh: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self.fresh = fresh
        self._store = store
        self._clock = clock
        self._lease, self._lease_until = 0, 0.0
        self._mine: dict[str, Claim] = {}
        self._done: asyncio.Queue[Claim] = asyncio.Queue()

    async def claim(self, what: str, holder: str) -> Claim | None:
        """A claim of `what` for `holder`; None if somebody else's is in the way."""
        expected, value = 0, holder.encode()
        for pause in (*RELEASE_PAUSES, None):
            lease = await self._shared_lease()
            try:
                revision = await self._store.put(PREFIX + what, value, expected_revision=expected, lease=lease)
            except ConflictError as error:
                there = error.actual
                if there is not None and there.value == value:
                    expected = there.mod_revision
                    continue
                expected = 0
                if pause is not None:
                    # most claims last for milliseconds: what another gives back just now is free
                    await self._clock.sleep(pause)
            except LeaseNotFoundError:
                self._lease = 0
                if pause is None:
                    raise status.internal_error("leases end faster than addresses can be claimed") from None
            else:
                claim = self._mine[what] = Claim(what, revision, self._clock.monotonic(), taken_over=expected > 0)
                return claim
        return None

    def settled(self, what: str, revision: int) -> None:
        """A Service with `what` was written at `revision`, as all can see: a claim of ours has done its duty."""
        mine = self._mine.get(what)
        if mine is not None and mine.revision < revision:
            self._end(mine)

    def release(self, claim: Claim) -> None:
        """What was claimed is not taken after all. Another try under the same name may still be under way if it was
        taken over: then it is left to its lease."""
        if self._mine.get(claim.what) is claim and not claim.taken_over:
            self._end(claim)

    def _end(self, claim: Claim) -> None:
        del self._mine[claim.what]
        self._done.put_nowait(claim)

    async def run(self) -> None:
        """Take back claims that have done their duty, until cancelled."""
        while True:
            claim = await self._done.get()
            try:
                await self._store.delete(PREFIX + claim.what, expected_revision=claim.revision)
            except (ConflictError, KeyNotFoundError):
                pass  # its lease was faster, or it was taken over
            except StoreError as error:
                log.info("the claim of %s ends with its lease: %s", claim.what, error)

    async def _shared_lease(self) -> int:
        now = self._clock.monotonic()
        if not self._lease or now > self._lease_until:
            self._lease = await self._store.grant_lease(CLAIM_SECONDS + SHARED_SECONDS)
            self._lease_until = now + SHARED_SECONDS
            ended = now - CLAIM_SECONDS - SHARED_SECONDS
            self._mine = {what: mine for what, mine in self._mine.items() if mine.at > ended}
        return self._lease
