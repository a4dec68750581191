"""Admission plugins: what they add, and what they refuse."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from control.api.admission.certificate_request import CertificateRequest
from control.api.admission.default_toleration_seconds import DefaultTolerationSeconds
from control.api.admission.node_restriction import NodeRestriction
from control.api.admission.priority import Priority
from control.api.admission.service_account import ACCOUNTS, MOUNT_PATH, ServiceAccount
from control.api.admission.service_addresses import SERVICES, ServiceAddresses
from control.api.attributes import Attributes, Operation, UserInfo
from control.api.resources import priority_class
from kube import kinds
from kube.clock import VirtualClock
from kube.status import ApiError
from tests.control.api.objects_in_memory import ObjectsInMemory

JANE = UserInfo("jane", groups=("dev",))
NODE = UserInfo("system:node:n1", groups=("system:nodes",))
CREATE, UPDATE = Operation.CREATE, Operation.UPDATE


def attributes(resource: str = "pods", user: UserInfo = JANE, **more: Any) -> Attributes:
    plain, _, subresource = resource.partition("/")
    return Attributes(
        user=user, verb="create", resource=plain, subresource=subresource, **{"namespace": "a", "name": "x", **more}
    )


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "namespace": "a"}, "spec": {"containers": [{"name": "c"}], **spec}}


async def test_default_tolerations_are_added_unless_the_pod_says_otherwise() -> None:
    plugin, obj = DefaultTolerationSeconds(), pod()
    await plugin.admit(obj, None, CREATE, attributes())
    assert [t["tolerationSeconds"] for t in obj["spec"]["tolerations"]] == [300, 300]
    own = pod(tolerations=[{"operator": "Exists"}])
    await plugin.admit(own, None, CREATE, attributes())
    assert own["spec"]["tolerations"] == [{"operator": "Exists"}]


async def test_priority_from_class_default_and_system() -> None:
    objects = ObjectsInMemory()
    plugin = Priority(objects)
    obj = pod()
    await plugin.admit(obj, None, CREATE, attributes())
    assert obj["spec"]["priority"] == 0
    objects.put(priority_class.KIND, {"metadata": {"name": "high"}, "value": 7, "globalDefault": True})
    obj = pod()
    await plugin.admit(obj, None, CREATE, attributes())
    assert (obj["spec"]["priorityClassName"], obj["spec"]["priority"]) == ("high", 7)
    obj = pod(priorityClassName="system-node-critical")
    await plugin.admit(obj, None, CREATE, attributes())
    assert obj["spec"]["priority"] == 2_000_001_000
    with pytest.raises(ApiError, match="no PriorityClass with name none"):
        await plugin.admit(pod(priorityClassName="none"), None, CREATE, attributes())


async def test_service_account_is_set_and_its_token_mounted_once() -> None:
    objects, clock = ObjectsInMemory(), VirtualClock()
    objects.put(ACCOUNTS, {"metadata": {"name": "default", "namespace": "a"}})
    plugin, obj = ServiceAccount(objects, clock), pod()
    for _ in range(2):
        await plugin.admit(obj, None, CREATE, attributes())
    assert obj["spec"]["serviceAccountName"] == "default"
    (volume,) = obj["spec"]["volumes"]
    (mount,) = obj["spec"]["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], MOUNT_PATH)
    silent = pod(automountServiceAccountToken=False)
    await plugin.admit(silent, None, CREATE, attributes())
    assert "volumes" not in silent["spec"]


async def test_a_namespaces_default_account_is_waited_for_a_moment() -> None:
    objects, clock = ObjectsInMemory(), VirtualClock()
    plugin = ServiceAccount(objects, clock)
    waiting = asyncio.create_task(plugin.admit(pod(), None, CREATE, attributes()))
    await clock.advance(0.35)
    objects.put(ACCOUNTS, {"metadata": {"name": "default", "namespace": "a"}})
    await clock.advance(0.2)
    await waiting
    with pytest.raises(ApiError, match='serviceaccount "robot" not found'):
        await plugin.admit(pod(serviceAccountName="robot"), None, CREATE, attributes())


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "protocol": "TCP"}]
    return {"metadata": {"name": name, "namespace": "a"}, "spec": {"type": "ClusterIP", "ports": ports, **spec}}


def addresses(
    objects: ObjectsInMemory, network: str = "10.96.0.0/28", ports: range = range(30000, 30003)
) -> ServiceAddresses:
    return ServiceAddresses(objects, ipaddress.IPv4Network(network), ports, VirtualClock())


async def test_every_service_gets_an_address_of_its_own_until_none_is_left() -> None:
    objects = ObjectsInMemory()
    plugin = addresses(objects)
    seen = set()
    for number in range(13):
        obj = service(f"s{number}")
        await plugin.admit(obj, None, CREATE, attributes("services"))
        assert obj["spec"]["clusterIPs"] == [obj["spec"]["clusterIP"]]
        seen.add(obj["spec"]["clusterIP"])
        objects.put(SERVICES, obj)
    assert seen == {f"10.96.0.{i}" for i in range(2, 15)}
    with pytest.raises(ApiError, match="is in use: delete Services"):
        await plugin.admit(service("more"), None, CREATE, attributes("services"))
    objects.remove(SERVICES, "a", "s3")
    await plugin.admit(service("again"), None, CREATE, attributes("services"))


async def test_two_creations_at_once_never_share_an_address() -> None:
    plugin = addresses(ObjectsInMemory())
    first, second = service("a", clusterIP="10.96.0.5"), service("b", clusterIP="10.96.0.5")
    await plugin.admit(first, None, CREATE, attributes("services"))
    with pytest.raises(ApiError, match="already allocated"):
        await plugin.admit(second, None, CREATE, attributes("services"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"clusterIP": "10.97.0.1"}, "not in the service network"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}, "30000-30002"),
    ],
)
async def test_addresses_out_of_range_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words):
        await addresses(ObjectsInMemory()).admit(service(**spec), None, CREATE, attributes("services"))


async def test_headless_and_external_services_get_none_and_an_update_keeps_its_own() -> None:
    objects = ObjectsInMemory()
    plugin = addresses(objects)
    headless = service(clusterIP="None")
    await plugin.admit(headless, None, CREATE, attributes("services"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    external = service(type="ExternalName", externalName="x.y")
    await plugin.admit(external, None, CREATE, attributes("services"))
    assert "clusterIP" not in external["spec"]
    own = service("n", type="NodePort")
    await plugin.admit(own, None, CREATE, attributes("services"))
    objects.put(SERVICES, own)
    again = service("n", type="NodePort", clusterIP=own["spec"]["clusterIP"], ports=own["spec"]["ports"])
    await plugin.admit(again, own, UPDATE, attributes("services"))
    assert again["spec"]["ports"] == own["spec"]["ports"]


async def test_the_requestor_of_a_certificate_is_the_caller() -> None:
    obj = {"spec": {"username": "system:masters", "groups": ["system:masters"], "uid": "0"}}
    asked = attributes("certificatesigningrequests", group="certificates.k8s.io")
    await CertificateRequest().admit(obj, None, CREATE, asked)
    assert obj["spec"] == {"username": "jane", "groups": ["dev"]}


@pytest.mark.parametrize(
    ("obj", "old", "operation", "asked", "words"),
    [
        ({"metadata": {"name": "n2"}}, None, CREATE, attributes("nodes", NODE, name=""), "its own Node"),
        (
            {"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}}},
            None,
            CREATE,
            attributes("nodes", NODE, name="n1"),
            "may not set the labels",
        ),
        (
            {"metadata": {"name": "n1"}, "spec": {}},
            {"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}},
            UPDATE,
            attributes("nodes", NODE, name="n1"),
            "its own taints",
        ),
        (pod(), None, CREATE, attributes("pods", NODE), "may not create pods"),
        (pod(nodeName="n2"), pod(nodeName="n2"), UPDATE, attributes("pods/status", NODE), "bound to it"),
        (pod(nodeName="n1"), pod(nodeName="n1"), UPDATE, attributes("pods", NODE), "only change the status"),
        ({"spec": {}}, None, CREATE, attributes("serviceaccounts/token", NODE), "bound to a pod"),
        ({"metadata": {"name": "n2"}}, None, CREATE, attributes("leases", NODE, name=""), "lease of its own name"),
    ],
)
async def test_a_node_is_kept_to_itself(
    obj: dict[str, Any], old: dict[str, Any] | None, operation: Operation, asked: Attributes, words: str
) -> None:
    with pytest.raises(ApiError, match=words):
        await NodeRestriction(ObjectsInMemory()).admit(obj, old, operation, asked)


async def test_a_node_gets_tokens_for_its_own_pods_only() -> None:
    objects = ObjectsInMemory()
    pods = kinds.known("", "v1", "pods")
    for name, node in (("mine", "n1"), ("theirs", "n2")):
        objects.put(pods, {"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": {"nodeName": node}})
    plugin = NodeRestriction(objects)

    def request(name: str) -> dict[str, Any]:
        return {"spec": {"boundObjectRef": {"kind": "Pod", "name": name, "uid": name}}}

    await plugin.admit(request("mine"), None, CREATE, attributes("serviceaccounts/token", NODE))
    with pytest.raises(ApiError, match="bound to it"):
        await plugin.admit(request("theirs"), None, CREATE, attributes("serviceaccounts/token", NODE))


async def test_a_dry_run_holds_no_address() -> None:
    plugin = addresses(ObjectsInMemory())
    spec = {"type": "NodePort", "clusterIP": "10.96.0.5", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}
    await plugin.admit(service("a", **spec), None, CREATE, attributes("services", dry_run=True))
    await plugin.admit(service("b", **spec), None, CREATE, attributes("services"))


async def test_a_service_that_is_tried_again_or_made_again_gets_what_it_asks_for() -> None:
    objects = ObjectsInMemory()
    plugin = addresses(objects)
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30001}]
    wanted = service("a", type="NodePort", clusterIP="10.96.0.5", ports=ports)
    for _ in range(2):
        await plugin.admit(wanted, None, CREATE, attributes("services"))
    objects.put(SERVICES, wanted)
    with pytest.raises(ApiError, match="already allocated"):
        await plugin.admit(service("b", clusterIP="10.96.0.5"), None, CREATE, attributes("services"))
    objects.remove(SERVICES, "a", "a")
    await plugin.admit(service("b", clusterIP="10.96.0.5"), None, CREATE, attributes("services"))


async def test_one_service_does_not_get_one_node_port_twice() -> None:
    plugin = addresses(ObjectsInMemory())
    obj = service(type="NodePort", ports=[{"port": n, "protocol": "TCP"} for n in (1, 2, 3)])
    await plugin.admit(obj, None, CREATE, attributes("services"))
    assert sorted(p["nodePort"] for p in obj["spec"]["ports"]) == [30000, 30001, 30002]
    twice = [{"port": n, "protocol": "TCP", "nodePort": 30000} for n in (1, 2)]
    with pytest.raises(ApiError, match="already allocated"):
        await addresses(ObjectsInMemory()).admit(
            service(type="NodePort", ports=twice), None, CREATE, attributes("services")
        )
