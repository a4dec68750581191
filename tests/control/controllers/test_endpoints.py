from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.controllers import endpoint_slice_mirroring, endpoint_slice_plan, endpoints, service_endpoints
from control.controllers.endpoint_slice import EndpointSliceController
from control.controllers.endpoint_slice_mirroring import EndpointSliceMirroringController
from control.controllers.endpoint_slice_plan import MAX_ENDPOINTS, Plan, frame, plan, wanted
from control.controllers.endpoints import EndpointsController
from kube import objects
from kube.models import core_v1, discovery_v1, meta_v1
from tests.control.controllers.cluster import pod, running


def service(**spec: Any) -> core_v1.Service:
    spec.setdefault("selector", {"app": "web"})
    spec.setdefault("ports", [core_v1.ServicePort(name="http", port=80, targetPort=8080)])
    return core_v1.Service(
        metadata=meta_v1.ObjectMeta(name="web", namespace="default", uid="uid-of-web", labels={"team": "a"}),
        spec=core_v1.ServiceSpec(clusterIP=spec.pop("clusterIP", "10.96.0.9"), **spec),
    )


def serving(name: str, ip: str, *, port: int = 8080, node: str = "n1", **kwargs: Any) -> core_v1.Pod:
    kwargs.setdefault("ready", True)
    made = pod(name, node=node, **kwargs)
    assert made.spec is not None
    assert made.status is not None
    made.spec.containers = [
        core_v1.Container(name="c", ports=[core_v1.ContainerPort(name="http", containerPort=port, protocol="TCP")])
    ]
    made.status.podIP = ip
    made.status.podIPs = [core_v1.PodIP(ip=ip)]
    return made


def conditions(endpoint: discovery_v1.Endpoint | None) -> tuple[Any, Any, Any]:
    assert endpoint is not None
    assert endpoint.conditions is not None
    return endpoint.conditions.ready, endpoint.conditions.serving, endpoint.conditions.terminating


