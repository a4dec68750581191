"""How fast Service rules follow the cluster: 1,000 Services of 5 endpoints each, in a network namespace of their own.

Planning, telling the kernel everything, and what one changed endpoint costs on the way from data to kernel.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from agent.proxy.nft import NftTable
from agent.proxy.rules import Planner
from agent.proxy.service_port import Endpoint, NodeNetwork, Protocol, ServicePort

SERVICES = 1000
ENDPOINTS = 5
T = TypeVar("T")

_INSIDE = "--inside"
_SECONDS = 300
_NODE = NodeNetwork("node-0")


def run(*, services: int = SERVICES, endpoints: int = ENDPOINTS, repeat: int = 5) -> dict[str, float]:
    """Measure with nftables, as root; medians over `repeat` rounds, in milliseconds.

    Returns `plan_ms` (Services to ruleset), `full_sync_ms` (an empty kernel to everything), `replace_ms` (after a
    restart of the agent: read the table and replace it), `one_plan_ms` and `one_sync_ms` (one endpoint of one Service
    replaced), `check_ms` (has anybody touched the table) and `nft_commands` (of the full sync).
    """
    command = [sys.executable, "-m", "bench.proxy", _INSIDE, str(services), str(endpoints), str(repeat)]
    done = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, timeout=_SECONDS, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _measure(services: int, endpoints: int, repeat: int) -> dict[str, float]:
    ports = [_port(number, endpoints) for number in range(services)]
    times: dict[str, list[float]] = {}
    commands = 0
    for round_ in range(repeat):
        planner, table = Planner(_NODE), NftTable()
        wanted = _timed(times, "plan_ms", lambda: planner.plan(ports))  # noqa: B023 (called at once)
        applied = _timed(times, "full_sync_ms", lambda: table.sync(wanted))  # noqa: B023
        commands = applied.commands
        for change in range(10):
            moved = Endpoint(f"10.245.{round_}.{change}", 8080, "node-1")
            changed = replace(ports[7], endpoints=(*ports[7].endpoints[:-1], moved))
            some = [*ports[:7], changed, *ports[8:]]
            wanted = _timed(times, "one_plan_ms", lambda: planner.plan(some))  # noqa: B023
            _timed(times, "one_sync_ms", lambda: table.sync(wanted))  # noqa: B023
            _timed(times, "check_ms", table.intact)
        table.close()
        restarted = NftTable()
        _timed(times, "replace_ms", lambda: restarted.sync(wanted))  # noqa: B023
        restarted.remove()
        restarted.close()
    return {**{name: statistics.median(values) for name, values in times.items()}, "nft_commands": commands}


def _timed(times: dict[str, list[float]], name: str, call: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = call()
    times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
    return result


def _port(number: int, endpoints: int) -> ServicePort:
    high, low = divmod(number, 250)
    return ServicePort(
        "default",
        f"svc-{number}",
        "http",
        Protocol.TCP,
        80,
        cluster_ips=(f"10.96.{high}.{low + 1}",),
        endpoints=tuple(Endpoint(f"10.{100 + high}.{low}.{n + 1}", 8080, "node-1") for n in range(endpoints)),
    )


if __name__ == "__main__":
    figures = _measure(*map(int, sys.argv[2:])) if sys.argv[1:2] == [_INSIDE] else run()
    json.dump({name: round(value, 2) for name, value in figures.items()}, sys.stdout, indent=2)
    sys.stdout.write("\n")
