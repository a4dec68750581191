"""The HTTP side by itself, without TLS: limits, WebSockets, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from control.api import server as server_module
from control.api.server import Server as HTTPServer
from control.api.subresource import SWITCHED, SubresourceContext
from kube.errors import KtoolError
from kube.transport import Request, Response
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[tuple[HTTPServer, aiohttp.ClientSession, str]]:
    http = HTTPServer(server.api, address="127.0.0.1", port=0, tls=None)
    await http.start()
    async with aiohttp.ClientSession() as session:
        try:
            yield http, session, f"http://127.0.0.1:{http.port}"
        finally:
            await http.close()


async def test_too_many_requests_are_asked_to_come_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_WRITES", 0)
    async with served(server) as (_, session, url):
        async with session.post(url + CONFIG_MAPS, json=config_map("a")) as answer:
            assert answer.status == 429
            assert answer.headers["retry-after"] == "1"
            assert (await answer.json())["reason"] == "TooManyRequests"
        async with session.get(url + CONFIG_MAPS) as answer:
            assert answer.status == 200
    assert server.api.counters.inflight == {"readOnly": 0, "mutating": 0}


async def test_a_subresource_talks_over_a_websocket(server: Server) -> None:
    async def echo(context: SubresourceContext, request: Request) -> Response:
        assert context.upgrade is not None
        assert context.object["metadata"]["name"] == "a"
        assert [value for name, value in request.query if name == "command"] == ["date", "-u"]
        socket = await context.upgrade.accept(context.upgrade.protocols[0])
        while (message := await socket.receive()) is not None:
            await socket.send(message[::-1])
        return SWITCHED

    await server.call("POST", PODS, pod("a"))
    server.api.environment.handlers["exec"] = echo
    async with served(server) as (_, session, url):
        protocols = ("v5.channel.k8s.io", "v4.channel.k8s.io")
        async with session.ws_connect(f"{url}{PODS}/a/exec?command=date&command=-u", protocols=protocols) as socket:
            assert socket.protocol == "v5.channel.k8s.io"
            await socket.send_bytes(b"\x00abc")
            assert await socket.receive_bytes() == b"cba\x00"


async def test_stopping_ends_the_watches(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SHUTDOWN_SECONDS", 60.0)
    async with served(server) as (http, session, url), session.get(f"{url}{CONFIG_MAPS}?watch=true") as watch:
        closing = asyncio.create_task(http.close())
        async with asyncio.timeout(20):
            assert await watch.read() == b""
            await closing


async def test_a_watch_is_sent_in_one_piece_per_turn(server: Server) -> None:
    for n in range(3):
        await server.call("POST", CONFIG_MAPS, config_map(f"c{n}"))
    async with served(server) as (_, session, url), session.get(f"{url}{CONFIG_MAPS}?watch=true") as watch:
        chunk, _ = await watch.content.readchunk()
        assert chunk.count(b"\n") == 3


async def test_an_address_of_another_machine_is_refused(server: Server) -> None:
    http = HTTPServer(server.api, address="192.0.2.1", port=0, tls=None)
    with pytest.raises(KtoolError, match=r"192\.0\.2\.1 is no address of this machine"):
        await http.start()
    await http.close()


async def test_who_sends_half_a_body_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BODY_SECONDS", 0.1)
    async with served(server) as (http, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        try:
            writer.write(f"POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
            async with asyncio.timeout(20):
                answer = await reader.readline()
            assert answer.startswith(b"HTTP/1.1 504 ")
        finally:
            writer.close()
            await writer.wait_closed()
    assert server.api.counters.inflight == {"readOnly": 0, "mutating": 0}
