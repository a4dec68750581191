"""Giving up connections while others make new ones."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from kube.kubeconfig import Connection
from kube.transport import HTTPTransport


async def test_who_comes_while_connections_are_closed_gets_new_ones_that_are_closed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, close = asyncio.Event(), aiohttp.ClientSession.close

    async def slowly(self: aiohttp.ClientSession) -> None:
        await close(self)
        await gate.wait()

    monkeypatch.setattr(aiohttp.ClientSession, "close", slowly)
    transport = HTTPTransport(Connection("http://127.0.0.1:1"))
    transport.session()
    closing = asyncio.create_task(transport.close())
    await asyncio.sleep(0)
    fresh = transport.session()
    assert not fresh.closed
    gate.set()
    await closing
    assert transport.session() is fresh
    await transport.close()
    assert fresh.closed
