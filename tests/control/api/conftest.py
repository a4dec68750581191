"""A whole API server over a real SQLite store in a temporary directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.control.api.server_under_test import Server, running


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path / "store.db") as found:
        yield found


@pytest_asyncio.fixture(autouse=True)
async def _connections_end_with_their_test() -> AsyncIterator[None]:
    """A connection that TLS is still ending politely when its loop closes would be told as a leak of a later test."""
    yield
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    for _ in range(100):
        # the loop's own wake-up socket is always there
        if selector is None or len(selector.get_map() or ()) <= 1:
            return
        await asyncio.sleep(0.01)
