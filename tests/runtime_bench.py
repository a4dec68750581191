"""Runtimes under test and the few things that every test of one does: make a pod, run a container, wait for its end."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from agent.runtime.docker import DockerRuntime
from agent.runtime.hollow import HollowRuntime
from agent.runtime.runtime import ContainerConfig, ContainerState, ContainerStatus, LogLine, Runtime, SandboxConfig
from kube import image_archive
from tests.engine import Engine

IMAGE = "ktool.test/busybox:1"
CIDR = "10.244.7.0/24"
CLUSTER = "test"
NETWORK = "ktool-test"
BRIDGE = "ktooltest0"
# A web server's script. (busybox's wget crashes when it is given -T.)
SERVER = "mkdir /tmp/www; echo hello > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Bench:
    """A runtime under test; `cgroup` is the parent for its pods."""

    runtime: Runtime
    cgroup: str = ""


@asynccontextmanager
async def hollow_bench() -> AsyncIterator[Bench]:
    async with HollowRuntime(images=[IMAGE]) as runtime:
        await runtime.update_runtime_config(CIDR)
        yield Bench(runtime)


@asynccontextmanager
async def docker_bench(engine: Engine, *, leave_pods: bool = False) -> AsyncIterator[Bench]:
    """A runtime on the private engine, with the test image; its pods are removed at the end."""
    async with DockerRuntime(CLUSTER, socket=engine.socket, network=NETWORK, bridge=BRIDGE) as runtime:
        await runtime.update_runtime_config(CIDR)
        if await runtime.image_status(IMAGE) is None:
            assert await runtime.load_image(pieces(image_archive.archive(busybox_image()))) == [IMAGE]
        try:
            yield Bench(runtime, engine.cgroup)
        finally:
            for sandbox in [] if leave_pods else await runtime.list_sandboxes():
                await runtime.remove_sandbox(sandbox.id)


def busybox_image(reference: str = IMAGE) -> image_archive.ImageSource:
    return image_archive.ImageSource((reference,), image_archive.busybox_root(), command=("sh",))


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


def pod(bench: Bench) -> SandboxConfig:
    uid = str(uuid.uuid4())
    return SandboxConfig(
        name=f"pod-{next(_numbers)}",
        namespace="default",
        uid=uid,
        hostname="web",
        labels={"app": "web"},
        annotations={"note": "a b=c"},
        cgroup_parent=f"{bench.cgroup}/pod{uid}",
    )


def shell(script: str, name: str = "main") -> ContainerConfig:
    return ContainerConfig(name=name, image=IMAGE, command=("sh", "-c", script))


async def run(bench: Bench, config: ContainerConfig, sandbox: SandboxConfig | None = None) -> tuple[str, str]:
    """Run a container in a sandbox of its own; the ids of both."""
    sandbox = sandbox or pod(bench)
    sandbox_id = await bench.runtime.run_sandbox(sandbox)
    container_id = await bench.runtime.create_container(sandbox_id, config, sandbox)
    await bench.runtime.start_container(container_id)
    return sandbox_id, container_id


async def ended(bench: Bench, container_id: str) -> ContainerStatus:
    """The status of a container, once it has ended."""
    async with asyncio.timeout(20):
        while True:
            status = await bench.runtime.container_status(container_id)
            if status.state is ContainerState.EXITED:
                return status
            await asyncio.sleep(0.02)


async def first_line(bench: Bench, container_id: str) -> LogLine:
    """Wait for the first line of a container's log: it has come as far as to say it."""
    async with asyncio.timeout(20), aclosing(bench.runtime.logs(container_id, follow=True)) as lines:
        return await anext(lines)


async def log_of(
    bench: Bench, container_id: str, *, tail_lines: int | None = None, since: datetime | None = None
) -> list[LogLine]:
    async with (
        asyncio.timeout(20),
        aclosing(bench.runtime.logs(container_id, tail_lines=tail_lines, since=since)) as lines,
    ):
        return [line async for line in lines]
