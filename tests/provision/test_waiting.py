"""Waiting for a service: how often the supervisor is asked, and when there is no hope left."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube import status
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


class Answers:
    """A client whose server says one thing after the other."""

    def __init__(self, *answers: core_v1.Node | Exception) -> None:
        self.answers = [*answers]

    async def get(self, kind: type[Any], name: str) -> core_v1.Node:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_an_api_server_that_cannot_answer_for_now_is_waited_for(tmp_path: Path) -> None:
    supervisor = Supervisor(ServiceStatus(AGENT, running=True, pid=os.getpid()))
    ready = core_v1.NodeCondition(type="Ready", status="True")
    node = core_v1.Node(metadata=meta_v1.ObjectMeta(name="one"), status=core_v1.NodeStatus(conditions=[ready]))
    config = LocalClusterConfig(data_dir=tmp_path, ready_timeout=5)
    said: list[str] = []

    def wait(client: Answers) -> Any:
        doing = SimpleNamespace(detail=said.append)
        return waiting.for_node(config, cast("Any", supervisor), cast("Any", client), cast("Any", doing), since=0.0)

    client = Answers(status.service_unavailable("not read yet"), status.internal_error("no leader"), node)
    assert await wait(client) is node
    assert said == [
        "the API server cannot answer: not read yet",
        "the API server cannot answer: Internal error occurred: no leader",
    ]
    with pytest.raises(ApiError, match="forbidden"):
        await wait(Answers(status.forbidden("nodes", "one", "no")))
