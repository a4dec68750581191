"""An API server and a kubelet's server, both with real TLS on loopback, and a client of the first."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from agent.runtime.runtime import Runtime, SandboxConfig
from control.api.server import Server as HttpsServer
from control.api.server import server_ssl
from control.api.subresource import ServerAssets
from kube import objects, pki
from kube.models import core_v1
from tests.control.api import server_under_test
from tests.kubelet_under_test import CLOCK, NODE, Kubelet, kubelet_server

PODS = "/api/v1/namespaces/default/pods"


@dataclass
class Cluster:
    """Both servers; a pod known to both has the same identity."""

    api: server_under_test.Server
    https: HttpsServer
    kubelet: Kubelet
    session: aiohttp.ClientSession

    def url(self, path: str, query: Sequence[tuple[str, str]] = ()) -> URL:
        return URL.build(scheme="https", host="127.0.0.1", port=self.https.port, path=path, query=list(query))

    async def node(self, *, name: str = NODE, address: str = "127.0.0.1", port: int = 0) -> None:
        """Register the node where its kubelet is."""
        status = {
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port or self.kubelet.server.port}},
        }
        await self.api.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        patch = "application/merge-patch+json"
        await self.api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=patch)

    async def pod(self, name: str, *containers: str, node: str = NODE) -> core_v1.Pod:
        """A pod in the API, bound to a node; the runtime has nothing of it."""
        spec: dict[str, Any] = {"containers": [{"name": c, "image": "x:1"} for c in containers or ("main",)]}
        if node:
            spec["nodeName"] = node
        found = await self.api.call("POST", PODS, {"metadata": {"name": name}, "spec": spec})
        return objects.from_dict(found, core_v1.Pod)

    def sandbox(self, pod: core_v1.Pod, cgroup: str = "") -> SandboxConfig:
        """The sandbox of a pod, which the kubelet knows from now on."""
        assert pod.spec is not None
        name, uid = objects.name(pod), objects.uid(pod)
        config = SandboxConfig(name, objects.namespace(pod), uid, cgroup_parent=f"{cgroup}/pod{uid}" if cgroup else "")
        self.kubelet.pods.add(config, *(container.name or "" for container in pod.spec.containers))
        return config


@asynccontextmanager
async def cluster(runtime: Runtime, folder: Path) -> AsyncIterator[Cluster]:
    """Everybody is the administrator at this API server; the kubelet checks that it is the API server who calls."""
    (folder / "kubelet").mkdir()
    async with kubelet_server(runtime, folder / "kubelet") as kubelet, server_under_test.running(folder / "db") as api:
        certificates = kubelet.certificates
        tls = certificates.api_server()
        api.api.environment.assets = ServerAssets(
            kubelet_ssl=cache(lambda: tls), service_account_key=folder / "none", service_account_issuer="none"
        )
        pair = pki.issue_server(certificates.ca, "kube-apiserver", clock=CLOCK, ips=["127.0.0.1"])
        pki.save_pair(pair, cert=folder / "api.crt", key=folder / "api.key")
        server_tls = server_ssl(
            cert=folder / "api.crt", key=folder / "api.key", client_ca=certificates.folder / "ca.crt"
        )
        https = HttpsServer(api.api, address="127.0.0.1", port=0, tls=server_tls)
        await https.start()
        trusting: ssl.SSLContext = certificates.client()
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            try:
                yield Cluster(api, https, kubelet, session)
            finally:
                await https.close()
