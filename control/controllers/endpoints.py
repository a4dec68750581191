"""The older Endpoints object, one per Service with a selector (Kubernetes: endpoints-controller).

Programs and people still read it (`kubectl get endpoints`); the proxy uses EndpointSlices. Same pods, same ports, in
one object of at most 1000 addresses and one address family.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar

from control.controllers import service_endpoints
from control.controllers.controller import Context
from control.controllers.service_account import is_moot
from control.controllers.service_pods import ServicePodsController
from kube import objects
from kube.informer import DELETED, Delta
from kube.models import core_v1, discovery_v1, meta_v1
from kube.status import ApiError, is_already_exists, is_not_found

MAX_ADDRESSES = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"

_Address = tuple[bool, core_v1.EndpointAddress]


def plan(
    service: core_v1.Service, pods: Iterable[core_v1.Pod], current: core_v1.Endpoints | None
) -> core_v1.Endpoints | None:
    """The Endpoints object to write (create it if `current` is None); None if it is as it should be.

    `pods` are those that the Service selects. Pods that are being deleted are left out, unless not-ready addresses
    are published.
    """
    family = service_endpoints.families(service)[0]
    publish = bool(service.spec and service.spec.publishNotReadyAddresses)
    found = []
    for pod in pods:
        if not service_endpoints.is_candidate(pod) or (objects.is_deleting(pod) and not publish):
            continue
        endpoint = service_endpoints.endpoint(service, pod, family)
        if endpoint is not None:
            found.append((endpoint, service_endpoints.endpoint_ports(service, pod)))
    found.sort(key=lambda pair: (not _is_ready(pair[0]), pair[0].addresses[0]))
    annotations = dict(current.metadata.annotations) if current is not None else {}
    annotations.pop(OVER_CAPACITY, None)
    if len(found) > MAX_ADDRESSES:
        annotations[OVER_CAPACITY] = "truncated"
        found = found[:MAX_ADDRESSES]
    labels = {**objects.meta(service).labels, MANAGED_BY: MANAGER}
    labels.pop(service_endpoints.HEADLESS_LABEL, None)
    if service_endpoints.is_headless(service):
        labels[service_endpoints.HEADLESS_LABEL] = ""
    wanted = core_v1.Endpoints(
        metadata=meta_v1.ObjectMeta(
            name=objects.name(service),
            namespace=objects.namespace(service),
            labels=labels,
            annotations=annotations,
            resourceVersion=current.metadata.resourceVersion if current is not None else None,
        ),
        subsets=subsets(found),
    )
    if current is not None and (
        current.subsets == wanted.subsets
        and current.metadata.labels == labels
        and current.metadata.annotations == annotations
    ):
        return None
    return wanted


def subsets(
    found: Iterable[tuple[discovery_v1.Endpoint, list[discovery_v1.EndpointPort]]],
) -> list[core_v1.EndpointSubset]:
    """Endpoints and their ports as subsets: ports that exist on the same pods stand together.

    A named port may have another number on each pod; then there is a subset for each number.
    """
    pods_of_port: dict[bytes, dict[tuple[str, bool], _Address]] = defaultdict(dict)
    port_of: dict[bytes, core_v1.EndpointPort | None] = {}
    for endpoint, ports in found:
        ready = _is_ready(endpoint)
        place = (endpoint.addresses[0], ready)
        legacy = [core_v1.EndpointPort(name=p.name or None, port=p.port, protocol=p.protocol) for p in ports]
        entries: list[core_v1.EndpointPort | None] = [*legacy] or [None]
        for port in entries:
            canonical = objects.encode(port)
            port_of[canonical] = port
            pods_of_port[canonical][place] = (ready, _address(endpoint))
    grouped: dict[tuple[tuple[str, bool], ...], list[core_v1.EndpointPort]] = {}
    members: dict[tuple[tuple[str, bool], ...], list[_Address]] = {}
    for canonical in sorted(pods_of_port):
        addresses = pods_of_port[canonical]
        group = tuple(sorted(addresses))
        known = port_of[canonical]
        grouped.setdefault(group, []).extend([known] if known is not None else [])
        members.setdefault(group, [addresses[place] for place in group])
    return [
        core_v1.EndpointSubset(
            addresses=[address for ready, address in members[group] if ready],
            notReadyAddresses=[address for ready, address in members[group] if not ready],
            ports=grouped[group],
        )
        for group in sorted(grouped, key=lambda g: (objects.encode(grouped[g]), g))
    ]


def _is_ready(endpoint: discovery_v1.Endpoint) -> bool:
    return bool(endpoint.conditions and endpoint.conditions.ready)


def _address(endpoint: discovery_v1.Endpoint) -> core_v1.EndpointAddress:
    return core_v1.EndpointAddress(
        ip=endpoint.addresses[0],
        hostname=endpoint.hostname,
        nodeName=endpoint.nodeName,
        targetRef=endpoint.targetRef,
    )


class EndpointsController(ServicePodsController):
    """Keeps the Endpoints object of each Service."""

    name: ClassVar[str] = "endpoint-controller"
    workers: ClassVar[int] = 5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._endpoints = self.watch(core_v1.Endpoints, self._on_endpoints)

    def _on_endpoints(self, delta: Delta[core_v1.Endpoints]) -> None:
        # also when the cache first fills: what belongs to no Service any more is removed
        if delta.type == DELETED or delta.old is None:
            self.queue.add(objects.key(delta.object))

    async def reconcile(self, key: str) -> float | None:
        service, current = self.services.get(key), self._endpoints.get(key)
        if service is None:
            # only what this controller made: users may keep Endpoints of their own for Services to come
            if current is not None and current.metadata.labels.get(MANAGED_BY) == MANAGER:
                await self._delete(current)
            return None
        if not service_endpoints.wants_endpoints(service) or objects.is_deleting(service):
            return None
        wanted = plan(service, self.selected_pods(service), current)
        if wanted is None:
            return None
        if current is not None:
            await self.client.update(wanted)
            return None
        try:
            await self.client.create(wanted)
        except ApiError as error:
            if not is_moot(error):
                raise
            if not is_already_exists(error):
                return None  # the namespace is going, and the Service with it
            # the cache lags behind: its event will not come as a deletion, so look again
            return 1.0
        return None

    async def _delete(self, current: core_v1.Endpoints) -> None:
        namespace, name = objects.split_key(objects.key(current))
        try:
            await self.client.delete(core_v1.Endpoints, name, namespace=namespace, uid=objects.uid(current))
        except ApiError as error:
            if not is_not_found(error):
                raise
