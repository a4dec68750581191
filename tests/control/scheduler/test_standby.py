"""The scheduler is loaded for the first pod that waits for a node, or when the start is over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.scheduler import standby
from kube.client import Client
from kube.clock import VirtualClock
from kube.informer import ADDED, DELETED, Delta, Handler, InformerFactory
from kube.models import core_v1, meta_v1
from tests.fake_api import FakeAPI


class Pods(InformerFactory):
    """Informers whose one kind, pods, is told by the test."""

    def __init__(self) -> None:
        super().__init__(Client(FakeAPI()))
        self.handlers: list[Handler[core_v1.Pod]] = []

    def informer(self, kind: Any, **_: Any) -> Any:
        assert kind is core_v1.Pod
        return self

    def add_handler(self, handler: Handler[core_v1.Pod]) -> None:
        self.handlers.append(handler)

    def remove_handler(self, handler: Handler[core_v1.Pod]) -> None:
        self.handlers.remove(handler)

    def tell(self, change: str, node: str) -> None:
        spec = core_v1.PodSpec(containers=[], nodeName=node or None)
        pod = core_v1.Pod(metadata=meta_v1.ObjectMeta(name="web", namespace="default"), spec=spec)
        for handler in [*self.handlers]:
            handler(Delta(change, pod))


@pytest.mark.parametrize(
    ("change", "node", "wanted"),
    [(ADDED, "", True), (ADDED, "a", False), (DELETED, "", False)],
    ids=["waits", "has a node", "gone"],
)
async def test_the_first_pod_that_waits(change: str, node: str, wanted: bool) -> None:
    clock, pods = VirtualClock(), Pods()
    loading = asyncio.create_task(standby.load_when_needed(pods, clock))
    await clock.advance(1)
    assert pods.handlers
    pods.tell(change, node)
    await clock.advance(1)
    assert bool(pods.handlers) is not wanted
    await clock.advance(standby.LATEST_SECONDS)
    await asyncio.wait_for(loading, timeout=20)
    assert not pods.handlers
