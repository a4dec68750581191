"""Which EndpointSlices to write so that they hold the wanted endpoints, with as few writes as possible. Pure.

The problem: a Service may have thousands of endpoints, every node watches all slices, and each change of a slice goes
to each of them. So slices are filled and emptied in place: an endpoint stays in the slice it is in, new ones go first
into slices that change anyway, then all into one that has room, and only then into new slices; half-empty slices are
not merged just for tidiness.

A slice holds endpoints of one address family with the same ports. A Service without endpoints keeps one empty slice
per family, which tells its watchers that there are none (and not: none yet).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, field

from control.controllers import service_endpoints
from kube import objects
from kube.models import core_v1, discovery_v1, meta_v1

MAX_ENDPOINTS = 100
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"

Group = tuple[str, bytes]
"""Address family and canonical ports: what the endpoints of one slice have in common."""


class Wanted(Struct):
    """Endpoints that share a group, and the ports they share."""

    ports: list[discovery_v1.EndpointPort]
    endpoints: list[discovery_v1.Endpoint] = field(default_factory=list)


class Frame(Struct, frozen=True):
    """What all slices of a Service have in common."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    owner: meta_v1.OwnerReference
    families: tuple[str, ...]


class Plan(Struct):
    """Slices to create, to update (whole objects, over the version they were read at) and to delete."""

    create: list[discovery_v1.EndpointSlice] = field(default_factory=list)
    update: list[discovery_v1.EndpointSlice] = field(default_factory=list)
    delete: list[discovery_v1.EndpointSlice] = field(default_factory=list)


def group_of(family: str, ports: Sequence[discovery_v1.EndpointPort]) -> Group:
    """The group of endpoints of a family with these ports."""
    return family, objects.encode(sorted(ports, key=lambda p: (p.name or "", p.protocol or "", p.port or 0)))


def frame(service: core_v1.Service) -> Frame:
    """Name, labels and owner of a Service's slices."""
    labels = {k: v for k, v in objects.meta(service).labels.items() if k not in (SERVICE_NAME, MANAGED_BY)}
    labels |= {SERVICE_NAME: objects.name(service), MANAGED_BY: MANAGER}
    labels.pop(service_endpoints.HEADLESS_LABEL, None)
    if service_endpoints.is_headless(service):
        labels[service_endpoints.HEADLESS_LABEL] = ""
    return Frame(
        objects.name(service),
        objects.namespace(service),
        labels,
        objects.owner_reference(service),
        tuple(service_endpoints.families(service)),
    )


def wanted(service: core_v1.Service, pods: Iterable[core_v1.Pod], zones: Mapping[str, str]) -> dict[Group, Wanted]:
    """The endpoints that a Service should have, by group. `pods` are those that it selects."""
    groups: dict[Group, Wanted] = {}
    found_families = service_endpoints.families(service)
    for pod in pods:
        if not service_endpoints.is_candidate(pod):
            continue
        ports = service_endpoints.endpoint_ports(service, pod)
        zone = zones.get((pod.spec.nodeName if pod.spec else None) or "")
        for family in found_families:
            endpoint = service_endpoints.endpoint(service, pod, family, zone=zone)
            if endpoint is not None:
                groups.setdefault(group_of(family, ports), Wanted(ports)).endpoints.append(endpoint)
    return groups


def plan(
    common: Frame,
    groups: Mapping[Group, Wanted],
    existing: Sequence[discovery_v1.EndpointSlice],
    *,
    limit: int = MAX_ENDPOINTS,
) -> Plan:
    """Difference between wanted endpoints and existing slices; nothing at all if they agree."""
    result = Plan()
    by_group: dict[Group, list[discovery_v1.EndpointSlice]] = defaultdict(list)
    for found in existing:
        if found.addressType not in common.families:
            result.delete.append(found)
        else:
            by_group[group_of(found.addressType or "", found.ports)].append(found)
    for family in common.families:
        part = Plan()
        mine = [group for group in {**groups, **by_group} if group[0] == family]
        for group in mine:
            want = groups.get(group)
            _fill(part, common, group, want or Wanted([]), by_group.get(group, []), limit)
        if not any(groups[group].endpoints for group in mine if group in groups):
            _keep_one_empty(part, common, family, [s for group in mine for s in by_group.get(group, [])])
        _reuse(part)
        result.create += part.create
        result.update += part.update
        result.delete += part.delete
    return result