@pytest.mark.parametrize(
    ("ready", "deleting", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (False, False, True, (True, False, False)),
        (True, True, False, (False, True, True)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions(ready: bool, deleting: bool, publish: bool, expected: tuple[bool, bool, bool]) -> None:
    found = serving("p", "10.0.0.1", ready=ready, deleting=deleting)
    made = service_endpoints.endpoint(service(publishNotReadyAddresses=publish), found, "IPv4")
    assert conditions(made) == expected


@pytest.mark.parametrize(
    ("target", "expected"), [(None, 80), (0, 80), ("", 80), (9090, 9090), ("http", 8080), ("nope", None)]
)
def test_target_port(target: int | str | None, expected: int | None) -> None:
    port = core_v1.ServicePort(port=80, targetPort=target)
    assert service_endpoints.target_port(port, serving("p", "10.0.0.1")) == expected


def test_target_port_minds_the_protocol() -> None:
    port = core_v1.ServicePort(port=53, targetPort="http", protocol="UDP")
    assert service_endpoints.target_port(port, serving("p", "10.0.0.1")) is None


def test_endpoint_says_where_the_pod_is() -> None:
    found = serving("p", "10.0.0.1", node="n7")
    found.spec.hostname, found.spec.subdomain = "zero", "web"  # type: ignore[union-attr]
    made = service_endpoints.endpoint(service(trafficDistribution="PreferClose"), found, "IPv4", zone="z1")
    assert made is not None
    assert made.targetRef is not None
    assert (made.nodeName, made.zone, made.hostname, made.targetRef.name) == ("n7", "z1", "zero", "p")
    assert made.hints is not None
    assert [z.name for z in made.hints.forZones] == ["z1"]
    assert service_endpoints.endpoint(service(), found, "IPv6") is None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ipFamilies": ["IPv6", "IPv4"]}, ["IPv6", "IPv4"]),
        ({"clusterIP": "fd00::1"}, ["IPv6"]),
        ({"clusterIP": "None"}, ["IPv4"]),
        ({}, ["IPv4"]),
    ],
)
def test_families(spec: dict[str, Any], expected: list[str]) -> None:
    assert service_endpoints.families(service(**spec)) == expected


def test_pods_that_ended_or_have_no_address_are_no_candidates() -> None:
    assert not service_endpoints.is_candidate(pod())
    assert not service_endpoints.is_candidate(serving("p", "10.0.0.1", phase="Succeeded"))


def test_only_relevant_changes_count() -> None:
    one, other = serving("p", "10.0.0.1"), serving("p", "10.0.0.1")
    other.status.containerStatuses = []  # type: ignore[union-attr]
    other.metadata.annotations = {"a": "b"}
    assert not service_endpoints.has_changed(one, other)
    assert service_endpoints.has_changed(one, serving("p", "10.0.0.1", ready=False))


# --- slices -----------------------------------------------------------------------------------------------------------


class Slices:
    """Slices as the API would keep them."""

    def __init__(self) -> None:
        self.found: dict[str, discovery_v1.EndpointSlice] = {}
        self._next = 0

    def apply(self, planned: Plan) -> int:
        for made in planned.create:
            self._next += 1
            stored = objects.copy(made)
            stored.metadata.name = stored.metadata.uid = f"web-{self._next}"
            self.found[stored.metadata.name] = stored
        for made in planned.update:
            assert self.found[made.metadata.name or ""].addressType == made.addressType
            self.found[made.metadata.name or ""] = objects.copy(made)
        for gone in planned.delete:
            del self.found[gone.metadata.name or ""]
        return len(planned.create) + len(planned.update) + len(planned.delete)

    def sync(self, svc: core_v1.Service, pods: list[core_v1.Pod], limit: int = MAX_ENDPOINTS) -> int:
        return self.apply(plan(frame(svc), wanted(svc, pods, {}), [*self.found.values()], limit=limit))

    def addresses(self) -> list[str]:
        return sorted(a for s in self.found.values() for e in s.endpoints for a in e.addresses)


def many(count: int, start: int = 0) -> list[core_v1.Pod]:
    return [serving(f"p{i}", f"10.1.{i // 250}.{i % 250}") for i in range(start, start + count)]


def test_a_service_without_endpoints_has_one_empty_slice() -> None:
    slices = Slices()
    assert slices.sync(service(), []) == 1
    (found,) = slices.found.values()
    assert (found.endpoints, found.ports, found.addressType) == ([], [], "IPv4")
    assert found.metadata.labels == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert slices.sync(service(), []) == 0
    assert slices.sync(service(), many(1)) == 1
    assert len(slices.found) == 1, "the empty slice is used for the first endpoint"
    assert slices.sync(service(), []) == 1


def test_at_most_a_hundred_in_a_slice_and_changes_stay_local() -> None:
    slices, pods = Slices(), many(250)
    slices.sync(service(), pods)
    assert sorted(len(s.endpoints) for s in slices.found.values()) == [50, 100, 100]
    pods[7] = serving("p7", "10.1.0.7", ready=False)
    assert slices.sync(service(), pods) == 1
    assert slices.sync(service(), pods[1:]) == 1
    assert slices.sync(service(), [*pods[1:], *many(1, 300)]) == 1
    assert slices.sync(service(), [*pods[1:], *many(1, 300), *many(60, 400)]) == 1
    assert len(slices.found) == 4


def test_named_ports_that_differ_make_groups() -> None:
    svc = service(ports=[core_v1.ServicePort(name="http", port=80, targetPort="http")])
    slices = Slices()
    slices.sync(svc, [serving("a", "10.0.0.1", port=8080), serving("b", "10.0.0.2", port=9090)])
    assert sorted(s.ports[0].port or 0 for s in slices.found.values()) == [8080, 9090]


def test_a_changed_port_is_an_update_in_place() -> None:
    slices = Slices()
    slices.sync(service(), many(3))
    before = [*slices.found]
    assert slices.sync(service(ports=[core_v1.ServicePort(name="http", port=80, targetPort=81)]), many(3)) == 1
    assert [*slices.found] == before


def test_families_have_slices_of_their_own() -> None:
    slices = Slices()
    both = serving("a", "10.0.0.1")
    both.status.podIPs.append(core_v1.PodIP(ip="fd00::1"))  # type: ignore[union-attr]
    slices.sync(service(ipFamilies=["IPv4", "IPv6"]), [both])
    assert {s.addressType: s.endpoints[0].addresses for s in slices.found.values()} == {
        "IPv4": ["10.0.0.1"],
        "IPv6": ["fd00::1"],
    }
    slices.sync(service(ipFamilies=["IPv4"]), [both])
    assert [s.addressType for s in slices.found.values()] == ["IPv4"]


def test_changed_labels_of_the_service_reach_its_slices() -> None:
    slices = Slices()
    slices.sync(service(), many(2))
    changed = service(clusterIP="None")
    changed.metadata.labels = {"team": "b"}
    assert slices.sync(changed, many(2)) == 1
    (found,) = slices.found.values()
    assert found.metadata.labels["team"] == "b"
    assert found.metadata.labels["service.kubernetes.io/headless"] == ""


@given(st.lists(st.sets(st.integers(0, 40)), min_size=1, max_size=8), st.integers(1, 7))
def test_slices_are_exact_bounded_and_minimal(history: list[set[int]], limit: int) -> None:
    slices = Slices()
    current: set[int] = set()
    for members in history:
        pods = [serving(f"p{i}", f"10.0.0.{i}") for i in sorted(members)]
        touched = sum(
            any(int(e.addresses[0].rsplit(".", 1)[1]) not in members for e in s.endpoints)
            for s in slices.found.values()
        )
        placeholder = int(not current or not members)
        writes = slices.sync(service(), pods, limit)
        assert slices.addresses() == sorted(f"10.0.0.{i}" for i in members)
        assert all(len(s.endpoints) <= limit for s in slices.found.values())
        new = -(-len(members - current) // limit)
        assert writes <= touched + new + placeholder
        assert slices.sync(service(), pods, limit) == 0, "nothing is written twice"
        current = members


# --- Endpoints --------------------------------------------------------------------------------------------------------


def test_endpoints_object() -> None:
    pods = [serving("b", "10.0.0.2"), serving("a", "10.0.0.1"), serving("c", "10.0.0.3", ready=False)]
    made = endpoints.plan(service(), [*pods, serving("d", "10.0.0.4", deleting=True)], None)
    assert made is not None
    (subset,) = made.subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.1", "10.0.0.2"]
    assert [a.ip for a in subset.notReadyAddresses] == ["10.0.0.3"]
    assert [(p.name, p.port, p.protocol) for p in subset.ports] == [("http", 8080, "TCP")]
    assert endpoints.plan(service(), pods, made) is None


def test_endpoints_group_ports_by_the_pods_that_have_them() -> None:
    svc = service(
        ports=[
            core_v1.ServicePort(name="http", port=80, targetPort="http"),
            core_v1.ServicePort(name="metrics", port=9, targetPort=9),
        ]
    )
    made = endpoints.plan(svc, [serving("a", "10.0.0.1", port=1), serving("b", "10.0.0.2", port=2)], None)
    assert made is not None
    shape = [([p.port for p in s.ports], [a.ip for a in s.addresses]) for s in made.subsets]
    assert sorted(shape) == [([1], ["10.0.0.1"]), ([2], ["10.0.0.2"]), ([9], ["10.0.0.1", "10.0.0.2"])]


def test_endpoints_of_a_headless_service_without_ports() -> None:
    made = endpoints.plan(service(ports=[], clusterIP="None"), [serving("a", "10.0.0.1")], None)
    assert made is not None
    (subset,) = made.subsets
    assert ([a.ip for a in subset.addresses], subset.ports) == (["10.0.0.1"], [])


def test_endpoints_are_cut_at_a_thousand() -> None:
    made = endpoints.plan(service(), many(1001), None)
    assert made is not None
    assert sum(len(s.addresses) for s in made.subsets) == 1000
    assert made.metadata.annotations == {endpoints.OVER_CAPACITY: "truncated"}


# --- the controllers --------------------------------------------------------------------------------------------------


async def test_pods_come_and_go() -> None:
    async with running(EndpointSliceController, EndpointsController) as cluster:
        svc = service()
        svc.metadata.uid = None
        await cluster.client.create(svc)
        await cluster.settle()
        assert len(cluster.api.all("EndpointSlice")) == 1
        assert len(cluster.api.all("Endpoints")) == 1
        for made in many(20):
            cluster.api.put(objects.to_dict(made))
        before = len(cluster.api.requests)
        await cluster.settle()
        assert len(cluster.api.requests) - before <= 4, "a burst of pods is one write or two"
        (found,) = cluster.api.all("EndpointSlice")
        assert len(found["endpoints"]) == 20
        (legacy,) = cluster.api.all("Endpoints")
        assert len(legacy["subsets"][0]["addresses"]) == 20
        cluster.api.remove("Pod", "p3", "default")
        await cluster.settle()
        (found,) = cluster.api.all("EndpointSlice")
        assert len(found["endpoints"]) == 19
        cluster.api.remove("Service", "web", "default")
        await cluster.settle()
        assert cluster.api.all("Endpoints") == []


async def test_a_stale_cache_makes_no_second_slice() -> None:
    async with running(EndpointSliceController) as cluster:
        # the cache learns of the Service and its pods, but never of the slices that are made for them
        cluster.api.hold("endpointslices.discovery.k8s.io")
        cluster.api.put(objects.to_dict(service()))
        await cluster.advance(1)
        for made in many(3):
            cluster.api.put(objects.to_dict(made))
            await cluster.advance(1)
        assert len(cluster.api.all("EndpointSlice")) == 1
        cluster.api.release()
        await cluster.settle()
        (found,) = cluster.api.all("EndpointSlice")
        assert len(found["endpoints"]) == 3


async def test_hand_made_endpoints_are_mirrored() -> None:
    async with running(EndpointSliceMirroringController, EndpointsController) as cluster:
        cluster.api.put(objects.to_dict(service(selector={})))
        mine = core_v1.Endpoints(
            metadata=meta_v1.ObjectMeta(name="web", namespace="default"),
            subsets=[
                core_v1.EndpointSubset(
                    addresses=[core_v1.EndpointAddress(ip="192.0.2.1"), core_v1.EndpointAddress(ip="2001:db8::1")],
                    notReadyAddresses=[core_v1.EndpointAddress(ip="192.0.2.2")],
                    ports=[core_v1.EndpointPort(port=5432)],
                )
            ],
        )
        cluster.api.put(objects.to_dict(mine))
        await cluster.settle()
        slices = {s["addressType"]: s for s in cluster.api.all("EndpointSlice")}
        assert [e["conditions"]["ready"] for e in slices["IPv4"]["endpoints"]] == [True, False]
        assert slices["IPv6"]["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
        assert cluster.api.find("Endpoints", "web", "default") is not None
        cluster.api.remove("Endpoints", "web", "default")
        await cluster.settle()
        assert cluster.api.all("EndpointSlice") == []


def test_what_is_mirrored() -> None:
    mine = core_v1.Endpoints(metadata=meta_v1.ObjectMeta(name="web", namespace="default"))
    should = endpoint_slice_mirroring.should_mirror
    assert should(service(selector={}), mine)
    assert not should(service(), mine)
    assert not should(None, mine)
    mine.metadata.labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    assert not should(service(selector={}), mine)
    assert endpoint_slice_plan.MANAGER != endpoint_slice_mirroring.MANAGER
