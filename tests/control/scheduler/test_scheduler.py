"""The scheduler against the real API and a real store: what is bound, what is told, and what is never done twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest_asyncio

from control.scheduler.plugin import Filter, Verdict
from control.scheduler.pod_info import PodInfo
from control.scheduler.registry import default_filters
from control.scheduler.scheduler import Scheduler
from control.scheduler.snapshot import Snapshot
from kube import objects
from kube.client import Client
from kube.informer import InformerFactory
from kube.models import core_v1
from kube.transport import Request, Response
from tests.control.api.server_under_test import Object, Server, running
from tests.control.scheduler.build import node_data, pod_data

NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"


class Cluster:
    """API, informers and what a test does to them."""

    def __init__(self, server: Server, factory: InformerFactory) -> None:
        self.server = server
        self.factory = factory

    async def add_node(self, name: str, **what: Any) -> None:
        await self.server.call("POST", NODES, node_data(name, **what))
        # the status of a new object counts only when it is written as such
        await self.server.call("PUT", f"{NODES}/{name}/status", node_data(name, **what))

    async def add_pod(self, name: str, **what: Any) -> Object:
        data = pod_data(name, **what)
        del data["metadata"]["uid"]
        created: Object = await self.server.call("POST", PODS, data)
        return created

    async def pod(self, name: str) -> Object:
        found: Object = await self.server.call("GET", f"{PODS}/{name}")
        return found

    async def nodes_of(self, prefix: str = "") -> dict[str, str]:
        """Pod → its node, or nothing."""
        found = await self.server.call("GET", PODS)
        return {
            p["metadata"]["name"]: p["spec"].get("nodeName", "")
            for p in found["items"]
            if p["metadata"]["name"].startswith(prefix)
        }

    async def events_of(self, name: str, reason: str) -> list[str]:
        found = await self.server.call("GET", EVENTS)
        return [e["message"] for e in found["items"] if (e["involvedObject"]["name"], e["reason"]) == (name, reason)]

    async def bound(self, *names: str, seconds: float = 20.0) -> dict[str, str]:
        """Wait until these pods have nodes."""

        async def found() -> dict[str, str]:
            nodes = await self.nodes_of()
            return {name: nodes[name] for name in names} if all(nodes.get(name) for name in names) else {}

        result: dict[str, str] = await eventually(found, seconds=seconds)
        return result


async def eventually(read: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """What `read` gives as soon as it gives something; only reads may be repeated."""
    async with asyncio.timeout(seconds):
        while not (found := await read()):  # noqa: ASYNC110 (it reads the API: there is no event to wait for)
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def scheduling(cluster: Cluster, client: Client | None = None, **what: Any) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(client or cluster.server.client, cluster.factory, seed=1, **what)
    task = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "store.db") as server:
        factory = InformerFactory(server.client)
        informers = asyncio.create_task(factory.run())
        try:
            yield Cluster(server, factory)
        finally:
            informers.cancel()
            with suppress(asyncio.CancelledError):
                await informers


class Faulty:
    """A transport that does something else with bindings."""

    def __init__(self, server: Server, answer: Callable[[Request], Any]) -> None:
        self._local = server.local
        self._answer = answer

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        if request.path.endswith("/binding"):
            await self._answer(request)
        return await self._local.send(request, stream=stream, timeout=timeout)

    async def close(self) -> None:
        """The server closes it."""


async def test_a_pod_is_bound_and_told_so(cluster: Cluster) -> None:
    await cluster.add_node("a")
    await cluster.add_pod("web", cpu="1")
    async with scheduling(cluster) as scheduler:
        assert await cluster.bound("web") == {"web": "a"}
        messages = await eventually(lambda: cluster.events_of("web", "Scheduled"))
        assert messages == ["Successfully assigned default/web to a"]
        (record,) = scheduler.decisions.of("default/web")
        assert (record.decision.node, record.attempt) == ("a", 1)
        assert scheduler.metrics.scheduled == 1
        (told,) = scheduler.explain("default/web")
        assert told.node == "a"
        assert told.total > 0
        assert scheduler.snapshot.placements["default/web"].node == "a"
    conditions = (await cluster.pod("web"))["status"]["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [("PodScheduled", "True")]


async def test_an_unschedulable_pod_says_why_and_is_bound_when_a_node_appears(cluster: Cluster) -> None:
    await cluster.add_node("small", cpu="1")
    await cluster.add_pod("big", cpu="2")
    message = "0/1 nodes are available: 1 Insufficient cpu."
    async with scheduling(cluster):
        assert await eventually(lambda: cluster.events_of("big", "FailedScheduling")) == [message]

        async def condition() -> Object | None:
            conditions = (await cluster.pod("big"))["status"].get("conditions") or [None]
            found: Object | None = conditions[0]
            return found

        found = await eventually(condition)
        assert (found["type"], found["status"], found["reason"]) == ("PodScheduled", "False", "Unschedulable")
        assert found["message"] == message
        await cluster.add_node("large")
        assert await cluster.bound("big") == {"big": "large"}


async def test_a_pod_waits_for_the_pod_it_wants_to_be_near(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        await cluster.add_node(name)
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "cache"}}}
    near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    await cluster.add_pod("web", affinity=near)
    async with scheduling(cluster):
        messages = await eventually(lambda: cluster.events_of("web", "FailedScheduling"))
        assert messages == ["0/3 nodes are available: 3 node(s) didn't match pod affinity rules."]
        await cluster.add_pod("cache", labels={"app": "cache"})
        found = await cluster.bound("web", "cache")
        assert found["web"] == found["cache"]


async def test_a_gated_pod_waits_for_its_gate(cluster: Cluster) -> None:
    await cluster.add_node("a")
    await cluster.add_pod("gated", schedulingGates=[{"name": "example.com/quota"}])
    await cluster.add_pod("free")
    async with scheduling(cluster) as scheduler:
        await cluster.bound("free")
        assert (await cluster.nodes_of("gated")) == {"gated": ""}
        assert scheduler.decisions.of("default/gated") == []
        await cluster.server.call(
            "PATCH",
            f"{PODS}/gated",
            {"spec": {"schedulingGates": None}},
            content_type="application/merge-patch+json",
        )
        await cluster.bound("gated")


async def test_other_schedulers_pods_are_left_alone_and_counted(cluster: Cluster) -> None:
    await cluster.add_node("a", cpu="2")
    await cluster.add_pod("theirs", schedulerName="another", cpu="1500m")
    await cluster.add_pod("static", nodeName="a", cpu="400m")
    await cluster.add_pod("ours", cpu="50m")
    async with scheduling(cluster) as scheduler:
        await cluster.bound("ours")
        assert (await cluster.nodes_of("theirs")) == {"theirs": ""}
        assert scheduler.snapshot.requested[0][0] == 450
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "theirs"}, "target": {"name": "a"}}
        await cluster.server.call("POST", f"{PODS}/theirs/binding", binding)
        await cluster.add_pod("late", cpu="100m")
        assert await eventually(lambda: cluster.events_of("late", "FailedScheduling"))
        assert scheduler.snapshot.requested[0][0] == 1950


async def test_higher_priority_goes_first(cluster: Cluster) -> None:
    priorities = {"low": 1, "high": 1000, "middle": 10}
    for name, value in priorities.items():
        body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        await cluster.server.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {**body, "value": value})
        await cluster.add_pod(name, priorityClassName=name, priority=value)
    await cluster.add_node("a")
    async with scheduling(cluster) as scheduler:
        await cluster.bound(*priorities)
        order = [record.key for record in reversed(scheduler.decisions.recent())]
        assert order == ["default/high", "default/middle", "default/low"]


async def test_a_hundred_pods_on_ten_nodes(cluster: Cluster) -> None:
    for i in range(10):
        await cluster.add_node(f"n{i}", pods="10")
    names = [f"p{i}" for i in range(100)]
    async with scheduling(cluster) as scheduler:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(cluster.add_pod(name, cpu="100m", owner="web"))
        found = await cluster.bound(*names, seconds=30)
        assert Counter(found.values()) == {f"n{i}": 10 for i in range(10)}
        assert scheduler.metrics.failed == 0


async def test_churn_binds_nobody_twice_and_overfills_nothing(cluster: Cluster) -> None:
    """Nodes and pods come and go while the scheduler works; a watcher sees each pod's node change at most once."""
    seen: dict[str, set[str]] = {}
    dice = random.Random(1)

    def watch(delta: Any) -> None:
        if delta.object.spec.nodeName:
            seen.setdefault(objects.uid(delta.object), set()).add(delta.object.spec.nodeName)

    cluster.factory.informer(core_v1.Pod).add_handler(watch)
    for i in range(4):
        await cluster.add_node(f"n{i}", cpu="1")

    async def pods(part: int) -> None:
        for i in range(25):
            name = f"p{part}-{i}"
            await cluster.add_pod(name, cpu="100m")
            await asyncio.sleep(dice.uniform(0, 0.02))
            if dice.random() < 0.5:
                await cluster.server.call("DELETE", f"{PODS}/{name}", query=[("gracePeriodSeconds", "0")])

    async def nodes() -> None:
        for i in range(10):
            await asyncio.sleep(0.03)
            name = f"n{i % 4}"
            await cluster.server.call("DELETE", f"{NODES}/{name}")
            await asyncio.sleep(0.02)
            await cluster.add_node(name, cpu="1")

    async with scheduling(cluster) as scheduler:
        async with asyncio.TaskGroup() as group:
            for part in range(3):
                group.create_task(pods(part))
            group.create_task(nodes())

        async def settled() -> bool:
            found = await cluster.nodes_of()
            waiting = [name for name, where in found.items() if not where]
            free = 40 - sum(1 for where in found.values() if where)
            return not waiting or free == 0

        await eventually(settled, seconds=40)
        assert [nodes for nodes in seen.values() if len(nodes) > 1] == []
        used = Counter(where for where in (await cluster.nodes_of()).values() if where)
        assert all(count <= 10 for count in used.values()), used

        async def counted() -> bool:
            """The snapshot says what the API says."""
            found = {f"default/{name}": where for name, where in (await cluster.nodes_of()).items() if where}
            return found == {key: placed.node for key, placed in scheduler.snapshot.placements.items()}

        await eventually(counted)


