"""All controllers on the real API server and store; only the kubelet is played."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control.controllers.config import ControllersConfig
from control.controllers.controllers import Controllers
from kube import objects, pki, times
from kube.client import Client
from kube.clock import SystemClock
from kube.informer import DELETED, Delta, InformerFactory
from kube.models import apps_v1, certificates_v1, core_v1, discovery_v1, meta_v1
from kube.status import ApiError, is_not_found
from tests.control.api import server_under_test
from tests.control.controllers.cluster import template

CLOCK = SystemClock()


async def eventually(read: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """What `read` gives as soon as it is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = await read()
            if found:
                return found
            await asyncio.sleep(0.02)


class Kubelet:
    """Runs every pod at once, wherever it is."""

    def __init__(self, client: Client, factory: InformerFactory) -> None:
        self._client = client
        self._pods = factory.informer(core_v1.Pod)
        self._queue: asyncio.Queue[core_v1.Pod] = asyncio.Queue()
        self._pods.add_handler(self._on_pod)
        self._started = 0

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        pod = delta.object
        if delta.type != DELETED and pod.status is not None and pod.status.phase == "Pending":
            self._queue.put_nowait(pod)

    async def run(self) -> None:
        while True:
            pod = objects.copy(await self._queue.get())
            assert pod.status is not None
            self._started += 1
            pod.status.phase = "Running"
            pod.status.podIP = f"10.244.0.{self._started % 250 + 1}"
            pod.status.podIPs = [core_v1.PodIP(ip=pod.status.podIP)]
            ready = core_v1.PodCondition(type="Ready", status="True", lastTransitionTime=times.now_rfc3339(CLOCK))
            pod.status.conditions = [ready]
            with contextlib.suppress(ApiError):  # it was deleted, or changed and comes again
                await self._client.update(pod, subresource="status")


@dataclass
class Cluster:
    client: Client
    controllers: Controllers

    async def gone(self, kind: type[Any], name: str, namespace: str = "") -> bool:
        try:
            await self.client.get(kind, name, namespace=namespace)
        except ApiError as error:
            return is_not_found(error)
        return False

    async def available(self, image: str = "web:1") -> bool:
        """Whether the rollout of an image is complete."""
        found = await self.client.get(apps_v1.Deployment, "web", namespace="web")
        assert found.spec is not None
        assert found.spec.template is not None
        assert found.spec.template.spec is not None
        if found.status is None or found.spec.template.spec.containers[0].image != image:
            return False
        counts = {found.status.replicas, found.status.updatedReplicas, found.status.availableReplicas}
        return counts == {found.spec.replicas} and found.status.observedGeneration == found.metadata.generation


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    pair = pki.create_ca(clock=CLOCK)
    pki.save_pair(pair, cert=tmp_path / "ca.crt", key=tmp_path / "ca.key")
    config = ControllersConfig(
        identity="master",
        ca_cert_file=tmp_path / "ca.crt",
        ca_key_file=tmp_path / "ca.key",
        server_url="https://192.0.2.1:6443",
        advertise_addresses=("192.0.2.1",),
    )
    async with server_under_test.running(tmp_path / "store") as server:
        factory = InformerFactory(server.client)
        controllers = Controllers(server.client, factory, config)
        kubelet = Kubelet(server.client, factory)
        tasks = [asyncio.create_task(part.run()) for part in (factory, controllers, kubelet)]
        found = Cluster(server.client, controllers)
        try:
            await server.client.create(core_v1.Namespace(metadata=meta_v1.ObjectMeta(name="web")))
            yield found
        finally:
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(m["errors"] or m["restarts"] for m in controllers.metrics().values()), controllers.metrics()


def web(replicas: int = 10) -> apps_v1.Deployment:
    return apps_v1.Deployment(
        metadata=meta_v1.ObjectMeta(name="web", namespace="web"),
        spec=apps_v1.DeploymentSpec(
            replicas=replicas, selector=meta_v1.LabelSelector(matchLabels={"app": "web"}), template=template()
        ),
    )


