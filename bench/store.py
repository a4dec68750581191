"""How fast a store is: durable puts under load, what one writer waits, reads, and opening.

Each put is acknowledged only after its commit has been synced, so the figures depend on the disk under `directory`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from control.store.sqlite import SqliteStore
from control.store.store import Store

WRITERS = 32
VALUE = json.dumps({"spec": {"pad": "x" * 3000}}).encode()  # about the size of a pod


def run(*, seconds: float = 3.0, directory: Path | None = None) -> dict[str, float]:
    """Measure in a new store under `directory` (default: the system's temporary directory).

    Returns puts per second with 32 writers and their p50 and p99 latency (ms), the p50 of a lone writer (ms), watch
    delivery p50 (ms from the put's call), point reads per second, a range of 10,000 keys (ms), compaction of
    everything written (s), and opening the store again (ms).
    """
    with tempfile.TemporaryDirectory(prefix="ktool-bench-store-", dir=directory) as name:
        path = Path(name) / "state.db"
        return uvloop.run(_measure(lambda: SqliteStore.open(path), seconds))


def run_etcd(*, seconds: float = 3.0) -> dict[str, float]:
    """The same of the etcd engine, over TLS to one member on this machine, whose directory is a temporary one."""
    from control.store.etcd.backend import EtcdStore
    from tests.etcd import etcd

    with tempfile.TemporaryDirectory(prefix="ktool-bench-store-") as name, etcd(Path(name)) as server:
        return uvloop.run(_measure(lambda: EtcdStore.open(server.config()), seconds))


async def _measure(open_store: Callable[[], Awaitable[Store]], seconds: float) -> dict[str, float]:
    store = await open_store()
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def write(writer: int) -> None:
        i = 0
        while (start := time.perf_counter()) < stop:
            await store.put(f"/registry/pods/default/web-{writer:02}-{i % 500:04}", VALUE)
            latencies.append(time.perf_counter() - start)
            i += 1

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(write(writer))
    elapsed = time.perf_counter() - begin
    latencies.sort()
    figures = {
        "puts_per_second": len(latencies) / elapsed,
        "put_p50_ms": latencies[len(latencies) // 2] * 1e3,
        "put_p99_ms": latencies[len(latencies) * 99 // 100] * 1e3,
    }

    alone: list[float] = []
    seen: list[float] = []
    async with store.watch("/alone", from_revision=await store.revision() + 1) as watch:
        for _ in range(200):
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            start = time.perf_counter()
            await store.put("/alone", VALUE)
            alone.append(time.perf_counter() - start)
            await waiting
            seen.append(time.perf_counter() - start)
    figures["single_put_p50_ms"] = sorted(alone)[100] * 1e3
    figures["watch_p50_ms"] = sorted(seen)[100] * 1e3

    start = time.perf_counter()
    for i in range(2000):
        await store.get(f"/registry/pods/default/web-00-{i % 500:04}")
    figures["gets_per_second"] = 2000 / (time.perf_counter() - start)
    start = time.perf_counter()
    page = await store.range("/registry/pods/", limit=10_000)
    figures["range_10k_ms"] = (time.perf_counter() - start) * 1e3 * 10_000 / len(page.items)

    start = time.perf_counter()
    await store.compact(await store.revision())
    figures["compact_s"] = time.perf_counter() - start
    await store.close()
    start = time.perf_counter()
    store = await open_store()
    figures["open_ms"] = (time.perf_counter() - start) * 1e3
    await store.close()
    return figures


if __name__ == "__main__":
    json.dump({name: round(value, 2) for name, value in run().items()}, sys.stdout, indent=2)
    sys.stdout.write("\n")
