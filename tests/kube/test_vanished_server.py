"""A server whose machine loses its cable or its power: nothing tells, and yet who watches through it must notice."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kube import transport
from kube.kubeconfig import Connection
from kube.transport import HTTPTransport, Request

NAMESPACE = "kt-vanish"
HERE, THERE = "10.78.0.1", "10.78.0.2"
# Answers a GET with half a body, and says no more.
SERVER = f"""
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"here")
        self.wfile.flush()
        time.sleep(600)
http.server.ThreadingHTTPServer(("{THERE}", 8080), Handler).serve_forever()
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machine() -> Iterator[None]:
    """Another machine, at the end of a cable, with a server on it."""
    if os.environ.get("KTOOL_NETNS") != "1":
        pytest.skip("runs in the namespace of `make test` (scripts/in-netns)")
    ip("netns", "add", NAMESPACE)
    server = None
    try:
        ip("link", "add", "kt-van0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
        ip("address", "add", f"{HERE}/24", "dev", "kt-van0")
        ip("link", "set", "kt-van0", "up")
        ip("-n", NAMESPACE, "address", "add", f"{THERE}/24", "dev", "eth0")
        ip("-n", NAMESPACE, "link", "set", "eth0", "up")
        enter = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        server = subprocess.Popen([*enter, sys.executable, "-c", SERVER], stderr=subprocess.DEVNULL)
        yield
    finally:
        if server is not None:
            server.kill()
            server.wait()
        # By itself the cable would stay for as long as the kernel tries to end the lost connection.
        subprocess.run(["ip", "link", "delete", "kt-van0"], capture_output=True, check=False)
        ip("netns", "delete", NAMESPACE)


async def test_a_watch_of_a_machine_that_vanishes_ends(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE", "INTERVAL", "PROBES"):
        monkeypatch.setattr(transport, f"KEEPALIVE_{name}", 1)
    client = HTTPTransport(Connection(f"http://{THERE}:8080"))
    deadline = time.monotonic() + 15
    while True:
        try:
            response = await client.send(Request("GET", "/"), stream=True)
            break
        except ConnectionError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert response.stream is not None
    assert await anext(response.stream) == b"here"
    # the other end, whose own side of the cable stays up: no error tells
    ip("-n", NAMESPACE, "address", "flush", "dev", "eth0")
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            await anext(response.stream)
    assert time.monotonic() - began < 8
    await client.close()
