"""How long `ktool up` and the master take, and what master and agent use when they have nothing to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import process
from bench.figure import Figure
from bench.master import data_dir, started
from kube import kubeconfig
from kube.client import Client
from kube.models import core_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from provision import machine
from provision.services.supervisord import SupervisordServices

GROUP = "start-up"
IDLE_GROUP = "idle (one node, three pods)"
SETTLE_SECONDS = 8.0
UP_SECONDS = 120.0


def missing() -> str:
    """Why `ktool up` cannot be measured here, or an empty string."""
    if os.environ.get("KTOOL_NETNS") != "1" or os.geteuid() != 0:
        return "runs as root in a network namespace of its own: make bench"
    return "" if machine.find_command("dockerd") else "dockerd is not installed"


def master(*, starts: int = 5) -> list[Figure]:
    """Process start to /readyz: a first start, which makes certificates and objects, and later ones."""
    with data_dir() as directory:
        seconds = []
        for _ in range(starts + 1):
            with started(directory / "master") as found:
                seconds.append(found.seconds)
    return [
        Figure(GROUP, "master: first start to /readyz", seconds[0], "s", 1.5, note="new certificates and store"),
        Figure(GROUP, "master: start to /readyz", statistics.median(seconds[1:]), "s", 1.5, note=f"median of {starts}"),
    ]


def cluster(*, rounds: int = 3, idle_seconds: float = 30.0) -> list[Figure]:
    """`ktool up` to the first pod Running (its image is there, all else is new), then an idle cluster."""
    root = Path(tempfile.mkdtemp(prefix="ktool-", dir="/tmp"))
    firsts, wholes = [], []
    try:
        with _up(root):  # loads the image
            pass
        for number in range(rounds):
            with _up(root) as (first, whole):
                firsts.append(first)
                wholes.append(whole)
                if number == rounds - 1:
                    usage = _idle(root, idle_seconds)
    finally:
        shutil.rmtree(root)
    how = f"median of {rounds}; dockerd is started too, the image is present"
    return [
        Figure(GROUP, "ktool up to the first pod Running", statistics.median(firsts), "s", 5, note=how),
        Figure(GROUP, "ktool up --example, to its end", statistics.median(wholes), "s", note="3 pods ready, answers"),
        *_idle_figures(usage, idle_seconds),
    ]


def _idle_figures(usage: dict[str, process.Usage], seconds: float) -> list[Figure]:
    master, agent = usage["master"], usage["agent"]
    over = f"over {seconds:g} s"
    return [
        Figure(IDLE_GROUP, "master: memory (PSS)", master.pss_mib, "MiB", 120, note=f"processes: {master.processes}"),
        Figure(IDLE_GROUP, "master: CPU of a core", master.cpu_percent, "%", 2, note=over),
        Figure(IDLE_GROUP, "agent: memory (PSS)", agent.pss_mib, "MiB", 80, note=f"processes: {agent.processes}"),
        Figure(IDLE_GROUP, "agent: CPU of a core", agent.cpu_percent, "%", note=over),
        Figure(IDLE_GROUP, "supervisord: memory (PSS)", usage["supervisord"].pss_mib, "MiB"),
        Figure(IDLE_GROUP, "Docker Engine: memory (PSS)", usage["docker"].pss_mib, "MiB", note="not ours, for scale"),
    ]


@contextlib.contextmanager
def _up(root: Path) -> Iterator[tuple[float, float]]:
    """A cluster for the block: (seconds to the first pod Running, seconds of the whole command).

    The engine's images stay for the next time; everything else of it goes.
    """
    ktool = [str(Path(sys.executable).with_name("ktool")), "--data-dir", str(root / "data")]
    engine = ["--docker-root", str(root / "docker"), "--supervisor", "supervisord"]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    begun = time.perf_counter()
    with subprocess.Popen(
        [*ktool, "up", "--example", *engine], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as up:
        try:
            first = asyncio.run(_first_running(root / "data" / "admin.kubeconfig", up)) - begun
            told, _ = up.communicate(timeout=UP_SECONDS)
            if up.returncode:
                raise RuntimeError(f"ktool up failed:\n{told.decode()}")
            yield first, time.perf_counter() - begun
        finally:
            if up.poll() is None:
                up.kill()
            subprocess.run(
                [*ktool, "down", "--keep-data", *engine],
                env=environment,
                timeout=UP_SECONDS,
                check=True,
                capture_output=True,
            )
            shutil.rmtree(root / "data")


async def _first_running(path: Path, up: subprocess.Popen[bytes]) -> float:
    """When a pod of the example was first seen Running (clock: time.perf_counter), asked every 30 ms."""
    async with asyncio.timeout(UP_SECONDS):
        while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 (another process makes it; one stat)
            await asyncio.sleep(0.02)
        client = Client(HTTPTransport(kubeconfig.connect(path)), user_agent="bench")
        try:
            while up.poll() is None:
                try:
                    pods = (await client.list(core_v1.Pod, namespace="web", resource_version="0")).items
                except (ConnectionError, ApiError):
                    pods = []
                if any(pod.status and pod.status.phase == "Running" for pod in pods):
                    return time.perf_counter()
                await asyncio.sleep(0.03)
        finally:
            await client.close()
    told = up.stdout.read().decode() if up.stdout else ""
    raise RuntimeError(f"ktool up ended and no pod was seen Running:\n{told}")


def _idle(root: Path, seconds: float) -> dict[str, process.Usage]:
    services = SupervisordServices(root / "data")
    found = {name: services.status(name).pid for name in ("master", "agent", "docker")}
    found["supervisord"] = int((root / "data" / "run" / "supervisord.pid").read_text())
    pids = {name: pid for name, pid in found.items() if pid is not None}
    time.sleep(SETTLE_SECONDS)
    usage = process.idle({name: pid for name, pid in pids.items() if name != "supervisord"}, seconds)
    # its children are the services, which are counted by themselves
    own = process.tree(pids["supervisord"])[0].memory_full_info().pss / 2**20
    return {**usage, "supervisord": process.Usage(own, 0.0, 1)}
