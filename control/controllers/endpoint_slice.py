"""EndpointSlices of Services with a selector (Kubernetes: endpointslice-controller).

Watches Services, Pods, Nodes (for zones) and EndpointSlices; everything becomes the key of a Service. Decisions are in
`endpoint_slice_plan`. Slices of a deleted Service go by garbage collection: they are owned by it.
"""

from __future__ import annotations

from typing import ClassVar

from control.controllers import endpoint_slice_plan, service_endpoints
from control.controllers.controller import Context
from control.controllers.endpoint_slice_plan import MANAGED_BY, MANAGER
from control.controllers.service_pods import ServicePodsController
from control.controllers.slice_writer import LOOK_AGAIN_SECONDS, SERVICE_INDEX, SliceWriter, by_service
from kube import objects
from kube.informer import MODIFIED, Delta
from kube.models import core_v1, discovery_v1


class EndpointSliceController(ServicePodsController):
    """Keeps the slices of each Service at its pods' addresses and readiness."""

    name: ClassVar[str] = "endpointslice-controller"
    workers: ClassVar[int] = 5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._nodes = self.watch(core_v1.Node, self._on_node)
        self._slices = self.watch(discovery_v1.EndpointSlice, self._on_slice, indexers={SERVICE_INDEX: by_service})
        self._writer = SliceWriter(self.client, self.clock)

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        if delta.old is not None and delta.type == MODIFIED:
            before, now = (n.metadata.labels.get(service_endpoints.ZONE_LABEL) for n in (delta.old, delta.object))
            if before == now:
                return
        for service in self.services.list():
            self.queue.add(objects.key(service))

    def _on_slice(self, delta: Delta[discovery_v1.EndpointSlice]) -> None:
        for key in by_service(delta.object):
            if delta.object.metadata.labels.get(MANAGED_BY) == MANAGER and self._writer.observe(key, delta):
                self.queue.add(key)

    async def reconcile(self, key: str) -> float | None:
        service = self.services.get(key)
        if service is None:
            self._writer.forget(key)
            return None
        if not service_endpoints.wants_endpoints(service) or objects.is_deleting(service):
            return None
        existing = [
            s
            for s in self._slices.by_index(SERVICE_INDEX, key)
            if s.metadata.labels.get(MANAGED_BY) == MANAGER and not objects.is_deleting(s)
        ]
        if self._writer.is_stale(key, existing):
            return LOOK_AGAIN_SECONDS  # normally the slices' event comes much sooner
        zones = service_endpoints.zones(self._nodes.list())
        groups = endpoint_slice_plan.wanted(service, self.selected_pods(service), zones)
        planned = endpoint_slice_plan.plan(endpoint_slice_plan.frame(service), groups, existing)
        if planned.create or planned.update or planned.delete:
            await self._writer.write(key, planned)
        return None
