"""The private engine of the tests cleans up after itself, even after a killed dockerd with running containers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests import engine as engines
from tests.runtime_bench import docker_bench, run, shell

pytestmark = pytest.mark.docker


def test_a_killed_engine_leaves_nothing() -> None:
    if reason := engines.missing():
        pytest.skip(reason)
    with engines.private_engine() as engine:
        asyncio.run(_leave_a_pod(engine))
        os.kill(engine.pid, signal.SIGKILL)
    assert not engine.directory.exists()
    assert not engine.namespace.exists()
    assert not list(engines.CGROUPS.glob(f"*/{engine.name}"))
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(engine.directory) in _read(path)]


async def _leave_a_pod(engine: engines.Engine) -> None:
    async with docker_bench(engine, leave_pods=True) as bench:
        await run(bench, shell("sleep 4321"))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""
