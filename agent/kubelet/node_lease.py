"""The sign of life: one small object, renewed every ten seconds (Kubernetes: "Heartbeats", Lease)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kube import objects, times
from kube.client import Client
from kube.clock import Clock
from kube.models import coordination_v1, core_v1, meta_v1
from kube.status import ApiError, is_already_exists, is_not_found

NAMESPACE = "kube-node-lease"
DURATION_SECONDS = 40
RENEW_SECONDS = 10.0
REQUEST_SECONDS = 10.0

log = logging.getLogger(__name__)


class NodeLease:
    """Renews this node's Lease. `node` gives the Node as known now; the Lease goes when the Node goes."""

    def __init__(self, client: Client, name: str, *, clock: Clock, node: Callable[[], core_v1.Node | None]) -> None:
        self._client = client
        self._name = name
        self._clock = clock
        self._node = node
        self._lease: coordination_v1.Lease | None = None

    async def run(self) -> None:
        """Renew until cancelled. A master that is away is asked again every time; it will see the node come back."""
        silent = False
        while True:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self.renew()
                if silent:
                    log.info("the node's lease is renewed again")
                silent = False
            except (ApiError, ConnectionError, TimeoutError) as error:
                self._lease = None
                log.log(logging.DEBUG if silent else logging.WARNING, "cannot renew the node's lease: %s", error)
                silent = True
            await self._clock.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Renew once. Raises ApiError, ConnectionError."""
        if self._lease is None:
            try:
                self._lease = await self._client.get(coordination_v1.Lease, self._name, namespace=NAMESPACE)
            except ApiError as error:
                if not is_not_found(error):
                    raise
                self._lease = await self._create()
                return
        lease = objects.copy(self._lease)
        lease.spec = self._spec()
        lease.metadata.ownerReferences = self._owner() or lease.metadata.ownerReferences
        self._lease = await self._client.update(lease)

    async def _create(self) -> coordination_v1.Lease | None:
        lease = coordination_v1.Lease(
            metadata=meta_v1.ObjectMeta(name=self._name, namespace=NAMESPACE, ownerReferences=self._owner()),
            spec=self._spec(),
        )
        try:
            return await self._client.create(lease)
        except ApiError as error:
            if is_already_exists(error):
                return None  # made a moment ago, by an agent of ours that has ended since
            raise

    def _spec(self) -> coordination_v1.LeaseSpec:
        return coordination_v1.LeaseSpec(
            holderIdentity=self._name,
            leaseDurationSeconds=DURATION_SECONDS,
            renewTime=times.now_micro(self._clock),
        )

    def _owner(self) -> list[meta_v1.OwnerReference]:
        node = self._node()
        if node is None:
            return []
        return [meta_v1.OwnerReference(apiVersion="v1", kind="Node", name=self._name, uid=objects.uid(node))]
