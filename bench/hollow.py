"""A Deployment of 100 replicas on hollow nodes: how fast the control plane is, without containers.

The nodes are real agents to the master (they join, keep leases, set pod status); only their runtime runs nothing. They
share the two cores with the master, so their part of the work is in the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench import process
from bench.figure import Figure
from bench.master import RunningMaster, data_dir, started
from kube import join, objects, pki
from kube.client import Client
from kube.clock import SystemClock
from kube.models import apps_v1, core_v1, meta_v1
from provision import bootstrap_token

GROUP = "Deployment of 100 replicas on hollow nodes"
NODES = 10
REPLICAS = 100
SECONDS = 60.0


def run(*, rounds: int = 3) -> list[Figure]:
    """Create the Deployment `rounds` times and wait until all its pods are bound, and Running; medians."""
    with data_dir() as directory, started(directory / "master") as master:
        return asyncio.run(_run(master, directory, rounds))


async def _run(master: RunningMaster, directory: Path, rounds: int) -> list[Figure]:
    client = master.client()
    try:
        await _write_join_file(master, client, directory / "join.json")
        command = [sys.executable, "-m", "agent", "--data-dir", str(directory / "agent"), "--join"]
        command += [str(directory / "join.json"), "--node-name", "hollow", "--runtime", "hollow"]
        command += ["--hollow-nodes", str(NODES), "--node-ip", "127.0.0.1", "--kubelet-port", "0"]
        log = directory / "agent.log"
        with process.running(command, log=log) as agent:
            try:
                nodes_ready = await _nodes_ready(client)
            except TimeoutError:
                told = await asyncio.to_thread(log.read_text)
                raise RuntimeError(f"hollow nodes did not become ready:\n{told[-3000:]}") from None
            bound, running, cpu = [], [], []
            for number in range(rounds):
                name = f"bench-{number}"
                before = process.cpu_seconds(master.pid)
                all_bound, all_running = await _deploy(client, name)
                cpu.append((process.cpu_seconds(master.pid) - before) * 1e3 / REPLICAS)
                bound.append(all_bound)
                running.append(all_running)
                await _remove(client, name)
            memory = process.pss_mib(agent.pid)
    finally:
        await client.close()
    return [
        Figure(GROUP, "all bound", statistics.median(bound), "s", 2, note=f"{NODES} nodes, median of {rounds}"),
        Figure(GROUP, "all Running", statistics.median(running), "s"),
        Figure(GROUP, "master's CPU for a pod from creation to Running", statistics.median(cpu), "ms"),
        Figure(GROUP, f"{NODES} hollow nodes: start to all Ready", nodes_ready, "s"),
        Figure(GROUP, f"{NODES} hollow nodes: memory of their one process (PSS)", memory, "MiB"),
    ]


async def _write_join_file(master: RunningMaster, client: Client, path: Path) -> None:
    token = await bootstrap_token.create(client, clock=SystemClock(), description="bench")
    ca = pki.parse_cert((master.data_dir / "pki" / "ca.crt").read_bytes(), source="ca.crt")
    server = master.connection.server
    join.write(path, join.JoinConfig(server=server, token=token.text, ca_cert_hashes=(pki.ca_pin(ca),)))


async def _nodes_ready(client: Client) -> float:
    begun = time.perf_counter()
    async with asyncio.timeout(SECONDS):
        while True:
            nodes = (await client.list(core_v1.Node)).items
            if len(nodes) == NODES and all(_ready(node) for node in nodes):
                return time.perf_counter() - begun
            await asyncio.sleep(0.1)


def _ready(node: core_v1.Node) -> bool:
    condition = objects.condition(node.status.conditions, "Ready") if node.status else None
    return condition is not None and condition.status == "True"


async def _deploy(client: Client, name: str) -> tuple[float, float]:
    """(seconds until all pods are bound, until all are Running) since the Deployment's creation was asked for."""
    labels = {"app": name}
    container = core_v1.Container(
        name="main",
        image="ktool.test/none:1",
        imagePullPolicy="IfNotPresent",
        resources=core_v1.ResourceRequirements(requests={"cpu": "1m", "memory": "1Mi"}),
    )
    deployment = apps_v1.Deployment(
        metadata=meta_v1.ObjectMeta(name=name, namespace="default"),
        spec=apps_v1.DeploymentSpec(
            replicas=REPLICAS,
            selector=meta_v1.LabelSelector(matchLabels=labels),
            template=core_v1.PodTemplateSpec(
                metadata=meta_v1.ObjectMeta(labels=labels), spec=core_v1.PodSpec(containers=[container])
            ),
        ),
    )
    since = (await client.list(core_v1.Pod, namespace="default")).resource_version
    bound: dict[str, float] = {}
    running: dict[str, float] = {}
    async with asyncio.timeout(SECONDS), _pods(client, since, name) as events:
        begun = time.perf_counter()
        creating = asyncio.create_task(client.create(deployment))
        async for event in events:
            pod = event.object
            if event.type == "BOOKMARK" or pod.spec is None:
                continue
            now = time.perf_counter() - begun
            if pod.spec.nodeName:
                bound.setdefault(objects.name(pod), now)
            if pod.status and pod.status.phase == "Running":
                running.setdefault(objects.name(pod), now)
            if len(running) == REPLICAS:
                break
        await creating
    return max(bound.values()), max(running.values())


@contextlib.asynccontextmanager
async def _pods(client: Client, since: str, name: str) -> AsyncIterator[AsyncIterator[object]]:
    events = client.watch(core_v1.Pod, namespace="default", resource_version=since, label_selector=f"app={name}")
    try:
        yield events
    finally:
        await events.aclose()


async def _remove(client: Client, name: str) -> None:
    await client.delete(apps_v1.Deployment, name, namespace="default", propagation_policy="Background")
    async with asyncio.timeout(SECONDS):
        while (await client.list(core_v1.Pod, namespace="default", label_selector=f"app={name}")).items:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
