"""The endpoints of the Service `default/kubernetes` are the masters that live (Kubernetes: lease endpoint reconciler).

Each master keeps a key in the store, with its address, tied to a lease that it renews: when it dies, the key goes by
itself. Each master compares those keys with the Endpoints and the EndpointSlice every few seconds and writes what
differs. So a dead master is gone from them within a lease and one round, whoever leads the controllers.

All masters serve on the same port, as the Service has one target port. Loopback addresses are left out: to a pod they
mean another machine.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from msgspec.structs import replace

from control.controllers import kubernetes_service
from control.controllers.kubernetes_service import Address
from control.store.errors import LeaseNotFoundError, StoreError
from control.store.store import Store
from kube.client import Client
from kube.clock import Clock
from kube.models import core_v1, discovery_v1
from kube.status import ApiError, is_already_exists, is_conflict, is_not_found

PREFIX = "/masterleases/"
LEASE_SECONDS = 15
ROUND_SECONDS = 5.0
LEAVE_SECONDS = 3.0

log = logging.getLogger(__name__)


class EndpointReconciler:
    """Keeps one master's key and the endpoints of all. `where` is what this master says about itself."""

    def __init__(self, store: Store, client: Client, where: Address, *, clock: Clock) -> None:
        self._store = store
        self._client = client
        self._where = where
        self._clock = clock
        self._lease = 0

    async def run(self) -> None:
        """Until cancelled; then this master's addresses are taken out at once."""
        try:
            while True:
                try:
                    await self._renew()
                    await self._reconcile()
                except (StoreError, ApiError, ConnectionError, TimeoutError) as error:
                    log.info("the endpoints of the masters cannot be kept for now: %s", error)
                await self._clock.sleep(ROUND_SECONDS)
        finally:
            await self._leave()

    async def _renew(self) -> None:
        if self._lease:
            try:
                await self._store.keepalive(self._lease)
                return
            except LeaseNotFoundError:
                self._lease = 0
        lease = await self._store.grant_lease(LEASE_SECONDS)
        for address in self._where.addresses:
            await self._store.put(PREFIX + address, address.encode(), lease=lease)
        self._lease = lease

    async def _reconcile(self) -> None:
        found = await self._store.range(PREFIX)
        where = replace(self._where, addresses=tuple(kv.value.decode() for kv in found.items))
        if not kubernetes_service.reachable(where):
            return  # endpoints without addresses help nobody
        await self._put(kubernetes_service.endpoints(where), core_v1.Endpoints)
        await self._put(kubernetes_service.endpoint_slice(where), discovery_v1.EndpointSlice)

    async def _put(self, wanted: Any, kind: type[Any]) -> None:
        try:
            current = await self._client.get(kind, wanted.metadata.name, namespace=wanted.metadata.namespace)
        except ApiError as error:
            if not is_not_found(error):
                raise
            current = None
        try:
            if current is None:
                await self._client.create(wanted)
            elif (mend := kubernetes_service.mended(wanted, current)) is not None:
                await self._client.update(mend)
        except ApiError as error:
            # another master was faster; what it wrote is looked at in the next round
            if not is_already_exists(error) and not is_conflict(error):
                raise

    async def _leave(self) -> None:
        """Take this master out, as well as that is possible: its lease ends by itself if not."""
        if not self._lease:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._store.revoke(self._lease)
                await self._reconcile()
        except (StoreError, ApiError, ConnectionError, TimeoutError) as error:
            log.info("this master's endpoints end with its lease: %s", error)
