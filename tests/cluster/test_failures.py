"""How it holds up: containers, the agent and the master are killed or stopped, and what was promised stays true."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kube import kubeconfig
from kube.client import Client
from kube.informer import Informer
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from kube.transport import HTTPTransport
from tests.cluster import manifests
from tests.cluster.manifests import container, pod
from tests.cluster.real_cluster import NODE_ADDRESS, Cluster, eventually, get, is_ready
from tests.cluster.test_services import Asker

# A minute is the promise; the shorter absence of the usual run shows the same.
LONG = bool(os.environ.get("KTOOL_LONG_TESTS"))
MASTER_ABSENT_SECONDS = 60 if LONG else 15


@contextlib.asynccontextmanager
async def client_of(cluster: Cluster) -> AsyncIterator[Client]:
    client = Client(HTTPTransport(kubeconfig.connect(cluster.kubeconfig)), user_agent="tests")
    try:
        yield client
    finally:
        await client.close()


def container_ids(cluster: Cluster, namespace: str) -> dict[str, tuple[str, int]]:
    """Container id and restart count by pod."""
    return {
        p.metadata.name: (p.status.container_statuses[0].container_id, p.status.container_statuses[0].restart_count)
        for p in cluster.pods(namespace)
    }


def test_a_killed_container_is_restarted_and_counted(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("phoenix"))
    before = cluster.running(namespace, "phoenix")
    cluster.kill_container(before)
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("phoenix", namespace),
        lambda p: p.status.container_statuses[0].restart_count == 1 and is_ready(p),
        timeout=20,
    )
    status = found.status.container_statuses[0]
    assert status.container_id != before.status.container_statuses[0].container_id
    assert status.last_state.terminated.exit_code == 137
    assert found.metadata.uid == before.metadata.uid
    assert found.status.pod_ip == before.status.pod_ip, "the sandbox stays"
    log = cluster.core.read_namespaced_pod_log("phoenix", namespace, previous=True, _preload_content=False)
    assert log.status == 200


def test_a_crash_loop_backs_off_visibly(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("crasher", container("echo dying; exit 5")))
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("crasher", namespace).status.container_statuses,
        lambda s: s and s[0].restart_count >= 1 and s[0].state.waiting is not None,
        timeout=20,
    )
    assert found[0].state.waiting.reason == "CrashLoopBackOff"
    assert "back-off 10s restarting failed container=main" in found[0].state.waiting.message
    assert found[0].last_state.terminated.exit_code == 5
    assert found[0].restart_count == 1
    time.sleep(3)
    again = cluster.core.read_namespaced_pod("crasher", namespace).status.container_statuses[0]
    assert again.restart_count == 1, "it waits"
    assert "BackOff" in [e.reason for e in cluster.core.list_namespaced_event(namespace).items]
    assert "CrashLoopBackOff" in cluster.ktool("get", "pods", "-n", namespace).stdout


def test_a_deleted_pod_is_replaced(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=2))
    cluster.available(namespace, "web")
    before = {p.metadata.name for p in cluster.pods(namespace)}
    victim = sorted(before)[0]
    cluster.core.delete_namespaced_pod(victim, namespace)
    eventually(
        lambda: {p.metadata.name for p in cluster.pods(namespace) if is_ready(p)},
        lambda names: len(names) == 2 and victim not in names,
        timeout=20,
    )
    eventually(lambda: len(cluster.pods(namespace)), lambda n: n == 2, timeout=15)


def test_a_killed_agent_adopts_what_runs(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=2))
    cluster.core.create_namespaced_service(namespace, manifests.service("web"))
    cluster.available(namespace, "web")
    address = cluster.core.read_namespaced_service("web", namespace).spec.cluster_ip
    before = container_ids(cluster, namespace)
    example = container_ids(cluster, "web")
    old = cluster.pid("agent")
    with Asker(f"http://{address}/") as asker:
        os.kill(old, signal.SIGKILL)
        eventually(lambda: cluster.services.status("agent").pid, lambda pid: pid not in (None, old), timeout=20)
        # It works again: what is asked for now is done.
        cluster.core.create_namespaced_pod(namespace, pod("later"))
        cluster.running(namespace, "later", timeout=30)
    assert container_ids(cluster, namespace).items() >= before.items()
    assert container_ids(cluster, "web") == example
    assert asker.failures == []
    # Adopted means looked after: a crash is noticed.
    cluster.kill_container(cluster.pods(namespace, "app=web")[0])
    eventually(
        lambda: sum(s.restart_count for p in cluster.pods(namespace, "app=web") for s in p.status.container_statuses),
        lambda restarts: restarts == 1,
        timeout=20,
    )


async def test_a_killed_master_has_every_acknowledged_write(cluster: Cluster, namespace: str) -> None:
    """Eight writers, a watcher and an informer, and kill -9 in the middle of it."""
    acknowledged: dict[str, int] = {}
    stop = asyncio.Event()
    containers = container_ids(cluster, "web")
    async with client_of(cluster) as client:
        informer: Informer[core_v1.ConfigMap] = Informer(client, core_v1.ConfigMap, namespace=namespace)
        informer_task = asyncio.create_task(informer.run())
        await informer.wait_synced(10)
        seen: dict[str, list[int]] = {}
        informer.add_handler(
            lambda delta: seen.setdefault(delta.object.metadata.name, []).append(version(delta.object))
        )

        async def write(writer: int) -> None:
            i = 0
            while not stop.is_set():
                name = f"w{writer}-{i}"
                try:
                    made = await client.create(config_map(namespace, name, i=str(i)))
                    acknowledged[name] = version(made)
                except ApiError as error:
                    if error.code not in (409, 429, 503):
                        raise
                except (ConnectionError, TimeoutError):
                    await asyncio.sleep(0.1)
                i += 1

        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for writer in range(8):
                    group.create_task(write(writer))
                await until(lambda: len(acknowledged) > 20, timeout=20)
                before = len(acknowledged)
                master = cluster.pid("master")
                os.kill(master, signal.SIGKILL)
                await until(lambda: len(acknowledged) >= before + 40, timeout=40)
                stop.set()
            listed = await client.list(core_v1.ConfigMap, namespace=namespace)
            found = {m.metadata.name: version(m) for m in listed.items}
            assert {name: v for name, v in acknowledged.items() if found.get(name) != v} == {}
            versions = sorted(acknowledged.values())
            assert len(set(versions)) == len(versions)
            await until(lambda: found.keys() <= seen.keys() | {"kube-root-ca.crt"}, timeout=20)
            assert {name: v for name, v in seen.items() if len(v) != 1} == {}, "each event once"
        finally:
            informer_task.cancel()
            await asyncio.wait([informer_task])
    await asyncio.to_thread(cluster.wait_for_api)
    assert await asyncio.to_thread(container_ids, cluster, "web") == containers


def version(obj: Any) -> int:
    return int(obj.metadata.resourceVersion)


def config_map(namespace: str, name: str, **data: str) -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name=name, namespace=namespace), data=data)


async def until(condition: Callable[[], bool], *, timeout: float) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in another process)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
def test_applications_answer_while_the_master_is_away_and_then_all_converges(cluster: Cluster, namespace: str) -> None:
    cluster.apps.create_namespaced_deployment(namespace, manifests.deployment("web", replicas=2))
    cluster.core.create_namespaced_service(namespace, manifests.service("web", node_port=30555))
    cluster.available(namespace, "web")
    address = cluster.core.read_namespaced_service("web", namespace).spec.cluster_ip
    before = container_ids(cluster, namespace)
    victim = cluster.pods(namespace)[0]
    urls = (f"http://{address}/", f"http://{NODE_ADDRESS}:30555/")
    node = cluster.core.list_node().items[0].metadata.name
    with Asker(urls[0]) as inside, Asker(urls[1]) as outside:
        cluster.services.stop("master")
        try:
            time.sleep(MASTER_ABSENT_SECONDS)
        finally:
            answered = (inside.answers.total(), outside.answers.total())
            cluster.services.start("master")
        cluster.wait_for_api(timeout=30)
    assert inside.failures == []
    assert outside.failures == []
    assert min(answered) > MASTER_ABSENT_SECONDS * 2
    assert container_ids(cluster, namespace) == before
    assert is_ready(cluster.core.read_node(node))

    # Everything converges: new wishes are fulfilled, crashes noticed.
    cluster.kill_container(victim)
    cluster.apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 3}})
    cluster.available(namespace, "web", timeout=30)
    eventually(
        lambda: container_ids(cluster, namespace)[victim.metadata.name][1], lambda restarts: restarts == 1, timeout=20
    )
    eventually(lambda: len(set(_answers(urls[0]))), lambda n: n == 3, timeout=10)


def test_a_container_that_dies_without_a_master_is_restarted_without_it(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("alone", manifests.server(), labels={"app": "alone"}))
    before = cluster.running(namespace, "alone")
    cluster.services.stop("master")
    try:
        old = cluster.kill_container(before)
        with cluster.engine() as engine:
            wanted = {"label": f"io.kubernetes.pod.uid={before.metadata.uid}"}
            eventually(
                lambda: [
                    c["Id"]
                    for c in engine.containers(filters=wanted)
                    if c["Id"] != old and "sleep" not in c["Command"] and "pause" not in c["Command"]
                ],
                timeout=20,
                what="a new container without a master",
            )
    finally:
        cluster.services.start("master")
    cluster.wait_for_api()
    found = eventually(
        lambda: cluster.core.read_namespaced_pod("alone", namespace),
        lambda p: is_ready(p) and p.status.container_statuses[0].restart_count == 1,
        timeout=20,
    )
    assert found.metadata.uid == before.metadata.uid


def _answers(url: str) -> list[str]:
    return [get(url).split()[1] for _ in range(12)]


def test_a_killed_dockerd_comes_back_and_pods_live_on(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("survivor"))
    before = cluster.running(namespace, "survivor").status.container_statuses[0].container_id
    old = cluster.pid("docker")
    os.kill(old, signal.SIGKILL)
    eventually(lambda: cluster.services.status("docker").pid, lambda pid: pid not in (None, old), timeout=20)
    cluster.core.create_namespaced_pod(namespace, pod("later"))
    cluster.running(namespace, "later", timeout=60)
    status = cluster.running(namespace, "survivor", timeout=30).status.container_statuses[0]
    assert (status.container_id, status.restart_count) == (before, 0)
    eventually(lambda: cluster.core.list_node().items[0], is_ready, timeout=30)


async def test_twenty_clients_compare_and_swap_one_object(cluster: Cluster, namespace: str) -> None:
    """Each 50 times over HTTPS: the counter equals the number of successes, everything else is 409."""
    clients, attempts = 20, 50
    outcomes: collections.Counter[str] = collections.Counter()
    async with client_of(cluster) as first:
        await first.create(config_map(namespace, "counter", n="0"))

        async def count() -> None:
            async with client_of(cluster) as client:
                for _ in range(attempts):
                    found = await client.get(core_v1.ConfigMap, "counter", namespace=namespace)
                    found.data["n"] = str(int(found.data["n"]) + 1)
                    try:
                        await client.update(found)
                        outcomes["success"] += 1
                    except ApiError as error:
                        outcomes[f"{error.code} {error.reason}"] += 1

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(count())
        found = await first.get(core_v1.ConfigMap, "counter", namespace=namespace)
    assert outcomes.keys() == {"success", "409 Conflict"}
    assert outcomes.total() == clients * attempts
    assert int(found.data["n"]) == outcomes["success"]
    assert outcomes["success"] >= attempts


async def test_a_dropped_watch_resumes_with_each_event_once_in_order(cluster: Cluster, namespace: str) -> None:
    """1,000 writes; the watch's connection is cut four times meanwhile."""
    writes = 1000
    async with client_of(cluster) as client:
        revision = (await client.list(core_v1.ConfigMap, namespace=namespace)).resource_version
        seen: list[int] = []

        async def write() -> None:
            made = await client.create(config_map(namespace, "row", n="0"))
            for n in range(1, writes):
                made.data["n"] = str(n)
                made = await client.update(made)

        async def watch() -> None:
            nonlocal revision
            drops = {150, 400, 401, 800}
            while len(seen) < writes:
                async with (
                    client_of(cluster) as own,
                    contextlib.aclosing(
                        own.watch(
                            core_v1.ConfigMap,
                            namespace=namespace,
                            resource_version=revision,
                            field_selector="metadata.name=row",
                        )
                    ) as events,
                ):
                    async for event in events:
                        revision = event.object.metadata.resourceVersion or ""
                        if event.type == "BOOKMARK":
                            continue
                        seen.append(int(event.object.data["n"]))
                        if len(seen) in drops:
                            drops.discard(len(seen))
                            break
                        if len(seen) == writes:
                            break

        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(watch())
    assert seen == list(range(writes))