def _fill(
    result: Plan,
    common: Frame,
    group: Group,
    want: Wanted,
    existing: Sequence[discovery_v1.EndpointSlice],
    limit: int,
) -> None:
    """Bring the slices of one group to the wanted endpoints."""
    left = {_identity(endpoint): endpoint for endpoint in want.endpoints}
    changed: list[tuple[discovery_v1.EndpointSlice, list[discovery_v1.Endpoint]]] = []
    unchanged: list[discovery_v1.EndpointSlice] = []
    for found in existing:
        kept = []
        for endpoint in found.endpoints:
            fresh = left.pop(_identity(endpoint), None)
            if fresh is not None:
                kept.append(fresh)
        if kept == found.endpoints and kept and _is_framed(common, found):
            unchanged.append(found)
        else:
            changed.append((found, kept))
    new = [*left.values()]
    # first into slices that are written anyway, the fullest first: fewer slices in the long run
    for _, kept in sorted(changed, key=lambda pair: -len(pair[1])):
        if kept:
            room = max(0, limit - len(kept))
            kept += new[:room]
            del new[:room]
    while new:
        if len(new) < limit:
            roomy = [s for s in unchanged if len(s.endpoints) + len(new) <= limit]
            if roomy:
                fullest = max(roomy, key=lambda s: len(s.endpoints))
                unchanged.remove(fullest)
                changed.append((fullest, [*fullest.endpoints, *new]))
                break
        result.create.append(_slice(common, group[0], want.ports, new[:limit]))
        del new[:limit]
    for found, kept in changed:
        if kept:
            result.update.append(_updated(common, found, found.ports, kept))
        else:
            result.delete.append(found)


def _keep_one_empty(result: Plan, common: Frame, family: str, existing: Sequence[discovery_v1.EndpointSlice]) -> None:
    """Without any endpoint, one slice without ports stays (or is made)."""
    empty = next((s for s in existing if not s.endpoints and not s.ports and _is_framed(common, s)), None)
    if empty is None:
        result.create.append(_slice(common, family, [], []))
    else:
        result.delete = [s for s in result.delete if s is not empty]


def _reuse(result: Plan) -> None:
    """Write a new slice over one that would be deleted: one write instead of two."""
    while result.create and result.delete:
        fresh, victim = result.create.pop(), result.delete.pop()
        result.update.append(
            msgspec.structs.replace(
                fresh,
                metadata=msgspec.structs.replace(
                    victim.metadata, labels=fresh.metadata.labels, ownerReferences=fresh.metadata.ownerReferences
                ),
            )
        )


def _slice(
    common: Frame,
    family: str,
    ports: Sequence[discovery_v1.EndpointPort],
    endpoints: Sequence[discovery_v1.Endpoint],
) -> discovery_v1.EndpointSlice:
    return discovery_v1.EndpointSlice(
        metadata=meta_v1.ObjectMeta(
            generateName=f"{common.name}-",
            namespace=common.namespace,
            labels=dict(common.labels),
            ownerReferences=[common.owner],
        ),
        addressType=family,
        ports=[*ports],
        endpoints=[*endpoints],
    )


def _updated(
    common: Frame,
    found: discovery_v1.EndpointSlice,
    ports: Sequence[discovery_v1.EndpointPort],
    endpoints: Sequence[discovery_v1.Endpoint],
) -> discovery_v1.EndpointSlice:
    metadata = msgspec.structs.replace(found.metadata, labels=dict(common.labels), ownerReferences=[common.owner])
    return msgspec.structs.replace(found, metadata=metadata, ports=[*ports], endpoints=[*endpoints])


def _is_framed(common: Frame, found: discovery_v1.EndpointSlice) -> bool:
    meta = found.metadata
    return meta.labels == common.labels and any(o.uid == common.owner.uid for o in meta.ownerReferences)


def _identity(endpoint: discovery_v1.Endpoint) -> tuple[object, ...]:
    """What makes two endpoints the same in spite of changed conditions."""
    return (*endpoint.addresses, endpoint.targetRef.uid if endpoint.targetRef else None, endpoint.hostname)