async def test_a_rejected_binding_gives_its_room_back(cluster: Cluster) -> None:
    """Somebody else binds the pod in the last moment: its room is where it really is, and nowhere else."""
    await cluster.add_node("a", cpu="1")
    await cluster.add_pod("raced", cpu="1")

    async def be_faster(request: Request) -> None:
        if "/raced/" in request.path:
            await cluster.add_node("b", cpu="1")
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "raced"}, "target": {"name": "b"}}
            await cluster.server.call("POST", f"{PODS}/raced/binding", body)

    async with scheduling(cluster, Client(Faulty(cluster.server, be_faster))) as scheduler:
        await cluster.bound("raced")
        await cluster.add_pod("next", cpu="1")
        assert await cluster.bound("raced", "next") == {"raced": "b", "next": "a"}
        assert scheduler.metrics.failed == 1


async def test_a_binding_that_fails_is_tried_again_after_a_rest(cluster: Cluster) -> None:
    await cluster.add_node("a")
    await cluster.add_pod("web")
    attempts = 0

    async def lose(request: Request) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionResetError("gone")

    async with scheduling(cluster, Client(Faulty(cluster.server, lose))) as scheduler:
        await cluster.bound("web")
        assert attempts == 2
        assert [record.attempt for record in scheduler.decisions.of("default/web")] == [2, 1]
        assert await cluster.events_of("web", "FailedScheduling") == ["binding rejected: gone"]
        assert scheduler.snapshot.requested[0].tolist()[-1] == 1


