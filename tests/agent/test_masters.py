"""A node whose master fails turns to another one, and knows which there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from agent import masters, switch_transport
from agent.switch_transport import SwitchTransport
from kube.informer import ADDED, DELETED, MODIFIED, Delta, InformerFactory
from kube.kubeconfig import Connection
from kube.models import discovery_v1, meta_v1
from kube.transport import Request

PODS = Request("GET", "/api/v1/pods")


class OneMaster:
    """An HTTP server that says its name, or what it is told to say instead; `/watch` says no more after that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.asked = 0
        self.hangs = False
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if not request.path.endswith("watch"):
            return web.Response(text=self.name, status=self.status)
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(self.name.encode())
        await asyncio.sleep(3600)
        return stream

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[OneMaster]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def said(transport: SwitchTransport) -> bytes:
    return (await transport.send(PODS)).body


@pytest.fixture
async def second() -> AsyncIterator[OneMaster]:
    async with OneMaster("second").running() as found:
        yield found


async def test_a_master_that_is_gone_is_left_and_one_that_works_is_kept(second: OneMaster) -> None:
    async with OneMaster("first").running() as first:
        transport = SwitchTransport(Connection(first.url), [second.url])
        assert await said(transport) == b"first"
        response = await transport.send(Request("GET", "/watch"), stream=True)
        assert response.stream is not None
        assert await anext(response.stream) == b"first"
    with pytest.raises(ConnectionError):
        await anext(response.stream)
    with pytest.raises(ConnectionError):
        await said(transport)
    assert await said(transport) == b"second"
    # the first one is back, and nothing speaks against the second
    async with OneMaster("first").running(int(first.url.rpartition(":")[2])):
        assert await said(transport) == b"second"
        second.status = 503
        assert (await transport.send(PODS)).status == 503
        assert await said(transport) == b"first"
    await transport.close()


async def test_watches_of_a_master_without_its_store_end_and_are_not_left_silent(second: OneMaster) -> None:
    async with OneMaster("first").running() as first:
        transport = SwitchTransport(Connection(first.url), [second.url])
        watch, silent = [await transport.send(Request("GET", "/watch"), stream=True) for _ in range(2)]
        for one in (watch, silent):
            assert one.stream is not None
            assert await anext(one.stream) == b"first"
        assert silent.stream is not None
        waiting = asyncio.ensure_future(anext(silent.stream))
        await asyncio.sleep(0)
        first.status = 503
        # several at once fail: the next one is used, and not the one after it
        answers = await asyncio.gather(*(transport.send(PODS) for _ in range(5)))
        assert {answer.status for answer in answers} <= {503, 200}
        assert transport.server == second.url
        assert watch.stream is not None
        for end in (waiting, anext(watch.stream)):  # who waited already, and who comes later
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(end, 20)
        assert await said(transport) == b"second"
        await transport.close()


@pytest.mark.parametrize("patience", [0, 3600])
async def test_a_master_that_keeps_its_callers_waiting_is_left(
    second: OneMaster, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch_transport, "SILENT_SECONDS", patience)
    async with OneMaster("first").running() as first:
        transport = SwitchTransport(Connection(first.url), [second.url])
        first.hangs = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await said(transport)
        await asyncio.sleep(0)
        assert transport.server == (first.url if patience else second.url)
        first.hangs = False
        assert await said(transport) == (b"first" if patience else b"second")
        await transport.close()


async def test_a_master_that_is_alone_is_asked_again(second: OneMaster) -> None:
    transport = SwitchTransport(Connection(second.url))
    second.status = 503
    assert (await transport.send(PODS)).status == 503
    second.status = 200
    assert await said(transport) == b"second"
    assert transport.server == second.url
    # other refusals are answers
    transport.offer(["http://127.0.0.1:1"])
    for status in (401, 404, 409, 429, 500, 504):
        second.status = status
        assert (await transport.send(PODS)).status == status
    assert transport.server == second.url
    await transport.close()


async def test_another_certificate_goes_to_the_server_in_use(second: OneMaster) -> None:
    transport = SwitchTransport(Connection("http://127.0.0.1:1", token="old"), [second.url])
    with pytest.raises(ConnectionError):
        await said(transport)
    for token in ("new", "newer"):
        await transport.switch(Connection("http://127.0.0.1:1", token=token))
        assert await said(transport) == b"second"
    await transport.close()


def slice_of(*addresses: str, name: str = "kubernetes", namespace: str = "default") -> discovery_v1.EndpointSlice:
    return discovery_v1.EndpointSlice(
        metadata=meta_v1.ObjectMeta(name=name, namespace=namespace),
        addressType="IPv4",
        endpoints=[discovery_v1.Endpoint(addresses=[address]) for address in addresses],
        ports=[discovery_v1.EndpointPort(name="https", port=6443)],
    )


def test_servers_of_endpoints() -> None:
    assert masters.servers(slice_of("192.0.2.2", "192.0.2.1")) == ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]
    assert masters.servers(slice_of("2001:db8::1")) == ["https://[2001:db8::1]:6443"]
    assert masters.servers(slice_of()) == []


def test_the_masters_are_offered_and_noted_as_they_come_and_go(tmp_path: Path) -> None:
    offered: list[list[str]] = []
    handlers: list[Callable[[Delta[Any]], None]] = []
    asked: list[dict[str, str]] = []

    class Fake:
        def informer(self, kind: type[Any], **only: str) -> Fake:
            assert kind is discovery_v1.EndpointSlice
            asked.append(only)
            return self

        add_handler = handlers.append
        offer = offered.append

    fake = Fake()
    masters.follow(cast("InformerFactory", fake), cast("SwitchTransport", fake), tmp_path, all_known=False)
    (tell,) = handlers
    # a node that has no use for the others keeps none of them
    assert asked == [{"namespace": "default", "field_selector": "metadata.name=kubernetes"}]
    assert masters.noted(tmp_path) == []
    one, two = ["https://192.0.2.1:6443"], ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]
    tell(Delta(ADDED, slice_of("192.0.2.1"), None))
    tell(Delta(ADDED, slice_of("192.0.2.9", name="other"), None))
    tell(Delta(ADDED, slice_of("192.0.2.9", namespace="other"), None))
    assert (offered, masters.noted(tmp_path)) == ([one], one)
    tell(Delta(MODIFIED, slice_of("192.0.2.1", "192.0.2.2"), None))
    tell(Delta(MODIFIED, slice_of("192.0.2.2", "192.0.2.1"), None))
    assert (offered, masters.noted(tmp_path)) == ([one, two], two)
    tell(Delta(MODIFIED, slice_of(), None))
    tell(Delta(DELETED, slice_of("192.0.2.1"), None))
    assert (len(offered), masters.noted(tmp_path)) == (2, two)
    (tmp_path / masters.FILE).write_text("{half")
    assert masters.noted(tmp_path) == []
