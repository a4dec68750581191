"""Nothing is served without authentication but /healthz: over real TLS on loopback."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agent.kubelet.server.authorization import Attributes, attributes
from agent.runtime.hollow import HollowRuntime
from kube import pki
from kube.errors import KtoolError
from tests.kubelet_under_test import CLOCK, NODE, Kubelet, kubelet_server

PATHS = [
    "/pods",
    "/runningpods",
    "/runningpods/",
    "/stats/summary",
    "/metrics",
    "/metrics/resource",
    "/containerLogs/default/web/main",
    "/exec/default/web/main?command=sh&output=1",
    "/attach/default/web/main?output=1",
    "/portForward/default/web",
    "/healthz/ping",
    "/no/such/path",
    "//healthz",
    "/healthz/",
]


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    async with kubelet_server(HollowRuntime(), tmp_path) as running:
        yield running


async def test_strangers_get_healthz_only(kubelet: Kubelet) -> None:
    async with kubelet.session(kubelet.certificates.client()) as stranger:
        async with stranger.get(kubelet.url("/healthz")) as response:
            assert (response.status, await response.text()) == (200, "ok")
        for path in PATHS:
            for method in ("GET", "POST"):
                async with stranger.request(method, kubelet.url(path)) as response:
                    assert response.status == 401, path
                    assert (await response.json())["reason"] == "Unauthorized"
    assert kubelet.reviews.asked == []


async def test_a_certificate_of_another_ca_is_refused_by_tls(kubelet: Kubelet) -> None:
    other = pki.create_ca("other", clock=CLOCK)
    tls = kubelet.certificates.client("kube-apiserver-kubelet-client", "system:masters", ca=other)
    async with kubelet.session(tls) as stranger:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await stranger.get(kubelet.url("/pods"))


async def test_the_api_server_may_everything_without_asking_back(kubelet: Kubelet) -> None:
    kubelet.reviews.away = True
    async with kubelet.session() as session:
        for path in ("/pods", "/runningpods", "/stats/summary", "/metrics", "/metrics/resource"):
            async with session.get(kubelet.url(path)) as response:
                assert response.status == 200, path
        async with session.get(kubelet.url("/no/such/path")) as response:
            assert (response.status, (await response.json())["reason"]) == (404, "NotFound")
        async with session.get(kubelet.url("/containerLogs/default/none/main")) as response:
            assert (response.status, (await response.json())["message"]) == (404, 'pods "none" not found')
        async with session.get(kubelet.url("/exec/default/web/main?command=sh&output=1")) as response:
            assert (response.status, (await response.json())["message"]) == (400, "Upgrade request required")


async def test_other_certificates_need_rights(kubelet: Kubelet) -> None:
    kubelet.reviews.rights = {("monitor", "get", "metrics")}
    tls = kubelet.certificates.client("monitor", "watchers")
    async with kubelet.session(tls) as session:
        for _ in range(3):
            async with session.get(kubelet.url("/metrics")) as response:
                assert response.status == 200
            async with session.get(kubelet.url("/pods")) as response:
                assert response.status == 403
                message = (await response.json())["message"]
                assert (
                    message == f'nodes "{NODE}" is forbidden: User "monitor" cannot get resource "nodes/proxy": no rule'
                )
    assert len(kubelet.reviews.asked) == 2, "answers are kept for a while"
    assert kubelet.reviews.asked[0]["spec"]["groups"] == ["watchers"]


async def test_tokens_are_reviewed(kubelet: Kubelet) -> None:
    kubelet.reviews.tokens = {"good": ("system:serviceaccount:monitoring:prometheus", ["system:serviceaccounts"])}
    kubelet.reviews.rights = {("system:serviceaccount:monitoring:prometheus", "get", "metrics")}
    anonymous = kubelet.certificates.client()
    async with kubelet.session(anonymous, Authorization="Bearer good") as session:
        for _ in range(3):
            async with session.get(kubelet.url("/metrics/resource")) as response:
                assert response.status == 200
        async with session.get(kubelet.url("/stats/summary")) as response:
            assert response.status == 403
    assert [review["kind"] for review in kubelet.reviews.asked].count("TokenReview") == 1
    for wrong in ("Bearer bad", "Bearer ", "Basic good", "good"):
        session = kubelet.session(anonymous, Authorization=wrong)
        async with session, session.get(kubelet.url("/metrics")) as response:
            assert response.status == 401
    kubelet.reviews.away = True
    session = kubelet.session(anonymous, Authorization="Bearer unseen")
    async with session, session.get(kubelet.url("/metrics")) as response:
        assert response.status == 503


async def test_the_serving_certificate_is_taken_anew(kubelet: Kubelet) -> None:
    async def shown() -> bytes:
        async with kubelet.session() as session, session.get(kubelet.url("/pods")) as response:
            assert response.status == 200, "client certificates still count"
        tls = kubelet.certificates.client()
        _, writer = await asyncio.open_connection("127.0.0.1", kubelet.server.port, ssl=tls)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return found

    def der(pair: pki.KeyPair) -> bytes:
        return ssl.PEM_cert_to_DER_cert(pair.cert_pem.decode())

    certificates = kubelet.certificates
    first = certificates.serve(ips=["127.0.0.1"])
    assert await shown() == der(first)
    second = certificates.serve(ips=["127.0.0.1"])
    assert await shown() == der(second)

    key = certificates.folder / "serving.key"
    good = key.read_bytes()
    key.write_bytes(pki.key_pem(pki.create_key()))  # half of a pair: the other half is not written yet
    assert await shown() == der(second)
    key.write_bytes(good)
    os.utime(key)
    assert await shown() == der(second)
    async with kubelet.session(certificates.client()) as stranger, stranger.get(kubelet.url("/pods")) as response:
        assert response.status == 401


async def test_a_port_in_use(kubelet: Kubelet, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with kubelet_server(HollowRuntime(), tmp_path / "other") as other:
        taken = other.server.port
        kubelet.server._port = taken
        await kubelet.server.close()
        with pytest.raises(KtoolError, match=f"port {taken} on 127.0.0.1 is in use"):
            await kubelet.server.start()


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/pods", ("get", "proxy")),
        ("GET", "/metrics", ("get", "metrics")),
        ("GET", "/metrics/resource", ("get", "metrics")),
        ("GET", "/stats/summary", ("get", "stats")),
        ("GET", "/containerLogs/a/b/c", ("get", "proxy")),
        # a WebSocket begins with GET, and is more than reading
        ("GET", "/exec/a/b/c", ("create", "proxy")),
        ("POST", "/exec/a/b/c", ("create", "proxy")),
        ("GET", "/attach/a/b/c", ("create", "proxy")),
        ("GET", "/portForward/a/b", ("create", "proxy")),
        ("DELETE", "/pods", ("delete", "proxy")),
    ],
)
def test_attributes(method: str, path: str, wanted: tuple[str, str]) -> None:
    assert attributes(method, path) == Attributes(*wanted)
