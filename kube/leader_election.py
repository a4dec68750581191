"""One of several processes leads, by holding a Lease (client-go: `leaderelection`).

Who holds the Lease renews it; who does not watches it, and takes it over when it was not renewed for its duration, by
his own clock: the clocks of two machines are never compared. Writes are compare-and-swap, so of several who try at
once one wins. A leader who could not renew in time stops leading *before* the others may take over: he counts from the
moment at which his last renewal began, and his deadline is shorter than the Lease's duration.

A leader who ends in order gives the Lease back, so that his successor need not wait. One who comes back under the same
identity takes up his own Lease at once: identities must be unique among processes that run at the same time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec import Struct

from kube import objects, times
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.models import coordination_v1, meta_v1
from kube.status import ApiError, is_already_exists, is_conflict, is_not_found

log = logging.getLogger(__name__)


class Timing(Struct, frozen=True, kw_only=True):
    """Durations in seconds.

    A Lease is free `lease` after its last renewal; a leader gives up `renew_deadline` after his (must be shorter);
    both try every `retry`.
    """

    lease: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


# For a master that is alone: nobody waits to take over, so renewing seldom is enough, and costs nearly nothing.
ALONE = Timing(lease=60.0, renew_deadline=45.0, retry=20.0)


class Observation(Struct, frozen=True):
    """The Lease as it was last seen to change, and when (monotonic seconds, of our own clock)."""

    holder: str
    renewed: str
    at: float


def observe(lease: coordination_v1.Lease, before: Observation | None, *, now: float) -> Observation:
    """`before` itself if the Lease has not changed since, else a new observation."""
    spec = lease.spec or coordination_v1.LeaseSpec()
    holder, renewed = spec.holderIdentity or "", spec.renewTime or ""
    if before is not None and (before.holder, before.renewed) == (holder, renewed):
        return before
    return Observation(holder, renewed, now)


def is_free(lease: coordination_v1.Lease, seen: Observation, identity: str, *, now: float) -> bool:
    """Whether `identity` may take the Lease: it is his, nobody's, or was not renewed for its duration."""
    spec = lease.spec or coordination_v1.LeaseSpec()
    if seen.holder in ("", identity):
        return True
    return now - seen.at >= (spec.leaseDurationSeconds or 0)


class LeaderElector:
    """Takes part in the election for one Lease."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock: Clock = clock or SystemClock()
        self._seen: Observation | None = None
        self._renewed_at = 0.0
        self.is_leader = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Call `lead` whenever elected, cancel it when leadership is lost, and stand again; until cancelled.

        If `lead` ends by itself or raises, so does this (after the Lease was given back).
        """
        while True:
            await self._acquire()
            log.info("%s leads (%s/%s)", self._identity, self._namespace, self._name)
            self.is_leader = True
            work = asyncio.ensure_future(lead())
            renewing = asyncio.ensure_future(self._renew())
            try:
                await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.is_leader = False
                finished = work.done()
                for task in (work, renewing):
                    task.cancel()
                await asyncio.gather(work, renewing, return_exceptions=True)
                if not renewing.done() or renewing.cancelled():
                    await self._release()
            if finished:
                work.result()
                return
            if renewing.exception() is not None:
                renewing.result()
            log.warning("%s leads no longer (%s/%s)", self._identity, self._namespace, self._name)

    async def _acquire(self) -> None:
        while not await self._try(self._timing.renew_deadline):
            await self._clock.sleep(self._timing.retry)

    async def _renew(self) -> None:
        """Return when the Lease could not be renewed in time, or somebody else has it."""
        while True:
            await self._clock.sleep(self._timing.retry)
            left = self._renewed_at + self._timing.renew_deadline - self._clock.monotonic()
            # an attempt may not outlast the deadline: others take over soon after it
            if left <= 0 or (not await self._try(left) and self._is_taken()):
                return

    def _is_taken(self) -> bool:
        return self._seen is not None and self._seen.holder != self._identity

    async def _try(self, seconds: float) -> bool:
        """Take or renew the Lease within `seconds`; False if that did not work (this time)."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds):
                held = await self._write()
        except (ApiError, ConnectionError, TimeoutError) as error:
            log.info("lease %s/%s: %s", self._namespace, self._name, error)
            return False
        if held:
            self._renewed_at = began
        return held

    async def _write(self) -> bool:
        try:
            lease = await self._client.get(coordination_v1.Lease, self._name, namespace=self._namespace)
        except ApiError as error:
            if not is_not_found(error):
                raise
            return await self._create()
        now = self._clock.monotonic()
        self._seen = observe(lease, self._seen, now=now)
        if not is_free(lease, self._seen, self._identity, now=now):
            return False
        mine = objects.copy(lease)
        spec = mine.spec = mine.spec or coordination_v1.LeaseSpec()
        stamp = times.now_micro(self._clock)
        if spec.holderIdentity != self._identity:
            spec.acquireTime = stamp
            spec.leaseTransitions = (spec.leaseTransitions or 0) + 1
        spec.holderIdentity, spec.renewTime = self._identity, stamp
        spec.leaseDurationSeconds = int(self._timing.lease)
        try:
            updated = await self._client.update(mine)
        except ApiError as error:
            if is_conflict(error):
                return False
            raise
        self._seen = observe(updated, None, now=now)
        return True

    async def _create(self) -> bool:
        stamp = times.now_micro(self._clock)
        lease = coordination_v1.Lease(
            metadata=meta_v1.ObjectMeta(name=self._name, namespace=self._namespace),
            spec=coordination_v1.LeaseSpec(
                holderIdentity=self._identity,
                leaseDurationSeconds=int(self._timing.lease),
                acquireTime=stamp,
                renewTime=stamp,
                leaseTransitions=0,
            ),
        )
        try:
            created = await self._client.create(lease)
        except ApiError as error:
            if is_already_exists(error):
                return False
            raise
        self._seen = observe(created, None, now=self._clock.monotonic())
        return True

    async def _release(self) -> None:
        """Give the Lease back, as well as that is possible: it ends by itself if not."""
        try:
            async with asyncio.timeout(self._timing.retry):
                lease = await self._client.get(coordination_v1.Lease, self._name, namespace=self._namespace)
                if lease.spec is None or lease.spec.holderIdentity != self._identity:
                    return
                lease.spec.holderIdentity = None
                lease.spec.leaseDurationSeconds = 1
                await self._client.update(lease)
        except (ApiError, ConnectionError, TimeoutError) as error:
            log.info("lease %s/%s is not given back: %s", self._namespace, self._name, error)
