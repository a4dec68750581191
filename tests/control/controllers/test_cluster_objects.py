"""Namespaces, what every cluster has, service accounts, CA, and things that expire."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from control.controllers import kubernetes_service, namespace, root_ca_publisher, service_account, ttl
from control.controllers.config import ControllersConfig
from control.controllers.controller import Controller
from control.controllers.controllers import Controllers
from control.controllers.kubernetes_service import Address, KubernetesServiceController
from control.controllers.namespace import Content, NamespaceController
from control.controllers.root_ca_publisher import RootCAPublisher
from control.controllers.service_account import ServiceAccountController
from control.controllers.ttl import EventTTL, TokenCleaner
from kube import objects, pki, times
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from kube.transport import Request
from tests.control.controllers.cluster import NOW, Cluster, pod, running, stamp

WHERE = Address(
    addresses=("192.0.2.10",), port=6443, service_cidr="10.96.0.0/16", url="https://192.0.2.10:6443", ca="PEM\n"
)


def space(name: str = "web", *, deleting: bool = False) -> core_v1.Namespace:
    return core_v1.Namespace(
        metadata=meta_v1.ObjectMeta(name=name, deletionTimestamp=stamp() if deleting else None),
        spec=core_v1.NamespaceSpec(finalizers=["kubernetes"]),
        status=core_v1.NamespaceStatus(phase="Terminating" if deleting else "Active"),
    )


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_conditions_of_a_namespace_that_waits() -> None:
    content = Content({"pods": 2}, {"x.io/f": 1}, {}, {"secrets": "no"})
    found = {c.type: c for c in namespace.conditions(content, [], now=NOW)}
    assert {t: c.status for t, c in found.items()} == {
        "NamespaceDeletionDiscoveryFailure": "False",
        "NamespaceDeletionGroupVersionParsingFailure": "False",
        "NamespaceDeletionContentFailure": "True",
        "NamespaceContentRemaining": "True",
        "NamespaceFinalizersRemaining": "True",
    }
    assert found["NamespaceContentRemaining"].message == "Some resources are remaining: pods. has 2 resource instances"
    again = namespace.conditions(content, [*found.values()], now=NOW + 60)
    assert again == [*found.values()]


async def test_an_emptied_namespace_goes() -> None:
    async with running(NamespaceController) as cluster:
        await cluster.client.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="default")))
        cluster.api.put(objects.to_dict(pod("p")))
        config = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="c", namespace="default"))
        await cluster.client.create(config)
        elsewhere = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="c", namespace="other"))
        await cluster.client.create(elsewhere)
        await cluster.client.delete(core_v1.Namespace, "default")
        await cluster.settle()
        assert cluster.api.all("Pod") != [], "kubectl delete -f still has to delete what is in the namespace"
        await cluster.advance(namespace.DELETION_DELAY_SECONDS)
        assert cluster.api.all("Namespace") == []
        assert [c["metadata"]["namespace"] for c in cluster.api.all("ConfigMap")] == ["other"]
        assert cluster.api.all("Pod") == []


async def test_a_namespace_waits_for_finalizers_and_says_so() -> None:
    async with running(NamespaceController) as cluster:
        await cluster.client.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="web")))
        kept = core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="c", namespace="web", finalizers=["x.io/f"]))
        await cluster.client.create(kept)
        await cluster.client.delete(core_v1.Namespace, "web")
        await cluster.advance(namespace.DELETION_DELAY_SECONDS)
        found = cluster.api.find("Namespace", "web")
        assert found is not None
        remaining = next(c for c in found["status"]["conditions"] if c["type"] == "NamespaceFinalizersRemaining")
        assert remaining["status"] == "True"
        cluster.api.remove("ConfigMap", "c", "web")
        await cluster.advance(3)
        assert cluster.api.find("Namespace", "web") is None


async def test_what_cannot_be_listed_keeps_the_namespace() -> None:
    async with running(NamespaceController) as cluster:
        await cluster.client.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="web")))

        def refuse(request: Request) -> ApiError | None:
            return ApiError(500, "InternalError", "broken") if request.path.endswith("/batch/v1") else None

        cluster.api.refuse = refuse
        await cluster.client.delete(core_v1.Namespace, "web")
        await cluster.advance(5)
        found = cluster.api.find("Namespace", "web")
        assert found is not None
        assert found["status"]["conditions"][0]["status"] == "True"
        cluster.api.refuse = lambda _: None
        await cluster.advance(3)
        assert cluster.api.find("Namespace", "web") is None


# --- accounts and the CA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "account", "expected"),
    [
        (space(), None, True),
        (space(), core_v1.ServiceAccount(), False),
        (space(deleting=True), None, False),
        (None, None, False),
    ],
)
def test_default_accounts(
    found: core_v1.Namespace | None, account: core_v1.ServiceAccount | None, expected: bool
) -> None:
    assert (service_account.plan(found, account) is not None) is expected


def test_the_ca_is_published_and_put_right() -> None:
    wanted = root_ca_publisher.plan(space(), None, "PEM")
    assert wanted is not None
    assert wanted.data == {"ca.crt": "PEM"}
    assert root_ca_publisher.plan(space(), wanted, "PEM") is None
    wanted.data["ca.crt"] = "forged"
    assert root_ca_publisher.plan(space(), wanted, "PEM") is not None
    assert root_ca_publisher.plan(space(deleting=True), None, "PEM") is None


async def test_new_namespaces_are_furnished() -> None:
    async with running(ServiceAccountController, partial(RootCAPublisher, ca="PEM")) as cluster:
        await cluster.client.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="web")))
        await cluster.settle()
        assert cluster.api.find("ServiceAccount", "default", "web") is not None
        assert cluster.api.find("ConfigMap", "kube-root-ca.crt", "web") is not None
        await cluster.client.delete(core_v1.ServiceAccount, "default", namespace="web")
        cluster.api.change("ConfigMap", "kube-root-ca.crt", "web", data={"ca.crt": "forged"})
        await cluster.settle()
        assert cluster.api.find("ServiceAccount", "default", "web") is not None
        found = cluster.api.find("ConfigMap", "kube-root-ca.crt", "web")
        assert found is not None
        assert found["data"] == {"ca.crt": "PEM"}


# --- what every cluster has -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cidr", "expected"), [("10.96.0.0/16", "10.96.0.1"), ("fd00:10::/112,10.96.0.0/16", "fd00:10::1")]
)
def test_first_service_address(cidr: str, expected: str) -> None:
    assert kubernetes_service.cluster_ip(cidr) == expected


async def test_what_every_cluster_has() -> None:
    async with running(partial(KubernetesServiceController, where=WHERE)) as cluster:
        assert {n["metadata"]["name"] for n in cluster.api.all("Namespace")} == {
            "default",
            "kube-system",
            "kube-public",
            "kube-node-lease",
        }
        service = cluster.api.find("Service", "kubernetes", "default")
        assert service is not None
        assert service["spec"]["clusterIP"] == "10.96.0.1"
        (found,) = cluster.api.all("EndpointSlice")
        assert found["endpoints"][0]["addresses"] == ["192.0.2.10"]
        (legacy,) = cluster.api.all("Endpoints")
        assert legacy["subsets"][0]["ports"] == [{"name": "https", "port": 6443, "protocol": "TCP"}]
        info = cluster.api.find("ConfigMap", "cluster-info", "kube-public")
        assert info is not None
        (entry,) = yaml.safe_load(info["data"]["kubeconfig"])["clusters"]
        assert entry["cluster"]["server"] == "https://192.0.2.10:6443"
        assert base64.b64decode(entry["cluster"]["certificate-authority-data"]) == b"PEM\n"
        # what is spoiled is mended, what others added stays
        cluster.api.change("Endpoints", "kubernetes", "default", subsets=[], metadata={"labels": {"mine": "x"}})
        cluster.api.remove("Service", "kubernetes", "default")
        await cluster.settle()
        (legacy,) = cluster.api.all("Endpoints")
        assert legacy["subsets"]
        assert legacy["metadata"]["labels"]["mine"] == "x"
        assert cluster.api.find("Service", "kubernetes", "default") is not None
        before = len(cluster.api.requests)
        await cluster.advance(600)
        assert len(cluster.api.requests) == before


async def test_nobody_is_sent_to_a_loopback_address() -> None:
    where = replace(WHERE, addresses=("127.0.0.1",))
    async with running(partial(KubernetesServiceController, where=where)) as cluster:
        assert cluster.api.all("Endpoints") == cluster.api.all("EndpointSlice") == []
        assert cluster.api.find("Service", "kubernetes", "default") is not None


def test_cluster_info_is_compared_by_what_it_says() -> None:
    mine = kubernetes_service.cluster_info(WHERE)
    laid_out = objects.copy(mine)
    laid_out.data["kubeconfig"] = yaml.safe_dump(yaml.safe_load(mine.data["kubeconfig"]), default_flow_style=True)
    assert kubernetes_service.mended(mine, laid_out) is None
    for broken in ("", "{", "clusters: []"):
        laid_out.data["kubeconfig"] = broken
        mended = kubernetes_service.mended(mine, laid_out)
        assert mended is not None
        assert mended.data == mine.data
        assert kubernetes_service.mended(mine, laid_out, any_server=True) is not None


def test_of_several_masters_any_may_be_in_cluster_info() -> None:
    mine = kubernetes_service.cluster_info(WHERE)
    theirs = kubernetes_service.cluster_info(replace(WHERE, url="https://balancer.example:6443"))
    strangers = kubernetes_service.cluster_info(replace(WHERE, ca="another CA"))
    assert kubernetes_service.mended(mine, theirs) is not None
    assert kubernetes_service.mended(mine, theirs, any_server=True) is None
    assert kubernetes_service.mended(mine, strangers, any_server=True) is not None


# --- what expires -----------------------------------------------------------------------------------------------------


def token(expiration: str | None, type_: str = "bootstrap.kubernetes.io/token") -> core_v1.Secret:
    data = {} if expiration is None else {"expiration": base64.b64encode(expiration.encode()).decode()}
    return core_v1.Secret(
        metadata=meta_v1.ObjectMeta(name="bootstrap-token-abc", namespace="kube-system"), type=type_, data=data
    )


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (token(times.rfc3339(NOW + 60)), 60.0),
        (token(times.rfc3339(NOW - 60)), 0.0),
        (token(None), None),
        (token("soon"), 0.0),
        (token(times.rfc3339(NOW - 60), "Opaque"), None),
    ],
)
def test_when_a_token_ends(secret: core_v1.Secret, expected: float | None) -> None:
    assert ttl.token_ends_in(secret, now=NOW) == expected


async def test_a_token_goes_when_it_ends_unless_prolonged() -> None:
    async with running(TokenCleaner) as cluster:
        await cluster.client.create(token(times.rfc3339(NOW + 600)))
        await cluster.advance(500)
        later = token(times.rfc3339(NOW + 1200)).data
        cluster.api.change("Secret", "bootstrap-token-abc", "kube-system", data=later)
        await cluster.advance(200)
        assert cluster.api.all("Secret")
        await cluster.advance(600)
        assert cluster.api.all("Secret") == []


def event(name: str, *, last: float, cluster: Cluster | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "lastTimestamp": times.rfc3339(NOW + last),
    }


async def test_old_events_go() -> None:
    async with running(EventTTL, seed=(event("old", last=-3000), event("new", last=-10))) as cluster:
        assert len(cluster.api.all("Event")) == 2
        await cluster.advance(900)
        assert [e["metadata"]["name"] for e in cluster.api.all("Event")] == ["new"]


# --- all together -----------------------------------------------------------------------------------------------------


def config(folder: Path, **fields: Any) -> ControllersConfig:
    pair = pki.create_ca(clock=Cluster().clock)
    pki.save_pair(pair, cert=folder / "ca.crt", key=folder / "ca.key")
    return ControllersConfig(
        identity="master-1",
        ca_cert_file=folder / "ca.crt",
        ca_key_file=folder / "ca.key",
        server_url=WHERE.url,
        advertise_addresses=WHERE.addresses,
        **fields,
    )


class All(Controller):
    """Lets `running` run the whole composition."""

    name = "all"

    def __init__(self, context: Any, folder: Path) -> None:
        super().__init__(context)
        self.controllers = Controllers(context.client, context.factory, config(folder, event_ttl=3600.0), context.clock)

    async def reconcile(self, key: str) -> float | None:
        raise NotImplementedError

    async def run(self) -> None:
        await self.controllers.run()


async def test_all_controllers_start_and_come_to_rest(tmp_path: Path) -> None:
    made: list[All] = []

    def make(context: Any) -> All:
        made.append(All(context, tmp_path))
        return made[0]

    async with running(make) as cluster:
        await cluster.advance(5)
        found = made[0].controllers
        assert found.is_leader
        assert all(m["restarts"] == m["errors"] == 0 for m in found.metrics().values()), found.metrics()
        assert cluster.api.find("ServiceAccount", "default", "default") is not None
        await cluster.client.delete(core_v1.Namespace, "kube-public")
        before = len(cluster.api.requests)
        await cluster.advance(600)
        # the namespace goes and comes back; the Lease is renewed every 20 s
        assert len(cluster.api.requests) - before < 80
    lease = cluster.api.find("Lease", "kube-controller-manager", "kube-system")
    assert lease is not None
    assert not lease["spec"].get("holderIdentity"), "given back at the end"


async def test_a_failing_controller_takes_none_with_it(tmp_path: Path) -> None:
    def make(context: Any) -> All:
        made = All(context, tmp_path)
        broken = next(c for c in made.controllers.controllers if isinstance(c, ServiceAccountController))

        async def start() -> None:
            raise RuntimeError("broken")

        broken.start = start  # type: ignore[method-assign]
        return made

    async with running(make) as cluster:
        await cluster.advance(5)
        assert cluster.api.find("ConfigMap", "kube-root-ca.crt", "default") is not None
        assert cluster.api.find("ServiceAccount", "default", "default") is None
