"""A master by itself, for measuring: started as `ktool up` starts it, without agent and engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import process
from kube import kubeconfig
from kube.client import Client
from kube.kubeconfig import Connection
from kube.transport import HTTPTransport

PORT = 16443
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RunningMaster:
    """A master that answers /readyz; `seconds` passed between its start and that."""

    pid: int
    data_dir: Path
    seconds: float

    @property
    def connection(self) -> Connection:
        """How the administrator reaches it."""
        return kubeconfig.connect(self.data_dir / "admin.kubeconfig")

    def client(self) -> Client:
        """A client as administrator; close it when done."""
        return Client(HTTPTransport(self.connection), user_agent="bench")


@contextlib.contextmanager
def data_dir() -> Iterator[Path]:
    """A directory for one or several masters in a row."""
    with tempfile.TemporaryDirectory(prefix="ktool-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def started(directory: Path, *arguments: str) -> Iterator[RunningMaster]:
    """A ready master in this directory, with more arguments, until the block ends."""
    command = [sys.executable, "-m", "control", "--data-dir", str(directory)]
    command += ["--bind-address", "127.0.0.1", "--port", str(PORT), "--advertise-address", "127.0.0.1", *arguments]
    begun = time.perf_counter()
    with process.running(command, log=directory.parent / f"{directory.name}.log") as found:
        try:
            seconds = asyncio.run(_ready(begun))
            yield RunningMaster(found.pid, directory, seconds)
        finally:
            with contextlib.suppress(FileNotFoundError):
                (directory.parent / f"{directory.name}.log").unlink()


async def _ready(begun: float) -> float:
    """Seconds from `begun` until /readyz says ok, asked every 10 ms over new connections."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # only the time is wanted of it
    async with asyncio.timeout(READY_SECONDS):
        while not await _asks(tls):  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0.01)
    return time.perf_counter() - begun


async def _asks(tls: ssl.SSLContext) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT, ssl=tls)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def config_map(name: str, namespace: str = "default") -> bytes:
    """A ConfigMap of 1.2 KB."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": "bench"}},
            "data": {f"key-{i}": "x" * 100 for i in range(10)},
        }
    ).encode()


def pod(name: str, namespace: str = "default") -> bytes:
    """A pod of two containers that nobody schedules (its gate stays closed)."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5}
    container = {
        "image": "ktool.test/none:1",
        "env": [{"name": f"VARIABLE_{i}", "value": "some value"} for i in range(8)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "readinessProbe": probe,
        "livenessProbe": probe,
    }
    second = {**container, "ports": [{"name": "metrics", "containerPort": 9090}]}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": "bench", "tier": "back"}},
            "spec": {
                "schedulingGates": [{"name": "bench.test/closed"}],
                "containers": [{"name": "main", **container}, {"name": "side", **second}],
            },
        }
    ).encode()