async def test_a_lost_answer_is_not_a_lost_binding(cluster: Cluster) -> None:
    await cluster.add_node("a")
    await cluster.add_pod("web")

    async def bind_and_lose(request: Request) -> None:
        await cluster.server.local.send(request)
        raise ConnectionResetError("gone")

    async with scheduling(cluster, Client(Faulty(cluster.server, bind_and_lose))) as scheduler:
        await cluster.bound("web")
        assert await eventually(lambda: cluster.events_of("web", "Scheduled"))
        assert (scheduler.metrics.scheduled, scheduler.metrics.failed) == (1, 0)


async def test_a_pod_deleted_while_it_waits_or_is_being_bound(cluster: Cluster) -> None:
    await cluster.add_node("a", cpu="1")
    await cluster.add_pod("waiting", cpu="2")
    await cluster.add_pod("bound-too-late", cpu="1")
    again: Object = {}

    async def delete_first(request: Request) -> None:
        nonlocal again
        if not again:
            await cluster.server.call("DELETE", f"{PODS}/bound-too-late")
            again = await cluster.add_pod("bound-too-late", cpu="1")

    async with scheduling(cluster, Client(Faulty(cluster.server, delete_first))) as scheduler:
        assert await eventually(lambda: cluster.events_of("waiting", "FailedScheduling"))
        await cluster.server.call("DELETE", f"{PODS}/waiting")
        # the second pod of that name is bound, although the first one's binding was under way when it came
        await cluster.bound("bound-too-late")
        assert (await cluster.pod("bound-too-late"))["metadata"]["uid"] == again["metadata"]["uid"]

        async def empty() -> bool:
            return len(scheduler.queue) == 0

        assert await eventually(empty)
        assert scheduler.snapshot.requested[0][0] == 1000


