"""Waiting for a service: how often the supervisor is asked, and when there is no hope left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube import status, times
from kube.client import WatchEvent
from kube.errors import KtoolError
from kube.models import core_v1, meta_v1
from kube.status import ApiError
from provision.local_cluster import waiting
from provision.local_cluster.config import AGENT, LocalClusterConfig
from provision.services.service import ServiceStatus, ServiceSupervisor


@dataclass
class Supervisor:
    """Says of every service the same."""

    answer: ServiceStatus
    asked: list[str] = field(default_factory=list)

    def status(self, name: str) -> ServiceStatus:
        self.asked.append(name)
        return self.answer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(waiting, "FIRST_ASK_SECONDS", 0.0)


def patience(folder: Path, supervisor: Supervisor, *, seconds: float) -> waiting.Patience:
    config = LocalClusterConfig(data_dir=folder, ready_timeout=seconds)
    return waiting.Patience(config, cast("ServiceSupervisor", cast("Any", supervisor)), AGENT)


async def test_a_supervisor_is_asked_seldom_while_the_process_lives(tmp_path: Path) -> None:
    supervisor = Supervisor(ServiceStatus(AGENT, running=True, pid=os.getpid()))
    waits = patience(tmp_path, supervisor, seconds=60)
    for _ in range(20):
        await waits.wait("not yet")
    assert supervisor.asked == [AGENT]


async def test_a_service_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    supervisor = Supervisor(ServiceStatus(AGENT, running=False, restarts=waiting.RESTARTS_TO_GIVE_UP))
    with pytest.raises(KtoolError, match=f"it ended {waiting.RESTARTS_TO_GIVE_UP} times"):
        await patience(tmp_path, supervisor, seconds=60).wait("not yet")


async def test_waiting_ends(tmp_path: Path) -> None:
    waits = patience(tmp_path, Supervisor(ServiceStatus(AGENT, running=True, pid=os.getpid())), seconds=0.05)

    async def always() -> None:
        for _ in range(1000):
            await waits.wait("not yet")

    with pytest.raises(KtoolError) as caught:
        await always()
    assert caught.value.found.startswith("not yet")


class Watched:
    """A client whose server says one thing after the other to those who watch, and nothing more then."""

    SILENCE, END = "silence", "end"

    def __init__(self, *answers: core_v1.Node | Exception | str) -> None:
        self.answers = [*answers]

    async def watch(self, kind: type[Any], *, field_selector: str, timeout_seconds: int) -> AsyncIterator[Any]:
        assert (kind, field_selector) == (core_v1.Node, "metadata.name=one")
        assert timeout_seconds
        while self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if answer == self.END:
                return
            if answer == self.SILENCE:
                break
            yield WatchEvent("ADDED", answer)
        await asyncio.sleep(60)


def node(*, ready: str, heartbeat: str = "") -> core_v1.Node:
    condition = core_v1.NodeCondition(
        type="Ready", status=ready, message="no network", lastHeartbeatTime=heartbeat or None
    )
    return core_v1.Node(metadata=meta_v1.ObjectMeta(name="one"), status=core_v1.NodeStatus(conditions=[condition]))


class Wait:
    """Waits for the node of `one`; `said` is what people are told meanwhile."""

    def __init__(self, folder: Path, *, seconds: float = 5.0) -> None:
        self.config = LocalClusterConfig(data_dir=folder, node_name="one", ready_timeout=seconds)
        self.supervisor = Supervisor(ServiceStatus(AGENT, running=True, pid=os.getpid()))
        self.said: list[str] = []

    async def __call__(self, *answers: core_v1.Node | Exception | str, since: float = 0.0) -> core_v1.Node:
        doing = SimpleNamespace(detail=self.said.append)
        supervisor = cast("Any", self.supervisor)
        return await waiting.for_node(
            self.config, supervisor, cast("Any", Watched(*answers)), cast("Any", doing), since=since
        )


async def test_an_api_server_that_cannot_answer_for_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "WATCH_AGAIN_SECONDS", 0.001)
    wait, ready = Wait(tmp_path), node(ready="True")
    answers = [status.service_unavailable("not read yet"), ConnectionError("refused"), node(ready="False"), ready]
    assert await wait(*answers) is ready
    assert wait.said[0] == "the node has not registered yet"
    assert "the API server cannot answer: not read yet" in wait.said
    assert "the API server cannot be reached: refused" in wait.said
    with pytest.raises(ApiError, match="forbidden"):
        await wait(status.forbidden("nodes", "one", "no"))


async def test_a_watch_of_which_nothing_is_heard_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "WATCH_GRACE_SECONDS", 0.0)
    wait, ready = Wait(tmp_path), node(ready="True")
    assert await wait(node(ready="False"), Watched.SILENCE, ready) is ready
    assert "the API server cannot be reached: no answer" in wait.said


async def test_an_api_server_that_is_back_is_not_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WATCH_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(waiting, "POLL_MOST_SECONDS", 0.01)
    wait = Wait(tmp_path, seconds=0.3)
    with pytest.raises(KtoolError) as caught:
        await wait(ConnectionError("refused"), Watched.END)
    assert caught.value.found.startswith("the node has not registered yet")


async def test_what_a_node_said_before_does_not_count(tmp_path: Path) -> None:
    old, new = (node(ready="True", heartbeat=f"2026-01-01T00:0{minute}:00Z") for minute in (1, 3))
    since = times.parse("2026-01-01T00:02:00Z")
    assert await Wait(tmp_path)(old, new, since=since) is new
    with pytest.raises(KtoolError, match="the agent does not become ready") as caught:
        await Wait(tmp_path, seconds=0.1)(old, since=since)
    assert caught.value.found.startswith("the node has not reported since its agent was started")
