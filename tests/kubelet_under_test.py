"""A kubelet's server with real TLS on loopback, over any runtime; the API it asks is a stand-in."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from agent.kubelet.server import KubeletServer
from agent.kubelet.server.authentication import Authentication
from agent.kubelet.server.authorization import Authorization
from agent.kubelet.server.serving_certificate import ServingCertificate
from agent.kubelet.server.usage import UsageReader
from agent.runtime.runtime import LABEL_CONTAINER_NAME, LABEL_POD_UID, ContainerStatus, Runtime, SandboxConfig
from kube import objects, pki
from kube.client import Client
from kube.clock import SystemClock
from kube.models import core_v1
from kube.transport import Request, Response

NODE = "node-1"
CLOCK = SystemClock()


class KnownPods:
    """The node's pods by what the runtime has of them; `refresh` looks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pods: dict[tuple[str, str], core_v1.Pod] = {}
        self._attempts: dict[tuple[str, str, str], list[ContainerStatus]] = {}

    def add(self, sandbox: SandboxConfig, *containers: str, status: Mapping[str, Any] | None = None) -> core_v1.Pod:
        """A pod with the identity of a sandbox."""
        data = {
            "metadata": {"name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid},
            "spec": {
                "nodeName": NODE,
                "containers": [{"name": name, "image": "x"} for name in containers or ("main",)],
            },
            "status": status or {},
        }
        pod = objects.from_dict(data, core_v1.Pod)
        self._pods[sandbox.namespace, sandbox.name] = pod
        return pod

    async def refresh(self) -> None:
        """See what the runtime has now."""
        for (namespace, name), pod in self._pods.items():
            labels = {LABEL_POD_UID: objects.uid(pod)}
            found: dict[str, list[ContainerStatus]] = {}
            for container in await self._runtime.list_containers(labels):
                status = await self._runtime.container_status(container.id)
                found.setdefault(container.labels[LABEL_CONTAINER_NAME], []).append(status)
            for container_name, attempts in found.items():
                attempts.sort(key=lambda status: -status.attempt)
                self._attempts[namespace, name, container_name] = attempts

    def pods(self) -> list[core_v1.Pod]:
        return [*self._pods.values()]

    def pod(self, namespace: str, name: str) -> core_v1.Pod | None:
        return self._pods.get((namespace, name))

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerStatus | None:
        attempts = self._attempts.get((namespace, pod, container), [])
        return attempts[int(previous)] if len(attempts) > int(previous) else None


@dataclass
class Reviews:
    """A Transport that answers TokenReviews and SubjectAccessReviews: users by token, rights as (user, verb, sub)."""

    tokens: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    rights: set[tuple[str, str, str]] = field(default_factory=set)
    asked: list[dict[str, Any]] = field(default_factory=list)
    away: bool = False

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        if self.away:
            raise ConnectionError("the master is away")
        body = orjson.loads(request.body)
        self.asked.append(body)
        spec = body["spec"]
        if request.path.endswith("/tokenreviews"):
            user = self.tokens.get(spec["token"])
            status: dict[str, Any] = {"authenticated": False}
            if user is not None:
                status = {"authenticated": True, "user": {"username": user[0], "groups": user[1]}}
        else:
            asked = spec["resourceAttributes"]
            assert (asked["resource"], asked["name"], asked["version"]) == ("nodes", NODE, "v1")
            allowed = (spec["user"], asked["verb"], asked["subresource"]) in self.rights
            status = {"allowed": allowed, **({} if allowed else {"reason": "no rule"})}
        return Response(201, {}, orjson.dumps({**body, "status": status}))

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class Certificates:
    """A CA, and files as a node and an API server have them."""

    folder: Path
    ca: pki.KeyPair = field(default_factory=lambda: pki.create_ca(clock=CLOCK))

    def __post_init__(self) -> None:
        (self.folder / "ca.crt").write_bytes(self.ca.cert_pem)
        self.serve(ips=["127.0.0.1"])

    def serve(self, *, ips: list[str], ca: pki.KeyPair | None = None) -> pki.KeyPair:
        """(Re)write the kubelet's serving pair."""
        pair = pki.issue_server(ca or self.ca, f"system:node:{NODE}", clock=CLOCK, dns_names=[NODE], ips=ips)
        pki.save_pair(pair, cert=self.folder / "serving.crt", key=self.folder / "serving.key")
        return pair

    def serving(self) -> ServingCertificate:
        return ServingCertificate(
            cert=self.folder / "serving.crt", key=self.folder / "serving.key", client_ca=self.folder / "ca.crt"
        )

    def client(self, name: str = "", *groups: str, ca: pki.KeyPair | None = None) -> ssl.SSLContext:
        """TLS of a client that trusts the CA, with a certificate of its own if it has a name."""
        context = ssl.create_default_context(cadata=self.ca.cert_pem.decode())
        if name:
            pair = pki.issue_client(ca or self.ca, name, clock=CLOCK, organizations=groups)
            path = self.folder / f"{name.replace(':', '-')}.pem"
            path.write_bytes(pair.cert_pem + pair.key_pem)
            context.load_cert_chain(path)
        return context

    def api_server(self) -> ssl.SSLContext:
        """TLS of the API server towards kubelets."""
        return self.client("kube-apiserver-kubelet-client", "system:masters")


@dataclass
class Kubelet:
    """The running server."""

    server: KubeletServer
    pods: KnownPods
    reviews: Reviews
    certificates: Certificates
    runtime: Runtime

    def url(self, path: str) -> URL:
        return URL(f"https://127.0.0.1:{self.server.port}{path}")

    def session(self, tls: ssl.SSLContext | None = None, **headers: str) -> aiohttp.ClientSession:
        """A client; as the API server unless told otherwise."""
        connector = aiohttp.TCPConnector(ssl=tls or self.certificates.api_server())
        return aiohttp.ClientSession(connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=20))


@asynccontextmanager
async def kubelet_server(runtime: Runtime, folder: Path) -> AsyncIterator[Kubelet]:
    """A server on loopback, at any free port."""
    reviews, certificates, pods = Reviews(), Certificates(folder), KnownPods(runtime)
    client = Client(reviews)
    server = KubeletServer(
        pods,
        runtime,
        UsageReader(runtime, CLOCK, data_dir=folder),
        node_name=NODE,
        address="127.0.0.1",
        port=0,
        certificate=certificates.serving(),
        authentication=Authentication(client, CLOCK),
        authorization=Authorization(client, CLOCK, node_name=NODE),
    )
    async with server:
        yield Kubelet(server, pods, reviews, certificates, runtime)
