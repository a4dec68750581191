"""Keeping this machine's Node object: made or adopted, told the truth about, made again if somebody deletes it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from agent.kubelet import node_status
from agent.kubelet.machine import Hardware, Meter, Usage
from agent.kubelet.node_lease import NodeLease
from agent.kubelet.node_status import NodeFacts
from agent.runtime.runtime import ContainerRuntimeError, Image, Runtime, RuntimeVersion
from kube import node_labels, objects
from kube.client import Client
from kube.clock import Clock
from kube.events import NORMAL, EventRecorder, reference_to
from kube.informer import DELETED, Delta, Informer
from kube.models import core_v1, meta_v1
from kube.node_labels import AGENT_ANNOTATION
from kube.status import ApiError, is_already_exists, is_not_found

STATUS_SECONDS = 10.0
IMAGES_SECONDS = 60.0
USAGE_SECONDS = 30.0
RETRY_CAP_SECONDS = 10.0
# How long the master's allotment of a pod CIDR may take before the fallback counts.
POD_CIDR_SECONDS = 60.0

log = logging.getLogger(__name__)


class NodeSettings(Struct, frozen=True, kw_only=True):
    """What is decided about the node outside of it.

    `taints` are given to a new Node, `labels` to an adopted one as well (those of an earlier start that are no longer
    among them are taken away); `pod_cidr` is the fallback where the master allots none (empty: wait for it).
    """

    name: str
    addresses: tuple[str, ...]
    kubelet_port: int = 10250
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[core_v1.Taint] = ()
    max_pods: int = node_status.MAX_PODS
    agent_version: str = ""
    pod_cidr: str = ""


class NodeKeeper:
    """Keeps the Node and its Lease. `nodes` is an informer of just this Node.

    `proxy_problem` and `routes_problem` tell what is wrong with these roles (empty: nothing; None: they do not run
    here).
    """

    def __init__(
        self,
        client: Client,
        nodes: Informer[core_v1.Node],
        runtime: Runtime,
        settings: NodeSettings,
        hardware: Hardware,
        *,
        data_dir: Path,
        recorder: EventRecorder,
        clock: Clock,
        proxy_problem: Callable[[], str | None] = lambda: None,
        routes_problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._client = client
        self._proxy_problem = proxy_problem
        self._routes_problem = routes_problem
        self._runtime = runtime
        self._settings = settings
        self._hardware = hardware
        self._recorder = recorder
        self._clock = clock
        self._meter = Meter(data_dir)
        self._known: core_v1.Node | None = None
        self._poke = asyncio.Event()
        self._cidr: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._version: RuntimeVersion | None = None
        self._images: tuple[Image, ...] = ()
        self._images_at = float("-inf")
        self._pressures: dict[str, float] = {}
        self._reported_at = float("-inf")
        self._usage: Usage | None = None
        self._usage_at = float("-inf")
        self._lease = NodeLease(client, settings.name, clock=clock, node=lambda: self._known)
        nodes.add_handler(self._changed)

    @property
    def node(self) -> core_v1.Node | None:
        """The Node as known now; None before it is registered."""
        return self._known

    @property
    def allocatable(self) -> Mapping[str, meta_v1.Quantity]:
        """What pods may request on this node."""
        return node_status.allocatable(self._hardware, max_pods=self._settings.max_pods)

    def reference(self) -> core_v1.ObjectReference:
        """The Node as events name it (Kubernetes: with its name for a UID)."""
        return reference_to(core_v1.Node, self._settings.name, uid=self._settings.name)

    def report_soon(self) -> None:
        """Something about the node has just changed: do not wait for the next turn."""
        self._poke.set()

    async def pod_cidr(self) -> str:
        """The node's pod CIDR, when the master has allotted one (or the fallback, after a minute)."""
        if not self._settings.pod_cidr:
            return await asyncio.shield(self._cidr)
        try:
            async with asyncio.timeout(POD_CIDR_SECONDS):
                return await asyncio.shield(self._cidr)
        except TimeoutError:
            log.warning("the master allots no pod CIDR; using %s", self._settings.pod_cidr)
            return self._settings.pod_cidr

    async def run(self) -> None:
        """Register, then keep Node and Lease until cancelled."""
        await self._register_until_done()
        self._recorder.event(self.reference(), NORMAL, "Starting", "Starting kubelet.")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.run(), name="node-lease")
            group.create_task(self._report_loop(), name="node-status")

    def _changed(self, delta: Delta[core_v1.Node]) -> None:
        if delta.type == DELETED:
            if self._known is not None and objects.uid(delta.object) == objects.uid(self._known):
                log.warning("the Node was deleted while its agent runs: registering it again")
                self._known = None
                self._poke.set()
            return
        self._take(delta.object)

    def _take(self, node: core_v1.Node) -> None:
        """Remember the newest version seen, whether a watch or an answer brought it."""
        known = self._known
        if known is not None and objects.uid(known) == objects.uid(node) and _revision(node) < _revision(known):
            return
        self._known = node
        if node.spec is not None and node.spec.podCIDR and not self._cidr.done():
            self._cidr.set_result(node.spec.podCIDR)

    async def _register_until_done(self) -> None:
        failures = 0
        while self._known is None:
            try:
                await self.register()
            except (ApiError, ConnectionError, TimeoutError) as error:
                failures += 1
                log.warning("cannot register the node: %s", error)
                delay = min(0.2 * 2.0**failures, RETRY_CAP_SECONDS)
                await self._clock.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311

    async def register(self) -> None:
        """Create the Node, or adopt the one that has this name. Raises ApiError, ConnectionError."""
        facts = await self._facts()
        well_known = node_status.labels(facts)
        given = node_labels.reconciled({}, {}, self._settings.labels, annotation=AGENT_ANNOTATION, keep=well_known)
        assert given is not None, "every node has labels"
        try:
            node = await self._client.get(core_v1.Node, self._settings.name)
        except ApiError as error:
            if not is_not_found(error):
                raise
            wanted = core_v1.Node(
                metadata=meta_v1.ObjectMeta(name=self._settings.name, **given["metadata"]),
                spec=self._spec(),
                status=node_status.node_status(facts, None, now=self._clock.time()),
            )
            try:
                self._take(await self._client.create(wanted))
            except ApiError as created:
                if not is_already_exists(created):
                    raise
                return  # the next try adopts it
            log.info("node %s is registered", self._settings.name)
        else:
            patch = node_labels.reconciled(
                node.metadata.labels,
                node.metadata.annotations,
                self._settings.labels,
                annotation=AGENT_ANNOTATION,
                keep=well_known,
            )
            if patch is not None:
                node = await self._client.patch(core_v1.Node, self._settings.name, patch)
            self._take(node)
            log.info("node %s existed already and is adopted", self._settings.name)
        self._reported_at = float("-inf")
        self._usage_at = float("-inf")

    def _spec(self) -> core_v1.NodeSpec:
        """A new Node's spec. Made again after a deletion it keeps its addresses: its pods have them already."""
        spec = core_v1.NodeSpec(taints=list(self._settings.taints))
        if self._cidr.done():
            spec.podCIDR = self._cidr.result()
            spec.podCIDRs = [self._cidr.result()]
        return spec

    async def _report_loop(self) -> None:
        failures = 0
        while True:
            self._poke.clear()
            if self._known is None:
                await self._register_until_done()
            try:
                await self.report()
                failures = 0
            except (ApiError, ConnectionError, TimeoutError) as error:
                failures += 1
                log.log(logging.WARNING if failures == 1 else logging.DEBUG, "cannot report the node: %s", error)
            await self._sleep(STATUS_SECONDS)

    async def report(self) -> None:
        """Write what has changed enough. Raises ApiError, ConnectionError."""
        node = self._known
        if node is None:
            return
        now = self._clock.time()
        usage = self._meter.read()
        self._pressures = node_status.observe_pressures(usage, self._hardware, self._pressures, now=now)
        status = node_status.node_status(await self._facts(), node.status, now=now)
        due = now - self._reported_at >= node_status.REPORT_SECONDS
        if due or node_status.status_changed(node.status, status):
            before = objects.condition(node.status.conditions if node.status else [], node_status.READY)
            patch = {"status": _difference(node.status, status)}
            self._take(await self._client.patch(core_v1.Node, self._settings.name, patch, subresource="status"))
            self._reported_at = now
            after = objects.condition(status.conditions, node_status.READY)
            if after is not None and (before is None or before.status != after.status):
                word = "NodeReady" if after.status == "True" else "NodeNotReady"
                message = f"Node {self._settings.name} status is now: {word}"
                self._recorder.event(self.reference(), NORMAL, word, message)
        old_enough = now - self._usage_at >= USAGE_SECONDS
        if due or (old_enough and node_status.usage_changed(self._usage, usage, self._hardware)):
            patch = {"metadata": {"annotations": node_status.usage_annotations(usage)}}
            self._take(await self._client.patch(core_v1.Node, self._settings.name, patch))
            self._usage, self._usage_at = usage, now

    async def _facts(self) -> NodeFacts:
        try:
            if self._version is None:
                self._version = await self._runtime.version()
            if self._clock.monotonic() - self._images_at >= IMAGES_SECONDS:
                self._images = tuple(await self._runtime.list_images())
                self._images_at = self._clock.monotonic()
        except ContainerRuntimeError as error:
            log.debug("the runtime does not answer: %s", error)  # its status says so, as a condition
        return NodeFacts(
            name=self._settings.name,
            hardware=self._hardware,
            addresses=self._settings.addresses,
            kubelet_port=self._settings.kubelet_port,
            agent_version=self._settings.agent_version,
            runtime_version=self._version,
            runtime=await self._runtime.status(),
            images=self._images,
            pressures=self._pressures,
            max_pods=self._settings.max_pods,
            proxy_problem=self._proxy_problem(),
            routes_problem=self._routes_problem(),
        )

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or until something wants to be reported."""
        poked = asyncio.ensure_future(self._poke.wait())
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({poked, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()
            timer.cancel()


def _difference(old: core_v1.NodeStatus | None, new: core_v1.NodeStatus) -> dict[str, Any]:
    """The merge patch that makes `old` into `new`; maps lose the entries that are gone."""
    before = objects.to_dict(old) if old is not None else {}
    after = objects.to_dict(new)
    patch: dict[str, Any] = {}
    for name in before.keys() | after.keys():
        was, wanted = before.get(name), after.get(name)
        if was == wanted:
            continue
        if isinstance(was, dict) and isinstance(wanted, dict):
            wanted = {**wanted, **{key: None for key in was if key not in wanted}}
        patch[name] = wanted
    return patch


def _revision(node: core_v1.Node) -> int:
    text = objects.resource_version(node)
    return int(text) if text.isdigit() else 0
