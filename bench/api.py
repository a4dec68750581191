"""What the API server does in a second, and what CPU time an operation costs it.

Throughput on a shared machine says little by itself; the server's CPU time per operation, and its ratio to a bare
aiohttp server over TLS that is measured in the same run with the same client, say more.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from dataclasses import dataclass

import uvloop

from bench import bare_server, process
from bench.figure import Figure
from bench.master import PORT, config_map, data_dir, pod, started
from bench.requester import Load, request, send
from kube.kubeconfig import Connection
from kube.transport import ssl_context

GROUP = "API server (32 connections, TLS, JSON)"
CONNECTIONS = 32
LISTED = 1000
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Cost:
    """A load, and the server's CPU time for one operation in ms."""

    load: Load
    cpu_ms: float


def run(*, operations: int = 4000) -> list[Figure]:
    """Measure a master of its own and the bare server; about `operations` requests of each sort."""
    with data_dir() as directory, started(directory / "master") as master:
        measured = uvloop.run(_measure(master.pid, master.connection, operations))
        after = process.pss_mib(master.pid)
        pki = directory / "master" / "pki"
        command = [sys.executable, "-m", "bench.bare_server", str(pki / "apiserver.crt"), str(pki / "apiserver.key")]
        with process.running(command, log=directory / "bare.log") as bare:
            base = uvloop.run(_baseline(bare.pid, operations))
    figures = [figure for name, cost in measured.items() for figure in _figures(name, cost, base)]
    for name, cost in base.items():
        each = f"{cost.load.per_second:,.0f}/s"
        figures.append(Figure(GROUP, f"bare aiohttp server, {name}: CPU", cost.cpu_ms, "ms", note=each))
    return [*figures, Figure(GROUP, "memory after all that (PSS)", after, "MiB")]


def run_etcd(*, operations: int = 1000) -> list[Figure]:
    """The same operations of a master whose store is an etcd on this machine, one member over TLS."""
    from tests.etcd import etcd

    group = "API server over etcd (32 connections, TLS, JSON; etcd on the same two cores)"
    with data_dir() as directory, etcd(directory / "etcd") as server:
        arguments = ["--store", "etcd", "--etcd-endpoints", server.url, "--etcd-ca", str(server.ca)]
        arguments += ["--etcd-cert", str(server.cert), "--etcd-key", str(server.key)]
        with started(directory / "master", *arguments) as master:
            measured = uvloop.run(_measure(master.pid, master.connection, operations))
            memory = process.pss_mib(master.pid)
    figures = []
    for name, cost in measured.items():
        latency = f"p50 {cost.load.p50_ms:.1f} ms, p99 {cost.load.p99_ms:.1f} ms"
        figures.append(Figure(group, name, cost.load.per_second, "/s", note=latency))
        figures.append(Figure(group, f"{name}: the master's CPU", cost.cpu_ms, "ms"))
    return [*figures, Figure(group, "memory after all that (PSS)", memory, "MiB")]


def _figures(name: str, cost: Cost, base: dict[str, Cost]) -> list[Figure]:
    latency = f"p50 {cost.load.p50_ms:.1f} ms, p99 {cost.load.p99_ms:.1f} ms, {cost.load.size:,} bytes"
    against = base["GET" if name.startswith("get") else "POST"]
    ratio = "" if name.startswith("list") else f"{cost.cpu_ms / against.cpu_ms:.1f} × a bare server's"
    return [
        Figure(GROUP, name, cost.load.per_second, "/s", note=latency),
        Figure(GROUP, f"{name}: CPU", cost.cpu_ms, "ms", note=ratio),
    ]


async def _measure(pid: int, connection: Connection, operations: int) -> dict[str, Cost]:
    tls = ssl_context(connection)
    names = [f"bench-{i}" for i in range(operations)]

    async def load(requests: list[bytes], connections: int = CONNECTIONS) -> Cost:
        return await _cost(pid, PORT, tls, requests, connections)

    found = {}
    warm = [f"warm-{i}" for i in range(200)]
    await load([request("POST", MAPS, config_map(name)) for name in warm])
    await load([request("DELETE", f"{MAPS}/{name}") for name in warm])
    found["create ConfigMap"] = await load([request("POST", MAPS, config_map(name)) for name in names])
    found["get ConfigMap"] = await load([request("GET", f"{MAPS}/{name}") for name in names])
    half = names[: operations // 2]
    found["update ConfigMap"] = await load([request("PUT", f"{MAPS}/{n}", _changed(n)) for n in half])
    change = b'{"data":{"key-0":"patched"}}'
    found["patch ConfigMap"] = await load([request("PATCH", f"{MAPS}/{n}", change, content_type=MERGE) for n in half])
    found["delete ConfigMap"] = await load([request("DELETE", f"{MAPS}/{n}") for n in names[LISTED:]])
    found[f"list {LISTED:,} ConfigMaps"] = await load([request("GET", MAPS)] * max(20, operations // 100), 4)
    pods = names[: max(500, operations // 4)]
    found["create Pod"] = await load([request("POST", PODS, pod(name)) for name in pods])
    found["get Pod"] = await load([request("GET", f"{PODS}/{name}") for name in pods])
    found[f"list {len(pods):,} Pods"] = await load([request("GET", PODS)] * max(10, operations // 200), 4)
    found["delete Pod"] = await load([request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0") for name in pods])
    return found


def _changed(name: str) -> bytes:
    return config_map(name).replace(b"x" * 100, b"y" * 100)


async def _baseline(pid: int, operations: int) -> dict[str, Cost]:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # a server of our own on loopback
    await bare_server.wait()
    get = [request("GET", "/")] * operations
    post = [request("POST", "/", config_map("bench"))] * operations
    await _cost(pid, bare_server.PORT, tls, get[:500], CONNECTIONS)
    return {
        "GET": await _cost(pid, bare_server.PORT, tls, get, CONNECTIONS),
        "POST": await _cost(pid, bare_server.PORT, tls, post, CONNECTIONS),
    }


async def _cost(pid: int, port: int, tls: ssl.SSLContext, requests: list[bytes], connections: int) -> Cost:
    before = process.cpu_seconds(pid)
    load = await send("127.0.0.1", port, tls, requests, connections=connections)
    await asyncio.sleep(0.05)  # what it still has to do for the last ones
    return Cost(load, (process.cpu_seconds(pid) - before) * 1e3 / load.count)
