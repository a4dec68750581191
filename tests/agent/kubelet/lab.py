"""A whole kubelet on virtual time: a hollow runtime under it, an API server in memory above it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.kubelet.context import KubeletContext
from agent.kubelet.environment import resolve
from agent.kubelet.handlers import Handler, Outcome, Target
from agent.kubelet.images import ImagePuller
from agent.kubelet.kubelet import Kubelet
from agent.kubelet.machine import Hardware
from agent.kubelet.node import NodeKeeper, NodeSettings
from agent.kubelet.pod_status import Host
from agent.kubelet.references import References
from agent.kubelet.status import StatusWriter
from agent.kubelet.volumes.hollow import HollowVolumes
from agent.runtime.hollow import HollowRuntime
from agent.runtime.runtime import Container as RuntimeContainer
from agent.runtime.runtime import ContainerConfig, ContainerState, ImagePullError, RegistryAuth, RuntimeUnavailable
from kube.clock import VirtualClock
from kube.events import EventRecorder
from kube.informer import InformerFactory
from kube.models import core_v1
from kube.transport import Request, Response
from tests.fake_api import FakeAPI

NODE = "node-a"
HARDWARE = Hardware(4, 8 << 30, 100 << 30, "amd64", "6.1.0", "Debian", "m", "b", "s", "host-a", 1000)


class API(FakeAPI):
    """The server in memory; it can be away, and then it tells nothing either."""

    _away = False

    @property
    def away(self) -> bool:
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away = value
        if value:
            self.hold()
        else:
            self.release()

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        if self._away:
            raise ConnectionError("the master is away")
        return await super().send(request, stream=stream, timeout=timeout)


class Runtime(HollowRuntime):
    """A hollow runtime whose registry may be empty, whose daemon may be down and whose pulls may take long."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(now=lambda: datetime.fromtimestamp(clock.time(), UTC))
        self._clock = clock
        self.registry = True
        self.down = False
        self.pull_seconds = 0.0
        self.stops: list[tuple[str, float]] = []
        self.configs: dict[str, ContainerConfig] = {}
        self.lists_lag = False

    async def pull_image(self, reference: str, auth: RegistryAuth | None = None) -> str:
        await self._clock.sleep(self.pull_seconds)
        if not self.registry:
            raise ImagePullError(f"no registry has {reference}")
        return await super().pull_image(reference, auth)

    async def list_containers(self, labels: Any = None) -> list[RuntimeContainer]:
        if self.down:
            raise RuntimeUnavailable("the engine does not answer")
        found = await super().list_containers(labels)
        if self.lists_lag:
            found = [replace(c, state=ContainerState.RUNNING) for c in found]
        return found

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: Any) -> str:
        found = await super().create_container(sandbox_id, config, sandbox)
        self.configs[found] = config
        return found

    async def stop_container(self, container_id: str, timeout: float) -> None:
        self.stops.append((self._containers[container_id].name, timeout))
        await super().stop_container(container_id, timeout)

    def running(self, name: str = "web") -> list[str]:
        """IDs of the running containers of this name."""
        found = self._containers.values()
        return [c.id for c in found if c.name == name and c.state is ContainerState.RUNNING]

    def end(self, name: str = "web", code: int = 1) -> None:
        """The process of the running container of this name ends."""
        for container_id in self.running(name):
            self._end(self._containers[container_id], code)

    @property
    def everything(self) -> int:
        return len(self._containers) + len(self._sandboxes)