async def test_rollout_endpoints_and_the_end_of_the_namespace(cluster: Cluster) -> None:
    client = cluster.client
    service = core_v1.Service(
        metadata=meta_v1.ObjectMeta(name="web", namespace="web"),
        spec=core_v1.ServiceSpec(
            clusterIP="10.96.0.77", selector={"app": "web"}, ports=[core_v1.ServicePort(port=80, targetPort=8080)]
        ),
    )
    await client.create(service)
    await client.create(web())
    await eventually(cluster.available)

    async def endpoints() -> bool:
        slices = (await client.list(discovery_v1.EndpointSlice, namespace="web")).items
        legacy = await client.get(core_v1.Endpoints, "web", namespace="web")
        counts = [len(s.endpoints) for s in slices], [len(s.addresses) for s in legacy.subsets]
        return counts == ([10], [10])

    await eventually(endpoints)
    patch = {"spec": {"template": objects.to_dict(template("web:2"))}}
    await client.patch(apps_v1.Deployment, "web", patch, namespace="web")
    await eventually(lambda: cluster.available("web:2"))
    await eventually(endpoints)
    assert await client.get(core_v1.ConfigMap, "kube-root-ca.crt", namespace="web")
    await client.delete(core_v1.Namespace, "web")
    await eventually(lambda: cluster.gone(core_v1.Namespace, "web"))
    assert (await client.list(core_v1.Pod)).items == []
    assert (await client.list(apps_v1.ReplicaSet)).items == []


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
async def test_cascades(cluster: Cluster, policy: str) -> None:
    client = cluster.client
    await client.create(web(3))
    await eventually(cluster.available)
    await client.delete(apps_v1.Deployment, "web", namespace="web", propagation_policy=policy)
    await eventually(lambda: cluster.gone(apps_v1.Deployment, "web", "web"))

    async def left() -> bool:
        sets = (await client.list(apps_v1.ReplicaSet, namespace="web")).items
        pods = (await client.list(core_v1.Pod, namespace="web")).items
        if policy == "Orphan":
            return len(sets) == 1 and not sets[0].metadata.ownerReferences and len(pods) == 3
        return not sets and not pods

    await eventually(left)
    if policy == "Orphan":
        await client.create(web(3))
        await eventually(cluster.available)
        assert len((await client.list(core_v1.Pod, namespace="web")).items) == 3, "adopted, not made again"


async def test_a_certificate_is_approved_and_signed(cluster: Cluster) -> None:
    key = pki.create_key()
    # this server stamps no requestor on it: who asks is as it is written here
    pem = pki.create_csr(key, "system:node:n1", organizations=["system:nodes"])
    made = certificates_v1.CertificateSigningRequest(
        metadata=meta_v1.ObjectMeta(name="csr"),
        spec=certificates_v1.CertificateSigningRequestSpec(
            request=base64.b64encode(pem).decode(),
            signerName="kubernetes.io/kube-apiserver-client-kubelet",
            usages=["client auth", "digital signature"],
            username="system:bootstrap:abc",
            groups=["system:bootstrappers"],
        ),
    )
    await cluster.client.create(made)

    async def certificate() -> str | None:
        found = await cluster.client.get(certificates_v1.CertificateSigningRequest, "csr")
        return found.status.certificate if found.status else None

    issued = pki.parse_cert(base64.b64decode(await eventually(certificate)))
    assert pki.identity(issued)[0] == "system:node:n1"


async def test_a_node_gets_its_range(cluster: Cluster) -> None:
    await cluster.client.create(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1")))

    async def cidr() -> str | None:
        found = await cluster.client.get(core_v1.Node, "n1")
        return found.spec.podCIDR if found.spec else None

    assert await eventually(cidr) == "10.244.0.0/24"