@pytest.mark.skipif(not LONG, reason="takes two minutes (KTOOL_LONG_TESTS=1)")
@pytest.mark.timeout(240)
def test_a_node_that_is_away_is_unknown_and_its_pods_run_on(cluster: Cluster, namespace: str) -> None:
    cluster.core.create_namespaced_pod(namespace, pod("stays", manifests.server(), labels={"app": "stays"}))
    before = cluster.running(namespace, "stays")
    node = cluster.core.list_node().items[0].metadata.name
    cluster.services.stop("agent")
    try:
        found = eventually(
            lambda: cluster.core.read_node(node),
            lambda n: any(c.type == "Ready" and c.status == "Unknown" for c in n.status.conditions),
            timeout=90,
        )
        assert "node.kubernetes.io/unreachable" in {t.key for t in found.spec.taints or ()}
        assert cluster.ktool("status", check=False).returncode == 1
        assert get(f"http://{before.status.pod_ip}:8080/").startswith("hello stays")
    finally:
        cluster.services.start("agent")
    eventually(lambda: cluster.core.read_node(node), is_ready, timeout=30)
    eventually(lambda: not cluster.core.read_node(node).spec.taints, timeout=20)
    after = cluster.running(namespace, "stays")
    assert (after.metadata.uid, after.status.container_statuses[0].restart_count) == (before.metadata.uid, 0)


def test_writes_during_a_restart_of_the_agent_are_not_lost(cluster: Cluster, namespace: str) -> None:
    """What is asked for while the agent is away is done when it is back, a deletion too."""
    cluster.core.create_namespaced_pod(namespace, pod("old"))
    cluster.running(namespace, "old")
    cluster.services.stop("agent")
    try:
        cluster.core.delete_namespaced_pod("old", namespace)
        cluster.core.create_namespaced_pod(namespace, pod("new"))
        eventually(lambda: cluster.core.read_namespaced_pod("new", namespace).spec.node_name, timeout=10)
        assert cluster.core.read_namespaced_pod("old", namespace).metadata.deletion_timestamp
    finally:
        cluster.services.start("agent")
    cluster.running(namespace, "new", timeout=30)
    eventually(lambda: [p.metadata.name for p in cluster.pods(namespace)], lambda n: n == ["new"], timeout=20)
