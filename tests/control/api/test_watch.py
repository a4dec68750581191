from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from control.api import watcher
from control.api.watch_cache import WatchCache
from kube.client import Client
from kube.clock import VirtualClock
from kube.informer import Delta, Informer
from kube.models import core_v1
from kube.transport import Query, Request, Response
from tests.control.api.server_under_test import CONFIG_MAPS, PODS, Server, config_map, pod, running

MERGE = "application/merge-patch+json"
STEP_SECONDS = 20.0


class Events:
    """The events of one open watch, one at a time."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._lines: list[bytes] = []

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(STEP_SECONDS):
            while not self._lines:
                self._lines = (await anext(self._stream)).splitlines()
        found: dict[str, Any] = orjson.loads(self._lines.pop(0))
        return found

    async def names(self, count: int) -> list[tuple[str, str]]:
        found = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in found]

    async def ended(self) -> bool:
        async with asyncio.timeout(STEP_SECONDS):
            return not self._lines and await anext(self._stream, None) is None


@asynccontextmanager
async def watching(server: Server, path: str, query: Query = (), **headers: str) -> AsyncIterator[Events]:
    response = await server.send("GET", path, query=[("watch", "true"), *query], stream=True, **headers)
    assert response.status == 200, response.body
    assert response.stream is not None
    try:
        yield Events(response.stream)
    finally:
        await response.close()


async def revision(server: Server, path: str = CONFIG_MAPS) -> str:
    found: str = (await server.call("GET", path))["metadata"]["resourceVersion"]
    return found


def watches(cache: WatchCache) -> int:
    return sum(count for _, _, count in cache.counts())


async def test_what_exists_comes_first_then_what_happens(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    async with watching(server, CONFIG_MAPS) as events:
        assert await events.names(1) == [("ADDED", "a")]
        await server.call("PATCH", f"{CONFIG_MAPS}/a", {"data": {"x": "1"}}, content_type=MERGE)
        await server.call("POST", CONFIG_MAPS, config_map("b"))
        deleted = await server.call("GET", f"{CONFIG_MAPS}/a")
        await server.call("DELETE", f"{CONFIG_MAPS}/a")
        assert await events.names(2) == [("MODIFIED", "a"), ("ADDED", "b")]
        last = await events.next()
        assert (last["type"], last["object"]["data"]) == ("DELETED", {"x": "1"})
        assert int(last["object"]["metadata"]["resourceVersion"]) > int(deleted["metadata"]["resourceVersion"])
    assert watches(server.cache) == 0


async def test_a_dropped_watch_resumes_and_sees_each_event_once_in_order(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a", n="0"))
    seen = [0]
    last = await revision(server)

    async def write() -> None:
        for n in range(1, 1001):
            await server.call("PATCH", f"{CONFIG_MAPS}/a", {"data": {"n": str(n)}}, content_type=MERGE)

    writing = asyncio.create_task(write())
    while seen[-1] < 1000:
        async with watching(server, CONFIG_MAPS, [("resourceVersion", last)]) as events:
            for _ in range(min(130, 1000 - seen[-1])):  # then the connection drops
                event = await events.next()
                assert event["type"] == "MODIFIED"
                seen.append(int(event["object"]["data"]["n"]))
                last = event["object"]["metadata"]["resourceVersion"]
    await writing
    assert seen == [*range(1001)]


async def test_an_old_revision_is_read_from_the_history(tmp_path: Path) -> None:
    async with running(tmp_path / "store.db", window_changes=5) as server:
        start = await revision(server)
        for n in range(50):
            await server.call("POST", CONFIG_MAPS, config_map(f"c{n:02}"))
        await server.call("DELETE", f"{CONFIG_MAPS}/c00")
        async with watching(server, CONFIG_MAPS, [("resourceVersion", start)]) as events:
            expected = [("ADDED", f"c{n:02}") for n in range(50)]
            assert await events.names(51) == [*expected, ("DELETED", "c00")]
            await server.call("POST", CONFIG_MAPS, config_map("new"))
            assert await events.names(1) == [("ADDED", "new")]


async def test_a_forgotten_revision_is_an_error_event(tmp_path: Path) -> None:
    async with running(tmp_path / "store.db", window_changes=5) as server:
        start = await revision(server)
        for n in range(20):
            await server.call("POST", CONFIG_MAPS, config_map(f"c{n:02}"))
        await server.store.compact(await server.store.revision())
        async with watching(server, CONFIG_MAPS, [("resourceVersion", start)]) as events:
            event = await events.next()
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert await events.ended()
        # what has not changed since is not forgotten
        async with watching(server, PODS, [("resourceVersion", start)]) as events:
            await server.call("POST", PODS, pod("a"))
            assert await events.names(1) == [("ADDED", "a")]


async def test_an_informer_recovers_from_a_forgotten_revision(tmp_path: Path) -> None:
    async with running(tmp_path / "store.db", window_changes=5) as server:
        for name in ("stays", "goes"):
            await server.call("POST", CONFIG_MAPS, config_map(name))
        informer = Informer(server.client, core_v1.ConfigMap)
        told: list[tuple[str, str]] = []
        all_told = asyncio.Event()

        def note(delta: Delta[core_v1.ConfigMap]) -> None:
            told.append((delta.type, delta.object.metadata.name or ""))
            if len(told) == 21:
                all_told.set()

        informer.add_handler(note)
        running_informer = asyncio.create_task(informer.run())
        await informer.wait_synced(STEP_SECONDS)
        running_informer.cancel()
        await asyncio.wait([running_informer])
        told.clear()
        await server.call("DELETE", f"{CONFIG_MAPS}/goes")
        for n in range(20):
            await server.call("POST", CONFIG_MAPS, config_map(f"c{n:02}"))
        await server.store.compact(await server.store.revision())
        running_informer = asyncio.create_task(informer.run())
        async with asyncio.timeout(STEP_SECONDS):
            await all_told.wait()
        running_informer.cancel()
        await asyncio.wait([running_informer])
        assert sorted(told) == [*(("ADDED", f"c{n:02}") for n in range(20)), ("DELETED", "goes")]


async def test_objects_enter_and_leave_a_selection(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    start = await revision(server)
    query = [("resourceVersion", start), ("labelSelector", "colour=red")]
    async with watching(server, CONFIG_MAPS, query) as events:

        async def paint(colour: str | None, **data: str) -> Any:
            change = {"metadata": {"labels": {"colour": colour}}, "data": data}
            return await server.call("PATCH", f"{CONFIG_MAPS}/a", change, content_type=MERGE)

        await paint("blue")
        await paint("red", seen="1")
        await paint("red", seen="2")
        left = await paint("blue", seen="3")
        await paint(None)
        await paint("red", seen="4")
        await server.call("DELETE", f"{CONFIG_MAPS}/a")
        found = [await events.next() for _ in range(5)]
        assert [(e["type"], e["object"]["data"]["seen"]) for e in found] == [
            ("ADDED", "1"),
            ("MODIFIED", "2"),
            ("DELETED", "2"),  # as it was while it was selected
            ("ADDED", "4"),
            ("DELETED", "4"),
        ]
        assert found[2]["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_each_node_sees_its_own_pods(server: Server) -> None:
    async def bind(name: str, node: str) -> None:
        await server.call("POST", f"{PODS}/{name}/binding", {"target": {"kind": "Node", "name": node}})

    on_node = [("fieldSelector", "spec.nodeName=n1")]
    async with (
        watching(server, PODS, on_node) as mine,
        watching(server, PODS, [("fieldSelector", "spec.nodeName=")]) as free,
    ):
        await server.call("POST", PODS, pod("a"))
        await server.call("POST", PODS, pod("b"))
        await bind("b", "n2")
        await bind("a", "n1")
        await server.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
        assert await mine.names(2) == [("ADDED", "a"), ("DELETED", "a")]
        assert await free.names(4) == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "b"), ("DELETED", "a")]


async def test_one_object_is_watched_by_its_name(server: Server) -> None:
    query = [("fieldSelector", "metadata.name=b")]
    async with watching(server, CONFIG_MAPS, query) as events:
        for name in ("a", "b", "c"):
            await server.call("POST", CONFIG_MAPS, config_map(name))
        await server.call("DELETE", f"{CONFIG_MAPS}/b")
        assert await events.names(2) == [("ADDED", "b"), ("DELETED", "b")]


async def test_bookmarks_keep_a_quiet_watch_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.api.watch_cache.BOOKMARK_SECONDS", 0.05)
    async with running(tmp_path / "store.db") as server:
        start = await revision(server)
        query = [("resourceVersion", start), ("allowWatchBookmarks", "true")]
        async with watching(server, CONFIG_MAPS, query) as events:
            await server.call("POST", PODS, pod("another-kind"))
            event = await events.next()
            assert event["type"] == "BOOKMARK"
            assert event["object"]["kind"] == "ConfigMap"
            assert int(event["object"]["metadata"]["resourceVersion"]) >= int(start)


async def test_a_streaming_list_ends_with_a_bookmark(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    query = [
        ("sendInitialEvents", "true"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("allowWatchBookmarks", "true"),
    ]
    async with watching(server, CONFIG_MAPS, query) as events:
        assert await events.names(1) == [("ADDED", "a")]
        event = await events.next()
        assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    error = await server.error("GET", CONFIG_MAPS, query=[("watch", "true"), ("sendInitialEvents", "true")])
    assert error["code"] == 422


async def test_a_watch_ends_at_its_time(server: Server) -> None:
    async with watching(server, CONFIG_MAPS, [("timeoutSeconds", "1")]) as events:
        assert await events.ended()
    assert watches(server.cache) == 0


async def test_a_reader_that_is_too_slow_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.api.watcher.MAX_PENDING_EVENTS", 10)
    async with watching(server, CONFIG_MAPS) as slow, watching(server, PODS) as other:
        for n in range(20):
            await server.call("POST", CONFIG_MAPS, config_map(f"c{n:02}"))
        await server.call("POST", PODS, pod("a"))
        assert await other.names(1) == [("ADDED", "a")]
        found = await slow.names(11)
        assert found == [("ADDED", f"c{n:02}") for n in range(11)]
        assert await slow.ended()


async def test_watchers_share_an_encoded_event(server: Server) -> None:
    responses = [await server.send("GET", CONFIG_MAPS, query=[("watch", "1")], stream=True) for _ in range(3)]
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    chunks: Sequence[bytes] = [await anext(r.stream) for r in responses if r.stream is not None]
    assert chunks[0] is chunks[1] is chunks[2]
    for response in responses:
        await response.close()


async def test_tables_are_watched_too(server: Server) -> None:
    form = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    async with watching(server, PODS, accept=form) as events:
        await server.call("POST", PODS, pod("a"))
        await server.call("POST", PODS, pod("b"))
        first, second = await events.next(), await events.next()
    assert (first["type"], first["object"]["kind"]) == ("ADDED", "Table")
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] == []
    assert second["object"]["rows"][0]["cells"][:3] == ["b", "0/1", "Pending"]
    assert second["object"]["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_both_kinds_of_events_can_be_watched(server: Server) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    async with watching(server, path) as events:
        core = {"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"kind": "Pod"}, "message": "hi"}
        await server.call("POST", "/api/v1/namespaces/default/events", core)
        event = await events.next()
    assert (event["object"]["apiVersion"], event["object"]["note"]) == ("events.k8s.io/v1", "hi")


async def test_the_typed_client_watches(server: Server) -> None:
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    events = server.client.watch(core_v1.ConfigMap, namespace="default", timeout_seconds=5)
    async with aclosing(events), asyncio.timeout(STEP_SECONDS):
        async for event in events:
            assert (event.type, event.object.metadata.name) == ("ADDED", "a")
            break


async def test_a_watch_of_one_object_by_its_path_shows_no_other(server: Server) -> None:
    for name in ("mine", "other"):
        await server.call("POST", CONFIG_MAPS, config_map(name))
    path = CONFIG_MAPS.replace("/v1/", "/v1/watch/")
    async with watching(server, f"{path}/mine") as events:
        assert await events.names(1) == [("ADDED", "mine")]
        for name in ("other", "mine"):
            await server.call("DELETE", f"{CONFIG_MAPS}/{name}")
        assert await events.names(1) == [("DELETED", "mine")]
    async with watching(server, f"{path}/mine", [("fieldSelector", "metadata.name=other")]) as events:
        await server.call("POST", CONFIG_MAPS, config_map("other"))
        await server.call("POST", CONFIG_MAPS, config_map("mine"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await events.next()


async def test_who_gave_up_waiting_for_a_revision_waits_no_more(server: Server) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.cache.wait_for(10**9)
    waiting = [asyncio.create_task(server.cache.wait_for(server.cache.revision + 1))]
    await asyncio.sleep(0)
    assert len(server.cache._waiters) == 1
    await server.call("POST", CONFIG_MAPS, config_map("a"))
    await asyncio.wait_for(asyncio.gather(*waiting), STEP_SECONDS)
    assert not server.cache._waiters


async def test_a_bookmark_may_close_a_watch_that_is_too_far_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    async with running(tmp_path / "store.db", clock=clock) as server:
        for number in range(3):
            await server.call("POST", CONFIG_MAPS, config_map(f"m{number}"))
        monkeypatch.setattr(watcher, "MAX_PENDING_EVENTS", 2)
        query = [("allowWatchBookmarks", "true")]
        async with (
            watching(server, CONFIG_MAPS, query) as slow,
            watching(server, CONFIG_MAPS, [*query, ("resourceVersion", await revision(server))]) as other,
        ):
            await server.call("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}})
            await clock.advance(60)
            assert (await other.next())["type"] == "BOOKMARK"
            assert await slow.names(3) == [("ADDED", f"m{number}") for number in range(3)]
            await server.call("POST", CONFIG_MAPS, config_map("later"))
            assert await other.names(1) == [("ADDED", "later")]


class Odd:
    """A transport whose answers to watches are as odd as told, one after another; the rest is the server's."""

    def __init__(self, server: Server, *answers: str) -> None:
        self._server = server
        self.answers = [*answers]
        self.watches = 0

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        if ("watch", "true") in request.query:
            self.watches += 1
            answer = self.answers.pop(0) if self.answers else ""
            if answer == "nonsense":
                return Response(200, {}, stream=_stream(b'{"type": "ADDED", "object": {"metadata": 5}}\n'))
            if answer == "end":
                return Response(200, {}, stream=_stream())
            if answer == "future":
                query = [(k, "999999999" if k == "resourceVersion" else v) for k, v in request.query]
                request = Request(request.method, request.path, query, request.headers)
        return await self._server.local.send(request, stream=stream, timeout=timeout)

    async def close(self) -> None:
        return None


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("answer", ["nonsense", "end", "future"])
async def test_an_informer_bears_odd_answers(server: Server, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("control.api.watch_cache.FUTURE_SECONDS", 0.05)
    transport = Odd(server, answer)
    informer = Informer(Client(transport), core_v1.ConfigMap)
    seen: asyncio.Queue[str] = asyncio.Queue()

    def faulty(delta: Delta[core_v1.ConfigMap]) -> None:
        raise ValueError("a handler's own fault")

    informer.add_handler(faulty)
    informer.add_handler(lambda delta: seen.put_nowait(f"{delta.type} {delta.object.metadata.name}"))
    running_ = asyncio.create_task(informer.run())
    try:
        await informer.wait_synced(STEP_SECONDS)
        await server.call("POST", CONFIG_MAPS, config_map("a"))
        assert await asyncio.wait_for(seen.get(), STEP_SECONDS) == "ADDED a"
        assert seen.empty()
        assert transport.watches <= 3
    finally:
        running_.cancel()
        await asyncio.wait([running_])


async def test_watches_that_end_at_once_are_not_asked_for_in_a_loop(server: Server) -> None:
    transport = Odd(server, *["end"] * 1000)
    running_ = asyncio.create_task(Informer(Client(transport), core_v1.ConfigMap).run())
    await asyncio.sleep(0.5)
    running_.cancel()
    await asyncio.wait([running_])
    assert transport.watches < 5


async def test_history_at_the_edge_of_what_is_forgotten_is_refused(tmp_path: Path) -> None:
    """The end of an object whose last state is compacted could not be told: then the watch must list again."""
    async with running(tmp_path / "store.db") as server:
        await server.call("POST", CONFIG_MAPS, config_map("a"))
        before = int(await revision(server))
        await server.call("DELETE", f"{CONFIG_MAPS}/a")
        await server.call("POST", CONFIG_MAPS, config_map("b"))
        await server.store.compact(before + 1)
    # what this one remembers is in the store only
    async with (
        running(tmp_path / "store.db", namespace="") as server,
        watching(server, CONFIG_MAPS, [("resourceVersion", str(before))]) as events,
    ):
        found = await events.next()
        assert (found["type"], found["object"]["code"]) == ("ERROR", 410)


async def test_a_watch_for_ever_is_a_long_one(server: Server) -> None:
    async with watching(server, CONFIG_MAPS, [("timeoutSeconds", "9" * 40)]) as events:
        await server.call("POST", CONFIG_MAPS, config_map("a"))
        assert await events.names(1) == [("ADDED", "a")]


async def test_watches_resume_at_once_after_a_restart(tmp_path: Path) -> None:
    """What was missed must not wait for the next change of the same kind, which may never come."""
    async with running(tmp_path / "store.db") as server:
        await server.call("POST", CONFIG_MAPS, config_map("a"))
        before = await revision(server)
        await server.call("DELETE", f"{CONFIG_MAPS}/a")
        await server.call("POST", CONFIG_MAPS, config_map("b"))
        after = await revision(server)
        await server.call("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "other"}})
    async with (
        running(tmp_path / "store.db", namespace="") as server,
        asyncio.timeout(STEP_SECONDS),
        watching(server, CONFIG_MAPS, [("resourceVersion", before)]) as missed,
        watching(server, CONFIG_MAPS, [("resourceVersion", after)]) as current,
        watching(server, PODS, [("resourceVersion", before)]) as nothing,
    ):
        assert await missed.names(2) == [("DELETED", "a"), ("ADDED", "b")]
        await server.call("POST", CONFIG_MAPS, config_map("c"))
        await server.call("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
        await server.call("POST", PODS, pod("p"))
        assert await missed.names(1) == await current.names(1) == [("ADDED", "c")]
        assert await nothing.names(1) == [("ADDED", "p")]
