"""Events: counted when repeated, cut short when too many, never in the way of whoever records them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from kube.client import Client
from kube.clock import VirtualClock
from kube.events import BURST, NORMAL, WARNING, EventRecorder, reference_to
from kube.models import core_v1, meta_v1
from kube.status import not_found
from kube.transport import Request, Response


class Server:
    """A transport that keeps events, and can be away or forgetful."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.away = False

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        self.requests.append(request)
        if self.away:
            raise ConnectionError("away")
        body: Mapping[str, Any] = orjson.loads(request.body)
        if request.method == "POST":
            name = body["metadata"]["name"]
            self.events[name] = dict(body)
            return Response(201, {}, orjson.dumps(body))
        name = request.path.rsplit("/", 1)[1]
        if name not in self.events:
            error = not_found("events", name)
            return Response(404, {}, orjson.dumps(error.to_status()))
        self.events[name] |= body
        return Response(200, {}, orjson.dumps(self.events[name]))

    async def close(self) -> None:
        pass


def pod(name: str = "web") -> core_v1.Pod:
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, namespace="shop", uid=f"uid-{name}"))


async def settled(recorder: EventRecorder, clock: VirtualClock, seconds: float = 0.0) -> None:
    task = asyncio.create_task(recorder.run())
    await clock.advance(seconds)
    task.cancel()
    await asyncio.wait([task], timeout=5)


async def test_event_carries_who_what_and_when() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", "node-a", clock=clock)
    recorder.event(pod(), NORMAL, "Started", "Started container web", field_path="spec.containers{web}")
    await settled(recorder, clock)
    (event,) = server.events.values()
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "fieldPath": "spec.containers{web}",
        "kind": "Pod",
        "name": "web",
        "namespace": "shop",
        "uid": "uid-web",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Started", "Started container web")
    assert event["source"] == {"component": "kubelet", "host": "node-a"}
    assert event["count"] == 1
    assert event["firstTimestamp"] == event["lastTimestamp"]
    assert server.requests[0].path == "/api/v1/namespaces/shop/events"


async def test_event_about_a_node_goes_to_the_default_namespace() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", "node-a", clock=clock)
    recorder.event(reference_to(core_v1.Node, "node-a", uid="node-a"), NORMAL, "Starting", "Starting kubelet.")
    await settled(recorder, clock)
    assert server.requests[0].path == "/api/v1/namespaces/default/events"


async def test_repeated_events_become_one_with_a_count() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    for _ in range(3):
        recorder.event(pod(), WARNING, "BackOff", "Back-off restarting failed container")
        await settled(recorder, clock, 30)
    recorder.event(pod(), WARNING, "BackOff", "Back-off restarting failed container")
    recorder.event(pod(), WARNING, "BackOff", "Back-off restarting failed container")
    await settled(recorder, clock)
    (event,) = server.events.values()
    assert event["count"] == 5
    assert event["lastTimestamp"] > event["firstTimestamp"]


async def test_an_event_that_expired_is_written_anew() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    recorder.event(pod(), WARNING, "Unhealthy", "probe failed")
    await settled(recorder, clock, 1)
    server.events.clear()
    recorder.event(pod(), WARNING, "Unhealthy", "probe failed")
    await settled(recorder, clock, 1)
    (event,) = server.events.values()
    assert event["count"] == 1


async def test_events_wait_for_a_server_that_is_away() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    server.away = True
    recorder.event(pod(), NORMAL, "Pulled", "image is there")
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.01)
    await clock.advance(5)
    assert not server.events
    server.away = False
    await clock.advance(20)
    assert len(server.events) == 1
    task.cancel()
    await asyncio.wait([task], timeout=5)


async def test_an_event_that_could_not_be_counted_up_is_no_second_one() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    recorder.event(pod(), WARNING, "Unhealthy", "probe failed")
    await settled(recorder, clock, 1)
    server.away = True
    recorder.event(pod(), WARNING, "Unhealthy", "probe failed")
    task = asyncio.create_task(recorder.run())
    await clock.advance(1)
    server.away = False
    await clock.advance(60)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    (event,) = server.events.values()
    assert event["count"] == 2


async def test_one_talkative_object_does_not_drown_the_others() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    for number in range(BURST + 50):
        recorder.event(pod("loud"), WARNING, "Odd", f"message {number}")
    recorder.event(pod("quiet"), NORMAL, "Fine", "all is well")
    await settled(recorder, clock)
    task = asyncio.create_task(recorder.run())
    await clock.advance(1)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    names = [event["involvedObject"]["name"] for event in server.events.values()]
    assert names.count("loud") == BURST
    assert names.count("quiet") == 1


async def test_flush_writes_what_waits() -> None:
    server, clock = Server(), VirtualClock()
    recorder = EventRecorder(Client(server), "kubelet", clock=clock)
    recorder.event(pod(), NORMAL, "Killing", "Stopping container web")
    await recorder.flush()
    assert len(server.events) == 1
