"""Writes planned EndpointSlices, and knows when the cache does not show yet what was written.

Slices get generated names, so a controller that acts on a stale cache would create the same slice twice. Therefore
each write is noted with the revision it led to, and until the cache has caught up the Service is not planned again
(Kubernetes: `EndpointSliceTracker`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from control.controllers.controller import raise_first, run_all
from control.controllers.endpoint_slice_plan import SERVICE_NAME, Plan
from control.controllers.service_account import is_moot
from kube import objects
from kube.client import Client
from kube.clock import Clock
from kube.informer import DELETED, Delta
from kube.models import discovery_v1
from kube.status import ApiError, is_not_found

GONE = -1
PATIENCE_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 5.0
SERVICE_INDEX = "service"


def by_service(found: discovery_v1.EndpointSlice) -> list[str]:
    """Indexer: key of the Service that the slice belongs to."""
    name = found.metadata.labels.get(SERVICE_NAME)
    return [f"{found.metadata.namespace}/{name}"] if name else []


class SliceWriter:
    """Carries plans out; one per controller."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        # per Service, per slice's uid: the revision that the cache must have reached, or GONE
        self._written: dict[str, dict[str, int]] = {}
        self._since: dict[str, float] = {}
        self._waiting: set[str] = set()

    def is_stale(self, key: str, slices: Iterable[discovery_v1.EndpointSlice]) -> bool:
        """Whether the cache lags behind what was written for a Service; `observe` tells when it may have caught up.

        What was written long ago and still does not show was undone by somebody else: the cache is right then.
        """
        written = self._written.get(key)
        if not written:
            return False
        if self._clock.monotonic() - self._since[key] > PATIENCE_SECONDS:
            self.forget(key)
            return False
        cached = {objects.uid(s): _revision(s) for s in slices}
        stale = any(
            uid in cached if revision == GONE else cached.get(uid, GONE) < revision for uid, revision in written.items()
        )
        if stale:
            self._waiting.add(key)
        return stale

    def observe(self, key: str, delta: Delta[discovery_v1.EndpointSlice]) -> bool:
        """Take note of what the cache shows now; whether the Service must be looked at again.

        It need not for the echo of an own write, unless it was found stale since.
        """
        written = self._written.get(key, {})
        uid = objects.uid(delta.object)
        expected = written.get(uid)
        is_echo = expected is not None and (
            expected == GONE if delta.type == DELETED else _revision(delta.object) <= expected
        )
        if expected is not None and (delta.type == DELETED or _revision(delta.object) >= expected != GONE):
            del written[uid]
        if key in self._waiting:
            self._waiting.discard(key)
            return True
        return not is_echo

    def forget(self, key: str) -> None:
        """Drop the notes about a Service that is gone."""
        self._written.pop(key, None)
        self._since.pop(key, None)
        self._waiting.discard(key)

    async def write(self, key: str, plan: Plan) -> None:
        """Create, update, delete, all at once; errors are raised after everything was tried."""
        notes = self._written.setdefault(key, {})
        self._since[key] = self._clock.monotonic()

        async def create(made: discovery_v1.EndpointSlice) -> None:
            try:
                created = await self._client.create(made)
            except ApiError as error:
                if not is_moot(error):
                    raise
                return  # the namespace is going, and the Service with it
            notes[objects.uid(created)] = _revision(created)

        async def update(made: discovery_v1.EndpointSlice) -> None:
            updated = await self._client.update(made)
            notes[objects.uid(updated)] = _revision(updated)

        async def delete(found: discovery_v1.EndpointSlice) -> None:
            meta = found.metadata
            try:
                await self._client.delete(
                    discovery_v1.EndpointSlice, meta.name or "", namespace=meta.namespace or "", uid=meta.uid or ""
                )
            except ApiError as error:
                if not is_not_found(error):
                    raise
                return
            notes[objects.uid(found)] = GONE

        # New places first: an endpoint that moves is for a moment in two slices, never in none.
        for call, slices in ((create, plan.create), (update, plan.update), (delete, plan.delete)):
            raise_first(await run_all(partial(call, found) for found in slices))


def _revision(found: discovery_v1.EndpointSlice) -> int:
    text = objects.resource_version(found)
    return int(text) if text.isdecimal() else 0
