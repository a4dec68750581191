"""EndpointSlices for Endpoints that users keep by hand (Kubernetes: endpointslicemirroring-controller).

A Service without a selector leads to whatever its Endpoints object says (a database outside of the cluster). The proxy
reads slices only, so these Endpoints are mirrored into slices that the Endpoints object owns.
"""

from __future__ import annotations

from typing import ClassVar

from control.controllers import endpoint_slice_plan, service_endpoints
from control.controllers.controller import Context, Controller
from control.controllers.endpoint_slice_plan import MANAGED_BY, SERVICE_NAME, Frame, Group, Wanted, group_of
from control.controllers.slice_writer import LOOK_AGAIN_SECONDS, SERVICE_INDEX, SliceWriter, by_service
from kube import objects
from kube.informer import Delta
from kube.models import core_v1, discovery_v1

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"


def should_mirror(service: core_v1.Service | None, endpoints: core_v1.Endpoints | None) -> bool:
    """Whether these Endpoints are a user's, for a Service that has no selector."""
    if service is None or endpoints is None or service.spec is None:
        return False
    if service.spec.selector or service.spec.type == "ExternalName":
        return False
    return endpoints.metadata.labels.get(SKIP_MIRROR) != "true" and LEADER not in endpoints.metadata.annotations


def wanted(endpoints: core_v1.Endpoints) -> dict[Group, Wanted]:
    """The endpoints of an Endpoints object, by group."""
    groups: dict[Group, Wanted] = {}
    for subset in endpoints.subsets:
        ports = [
            discovery_v1.EndpointPort(
                name=p.name or "", port=p.port, protocol=p.protocol or "TCP", appProtocol=p.appProtocol
            )
            for p in subset.ports
        ]
        for ready, addresses in ((True, subset.addresses), (False, subset.notReadyAddresses)):
            for address in addresses:
                family = service_endpoints.family_of(address.ip or "")
                if not family:
                    continue
                groups.setdefault(group_of(family, ports), Wanted(ports)).endpoints.append(
                    discovery_v1.Endpoint(
                        addresses=[address.ip or ""],
                        conditions=discovery_v1.EndpointConditions(ready=ready),
                        hostname=address.hostname,
                        nodeName=address.nodeName,
                        targetRef=address.targetRef,
                    )
                )
    return groups


def frame(endpoints: core_v1.Endpoints, groups: dict[Group, Wanted]) -> Frame:
    """Name, labels and owner of the mirrored slices."""
    name = objects.name(endpoints)
    labels = {**endpoints.metadata.labels, SERVICE_NAME: name, MANAGED_BY: MANAGER}
    found = tuple(dict.fromkeys(family for family, _ in groups)) or (service_endpoints.IPV4,)
    return Frame(name, objects.namespace(endpoints), labels, objects.owner_reference(endpoints), found)


class EndpointSliceMirroringController(Controller):
    """Keys are Services (and the Endpoints of the same name)."""

    name: ClassVar[str] = "endpointslicemirroring-controller"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._services = self.watch(core_v1.Service, self._on_object)
        self._endpoints = self.watch(core_v1.Endpoints, self._on_object)
        self._slices = self.watch(discovery_v1.EndpointSlice, self._on_slice, indexers={SERVICE_INDEX: by_service})
        self._writer = SliceWriter(self.client, self.clock)

    def _on_object(self, delta: Delta[core_v1.Service] | Delta[core_v1.Endpoints]) -> None:
        key = objects.key(delta.object)
        service = self._services.get(key)
        # Services with a selector are the other controller's; only a change from one to the other matters here
        if service is None or not service_endpoints.wants_endpoints(service) or self._mine(key):
            self.queue.add(key)

    def _on_slice(self, delta: Delta[discovery_v1.EndpointSlice]) -> None:
        if delta.object.metadata.labels.get(MANAGED_BY) == MANAGER:
            for key in by_service(delta.object):
                if self._writer.observe(key, delta):
                    self.queue.add(key)

    def _mine(self, key: str) -> list[discovery_v1.EndpointSlice]:
        found = self._slices.by_index(SERVICE_INDEX, key)
        return [s for s in found if s.metadata.labels.get(MANAGED_BY) == MANAGER and not objects.is_deleting(s)]

    async def reconcile(self, key: str) -> float | None:
        service, endpoints, existing = self._services.get(key), self._endpoints.get(key), self._mine(key)
        if self._writer.is_stale(key, existing):
            return LOOK_AGAIN_SECONDS  # normally the slices' event comes much sooner
        if endpoints is None or not should_mirror(service, endpoints):
            planned = endpoint_slice_plan.Plan(delete=existing)
        else:
            groups = wanted(endpoints)
            planned = endpoint_slice_plan.plan(frame(endpoints, groups), groups, existing)
        if planned.create or planned.update or planned.delete:
            await self._writer.write(key, planned)
        if service is None:
            self._writer.forget(key)
        return None