async def test_a_restarted_scheduler_does_not_book_twice(cluster: Cluster) -> None:
    """The first one ends with some bindings answered, some written but not answered, some never sent."""
    for i in range(4):
        await cluster.add_node(f"n{i}", cpu="1")
    names = [f"p{i}" for i in range(40)]
    for name in names:
        await cluster.add_pod(name, cpu="100m")
    asked = 0
    enough = asyncio.Event()

    async def stall(request: Request) -> None:
        nonlocal asked
        asked += 1
        if asked > 10:
            if asked <= 20:
                await cluster.server.local.send(request)
            elif asked == 40:
                enough.set()
            await asyncio.Event().wait()

    async def twenty_bound() -> bool:
        return enough.is_set() and sum(bool(where) for where in (await cluster.nodes_of()).values()) == 20

    async with scheduling(cluster, Client(Faulty(cluster.server, stall))):
        await eventually(twenty_bound)
    async with scheduling(cluster) as scheduler:
        found = await cluster.bound(*names)
        assert Counter(found.values()) == {f"n{i}": 10 for i in range(4)}

        async def counted() -> bool:
            return bool((scheduler.snapshot.requested[:, 0] == 1000).all())

        await eventually(counted)


class Broken:
    """A filter that does not bear pods called broken."""

    name = "Broken"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        if info.key == "default/broken":
            raise ZeroDivisionError("no such number")
        return None


async def test_a_failing_plugin_costs_its_pod_an_attempt_and_nobody_else_anything(cluster: Cluster) -> None:
    await cluster.add_node("a")
    await cluster.add_pod("broken")
    await cluster.add_pod("sound")
    filters: tuple[Filter, ...] = (*default_filters(), Broken())
    async with scheduling(cluster, filters=filters) as scheduler:
        await cluster.bound("sound")
        messages = await eventually(lambda: cluster.events_of("broken", "FailedScheduling"))
        assert messages == ['running plugin "Broken": no such number']

        async def condition() -> bool:
            conditions = (await cluster.pod("broken"))["status"].get("conditions") or [{}]
            return bool(conditions[0].get("reason") == "SchedulerError")

        await eventually(condition)

        async def again() -> bool:
            return len(scheduler.decisions.of("default/broken")) > 1

        await eventually(again)
        await cluster.add_pod("later")
        await cluster.bound("later")


async def test_a_malformed_affinity_fits_no_node_and_stops_nobody(cluster: Cluster) -> None:
    """The API lets no such pod through, but an old store may hold one: the scheduler is told of it directly."""
    await cluster.add_node("a")
    async with scheduling(cluster) as scheduler:
        await cluster.add_pod("first")
        await cluster.bound("first")
        term = {"matchExpressions": [{"key": "disk", "operator": "Like", "values": ["ssd"]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        data = pod_data("odd", affinity={"nodeAffinity": required})
        cluster.factory.informer(core_v1.Pod)._store("default/odd", objects.from_dict(data, core_v1.Pod))

        async def decided() -> bool:
            return bool(scheduler.decisions.of("default/odd"))

        await eventually(decided)
        (record,) = scheduler.decisions.of("default/odd")
        assert record.decision.message.endswith("1 node(s) didn't match Pod's node affinity/selector.")
        await cluster.add_pod("second")
        await cluster.bound("second")
