"""Controllers against the fake API on virtual time, and builders of the objects that their tests talk about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from control.controllers.controller import Context, Controller
from kube import times
from kube.clock import VirtualClock
from kube.informer import InformerFactory
from kube.models import apps_v1, core_v1, meta_v1
from tests.fake_api import FakeAPI

NOW = 1_750_000_000.0
Data = dict[str, Any]


class Notes:
    """A recorder that remembers what was said."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, obj: Any, type_: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]


class Cluster:
    """A fake API with some controllers running on it."""

    def __init__(self, *, graceful_pods: bool = False) -> None:
        self.clock = VirtualClock(NOW)
        self.api = FakeAPI(self.clock, graceful_pods=graceful_pods)
        self.client = self.api.client()
        self.notes = Notes()
        self.context = Context(self.client, InformerFactory(self.client), self.clock, lambda _: self.notes)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *controllers: Controller) -> None:
        self._tasks.append(asyncio.create_task(self.context.factory.run()))
        self._tasks.extend(asyncio.create_task(controller.run()) for controller in controllers)

    async def stop(self) -> None:
        for task in reversed(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def settle(self) -> None:
        """Let things happen (and a few milliseconds pass, for retries) until nothing is written any more."""
        quiet = 0
        for _ in range(400):
            before = len(self.api.requests)
            await self.clock.advance(0.03)
            quiet = quiet + 1 if len(self.api.requests) == before else 0
            if quiet == 8:
                return
        raise AssertionError(f"the controllers don't come to rest: {self.api.requests[-10:]}")

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.settle()


@contextlib.asynccontextmanager
async def running(
    *make: Callable[[Context], Controller], graceful_pods: bool = False, seed: tuple[Data, ...] = ()
) -> AsyncIterator[Cluster]:
    """A cluster with these controllers running; `seed` objects are there before they start."""
    cluster = Cluster(graceful_pods=graceful_pods)
    for obj in seed:
        cluster.api.put(obj)
    cluster.start(*(one(cluster.context) for one in make))
    try:
        await cluster.settle()
        yield cluster
    finally:
        await cluster.stop()


def stamp(seconds_ago: float = 0.0) -> str:
    return times.rfc3339(NOW - seconds_ago)


def pod(
    name: str = "p",
    *,
    node: str = "",
    phase: str = "Running",
    ready: bool = False,
    ready_for: float = 0.0,
    age: float = 60.0,
    restarts: int = 0,
    cost: str | None = None,
    labels: dict[str, str] | None = None,
    owner: Any = None,
    deleting: bool = False,
) -> core_v1.Pod:
    """A pod as its controller meets it."""
    conditions = []
    if ready:
        conditions = [core_v1.PodCondition(type="Ready", status="True", lastTransitionTime=stamp(ready_for))]
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-of-{name}",
            creationTimestamp=stamp(age),
            labels=labels or {"app": "web"},
            annotations={"controller.kubernetes.io/pod-deletion-cost": cost} if cost is not None else {},
            ownerReferences=[owner] if owner is not None else [],
            deletionTimestamp=stamp() if deleting else None,
        ),
        spec=core_v1.PodSpec(nodeName=node or None),
        status=core_v1.PodStatus(
            phase=phase, conditions=conditions, containerStatuses=[core_v1.ContainerStatus(restartCount=restarts)]
        ),
    )


def template(image: str = "web:1", labels: dict[str, str] | None = None) -> core_v1.PodTemplateSpec:
    return core_v1.PodTemplateSpec(
        metadata=meta_v1.ObjectMeta(labels=labels or {"app": "web"}),
        spec=core_v1.PodSpec(containers=[core_v1.Container(name="web", image=image)]),
    )


def replica_set(name: str = "web", *, replicas: int = 1, **spec: Any) -> apps_v1.ReplicaSet:
    return apps_v1.ReplicaSet(
        metadata=meta_v1.ObjectMeta(
            name=name, namespace="default", uid=f"uid-of-{name}", generation=1, creationTimestamp=stamp(100)
        ),
        spec=apps_v1.ReplicaSetSpec(
            replicas=replicas,
            selector=meta_v1.LabelSelector(matchLabels={"app": "web"}),
            template=template(),
            **spec,
        ),
    )


def deployment(
    replicas: int = 3,
    *,
    image: str = "web:1",
    surge: int | str | None = None,
    unavailable: int | str | None = None,
    strategy: str = "RollingUpdate",
    deadline: int | None = 600,
    **spec: Any,
) -> apps_v1.Deployment:
    rolling = None
    if strategy == "RollingUpdate":
        rolling = apps_v1.RollingUpdateDeployment(maxSurge=surge, maxUnavailable=unavailable)
    return apps_v1.Deployment(
        metadata=meta_v1.ObjectMeta(
            name="web", namespace="default", uid="uid-of-web", generation=1, creationTimestamp=stamp(100)
        ),
        spec=apps_v1.DeploymentSpec(
            replicas=replicas,
            selector=meta_v1.LabelSelector(matchLabels={"app": "web"}),
            template=template(image),
            strategy=apps_v1.DeploymentStrategy(type=strategy, rollingUpdate=rolling),
            progressDeadlineSeconds=deadline,
            revisionHistoryLimit=spec.pop("history", 10),
            **spec,
        ),
    )


def kubelet(api: FakeAPI, *, ready: bool = True) -> int:
    """Play the kubelet: all pods run and become ready (or not); how many changed."""
    changed = 0
    for found in api.all("Pod"):
        meta = found["metadata"]
        if meta.get("deletionTimestamp"):
            api.remove("Pod", meta["name"], meta["namespace"])
            changed += 1
        elif found["status"].get("phase") == "Pending":
            status: Data = {"phase": "Running", "conditions": []}
            status["conditions"] = [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": times.now_rfc3339(api.clock),
                }
            ]
            api.change("Pod", meta["name"], meta["namespace"], status=status)
            changed += 1
    return changed