class Handlers:
    """Probes and hooks that succeed, but for what a test says. Keys are `exec` commands' first words."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.failing: set[str] = set()
        self.asked: list[str] = []
        self.seconds = 0.0

    async def run(self, handler: Handler, target: Target, *, timeout: float) -> Outcome:
        assert handler.exec is not None
        word = handler.exec.command[0]
        self.asked.append(word)
        await self._clock.sleep(self.seconds)
        return Outcome(word not in self.failing, "said no")

    async def close(self) -> None:
        """There is nothing to close."""


class Lab:
    """One node. `start` and `stop` are those of the agent; the runtime and the API live on."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.api = API(self.clock, graceful_pods=True)
        self.runtime = Runtime(self.clock)
        self.handlers = Handlers(self.clock)
        self._folder = folder
        self._task: asyncio.Task[None] | None = None
        self.kubelet: Kubelet | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self.clock.settle()

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        client = self.api.client()
        factory = InformerFactory(client)
        recorder = EventRecorder(client, "kubelet", NODE, clock=self.clock)
        references = References(client, clock=self.clock)
        keeper = NodeKeeper(
            client,
            factory.informer(core_v1.Node, field_selector=f"metadata.name={NODE}"),
            self.runtime,
            NodeSettings(name=NODE, addresses=("192.0.2.10",)),
            HARDWARE,
            data_dir=self._folder,
            recorder=recorder,
            clock=self.clock,
        )
        context = KubeletContext(
            runtime=self.runtime,
            volumes=HollowVolumes(),
            resolve=resolve,
            images=ImagePuller(self.runtime, references, self.clock),
            handlers=self.handlers,
            references=references,
            statuses=StatusWriter(client, clock=self.clock),
            recorder=recorder,
            clock=self.clock,
            host=Host(("192.0.2.10",), "hollow"),
            pods_dir=None,
            node=lambda: keeper.node,
            services=list,
            node_hostname="host-a",
            node_memory=HARDWARE.memory,
        )
        pods = factory.informer(core_v1.Pod, field_selector=f"spec.nodeName={NODE}")
        self.kubelet = Kubelet(NODE, client, context, keeper, pods)
        async with asyncio.TaskGroup() as group:
            group.create_task(factory.run())
            group.create_task(self.kubelet.run())

    def allot(self) -> None:
        """What the master's node IPAM does."""
        self.api.change("Node", NODE, spec={"podCIDR": "10.244.0.0/24"})

    async def until(self, condition: Callable[[], Any], seconds: float = 0.0) -> None:
        """Let tasks run, and at most `seconds` pass, until a condition holds."""
        end = self.clock.monotonic() + seconds
        for _ in range(20):
            if condition():
                return
            await self.clock.settle()
        while not condition():
            assert self.clock.monotonic() < end, "this did not happen in time"
            await self.clock.advance(0.5)

    # --- pods

    def create(self, name: str = "web-1", **spec: Any) -> dict[str, Any]:
        """A pod bound to the node."""
        spec.setdefault("containers", [{"name": "web", "image": "web:1", "imagePullPolicy": "IfNotPresent"}])
        return self.api.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"nodeName": NODE, "restartPolicy": "Always", **spec},
                "status": {"phase": "Pending"},
            }
        )

    def pod(self, name: str = "web-1") -> dict[str, Any]:
        found = self.api.find("Pod", name, "shop")
        assert found is not None, f"pod {name} is gone"
        return found

    def phase(self, name: str = "web-1") -> str:
        return str(self.pod(name)["status"].get("phase"))

    def container(self, name: str = "web-1", index: int = 0) -> dict[str, Any]:
        statuses = self.pod(name)["status"].get("containerStatuses") or [{}]
        found: dict[str, Any] = statuses[index]
        return found

    def waiting(self, name: str = "web-1") -> str:
        return str(self.container(name).get("state", {}).get("waiting", {}).get("reason", ""))

    def ready(self, name: str = "web-1") -> bool:
        found = self.pod(name)["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found)

    def gone(self, name: str = "web-1") -> bool:
        return self.api.find("Pod", name, "shop") is None

    async def delete(self, name: str = "web-1", grace: int = 30) -> None:
        """What `kubectl delete` does: the pod gets its deletion timestamp."""
        found = self.pod(name)
        found["metadata"]["deletionGracePeriodSeconds"] = grace
        await self.api.client().delete(core_v1.Pod, name, namespace="shop")

    def reasons(self) -> list[str]:
        """Reasons of the events about pods, in the order of their first time."""
        found = [e for e in self.api.all("Event") if e["involvedObject"]["kind"] == "Pod"]
        return [e["reason"] for e in found]


@contextlib.asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    """A started node that is ready for pods."""
    found = Lab(folder)
    await found.start()
    await found.until(lambda: found.api.find("Node", NODE))
    found.allot()
    await found.until(lambda: found.kubelet is not None)
    await found.clock.settle()
    try:
        yield found
    finally:
        await found.stop()
