"""The proxy role (upstream: kube-proxy): keeps the node's Service rules what the cluster's Services ask for.

Informers tell which Services changed; changes that come close together are applied as one. Only what changed is
converted and planned again, only the difference goes to the kernel. Rules stay when the agent stops, so that
applications go on talking; the first sync after a restart replaces the table in one transaction, without a gap.

What can fail is tried again with back-off and shown in `status`; a node whose host settings cannot be made (no
br_netfilter, a read-only /proc) still gets its rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol as Interface
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from agent import netlink_changes
from agent.proxy import conntrack, host_ports, services
from agent.proxy.host import HostNetwork
from agent.proxy.nft import Applied, NftTable
from agent.proxy.rules import Planner
from agent.proxy.ruleset import Ruleset
from agent.proxy.service_port import NodeNetwork, Protocol, ServicePort
from kube import objects
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.informer import Delta, InformerFactory
from kube.models import core_v1, discovery_v1

log = logging.getLogger(__name__)

T = TypeVar("T")

# Changes within this time are applied together: a rolling update is a burst of them.
COALESCE_SECONDS = 0.02
# How often to ask whether somebody else touched our table (microseconds, if nobody did).
CHECK_SECONDS = 5.0
# How often host settings are looked after, besides each change of a link.
HOST_SECONDS = 60.0
RETRY_BASE_SECONDS = 0.5
RETRY_CAP_SECONDS = 30.0
SYNCED_SECONDS = 60.0

_BY_SERVICE = "service"


class Table(Interface):
    """What the proxy needs of the kernel's table (NftTable)."""

    def sync(self, wanted: Ruleset) -> Applied: ...

    def intact(self) -> bool: ...

    def close(self) -> None: ...


class Host(Interface):
    """What the proxy needs of the node's network settings (HostNetwork)."""

    @property
    def sees_bridged_packets(self) -> bool: ...

    def prepare(self) -> None: ...

    def connect_bridge(self) -> None: ...

    def allow_localhost(self) -> None: ...


class ProxyStatus(Struct, frozen=True):
    """How the proxy is doing. Times are seconds since 1970, durations seconds; `error` and `host_error` are empty
    while all is well."""

    synced: bool = False
    last_sync: float = 0.0
    last_duration: float = 0.0
    syncs: int = 0
    replacements: int = 0
    errors: int = 0
    error: str = ""
    host_error: str = ""
    services: int = 0
    endpoints: int = 0
    rules: int = 0
    elements: int = 0


class Proxy:
    """Forwards Service traffic on one node.

    `record` is the file that remembers changed host settings. `table`, `host`, `forget`, `links` and `executor` are
    seams for tests. Informers come from `factory`, which somebody else runs.
    """

    def __init__(
        self,
        factory: InformerFactory,
        node: NodeNetwork,
        *,
        record: Path,
        table: Table | None = None,
        host: Host | None = None,
        forget: Callable[[list[conntrack.UdpChange], NodeNetwork], int] = conntrack.forget,
        links: Callable[[], AsyncGenerator[None]] = netlink_changes.links,
        executor: Executor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.status = ProxyStatus()
        self._node = node
        self._table: Table = table or NftTable()
        self._host: Host = host or HostNetwork(node, record=record)
        self._forget = forget
        self._links = links
        # one thread: libnftables is not for two at once
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="proxy")
        self._clock = clock or SystemClock()
        self._services = factory.informer(core_v1.Service)
        self._slices = factory.informer(
            discovery_v1.EndpointSlice, indexers={_BY_SERVICE: lambda slice_: [services.service_key(slice_)]}
        )
        self._ports: dict[str, list[ServicePort]] = {}
        self._host_ports: dict[str, tuple[ServicePort, ...]] = {}
        self._udp: dict[str, ServicePort] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._services.add_handler(self._service_changed)
        self._slices.add_handler(self._slice_changed)

    async def run(self) -> None:
        """Keep rules and host settings right until cancelled."""
        try:
            await self._prepare_host()
            if not self._host.sees_bridged_packets:
                self._node = replace(self._node, masquerade_all=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_in_sync(), name="proxy-sync")
                group.create_task(self._keep_watch(), name="proxy-check")
                group.create_task(self._keep_host(), name="proxy-host")
                group.create_task(self._follow_links(), name="proxy-links")
        finally:
            self._executor.shutdown(wait=True)  # what runs there takes milliseconds
            self._table.close()

    def pod_changed(self, pod: core_v1.Pod, status: core_v1.PodStatus | None) -> None:
        """Take note of one of this node's pods, as the kubelet has it; `status` is None if it is gone."""
        uid = objects.uid(pod)
        before = self._host_ports.pop(uid, ())
        after = host_ports.service_ports(pod, status, self._node.name)
        if after:
            self._host_ports[uid] = after
        if after != before:
            self._wake.set()

    def _service_changed(self, delta: Delta[core_v1.Service]) -> None:
        self._mark(objects.key(delta.object))

    def _slice_changed(self, delta: Delta[discovery_v1.EndpointSlice]) -> None:
        for slice_ in (delta.object, delta.old):
            if slice_ is not None and (key := services.service_key(slice_)):
                self._mark(key)

    def _mark(self, key: str) -> None:
        self._dirty.add(key)
        self._wake.set()

    async def _keep_in_sync(self) -> None:
        await self._wait_for_informers()
        self._wake.set()  # no Services is a state to apply as well
        planner = Planner(self._node)
        failures = 0
        while True:
            await self._wake.wait()
            await self._clock.sleep(COALESCE_SECONDS)
            self._wake.clear()
            try:
                await self._sync(planner)
            except KtoolError as error:
                failures += 1
                self._failed(error)
                await self._clock.sleep(min(RETRY_BASE_SECONDS * 2.0**failures, RETRY_CAP_SECONDS))
                self._wake.set()
            else:
                failures = 0

    async def _wait_for_informers(self) -> None:
        while True:
            try:
                await self._services.wait_synced(SYNCED_SECONDS)
                await self._slices.wait_synced(SYNCED_SECONDS)
            except TimeoutError:
                log.warning("Services and EndpointSlices have not come yet; rules stay as they are")
            else:
                return

    async def _sync(self, planner: Planner) -> None:
        self._convert()
        ports = [port for some in (*self._ports.values(), *self._host_ports.values()) for port in some]
        wanted = planner.plan(ports)
        applied = await self._in_thread(lambda: self._table.sync(wanted))
        first = not self.status.synced
        self.status = replace(
            self.status,
            synced=True,
            last_sync=self._clock.time(),
            last_duration=applied.seconds,
            syncs=self.status.syncs + 1,
            replacements=self.status.replacements + applied.replaced,
            error="",
            services=len(self._ports),
            endpoints=sum(len(port.endpoints) for port in ports),
            rules=wanted.rule_count,
            elements=wanted.element_count,
        )
        if first:
            await self._allow_localhost()
        await self._forget_flows(ports)

    def _convert(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for key in dirty:
            service = self._services.get(key)
            found = services.service_ports(service, self._slices.by_index(_BY_SERVICE, key)) if service else []
            if found:
                self._ports[key] = found
            else:
                self._ports.pop(key, None)

    async def _forget_flows(self, ports: list[ServicePort]) -> None:
        udp = {port.key: port for port in ports if port.protocol is Protocol.UDP}
        changes = conntrack.udp_changes(self._udp, udp, self._node)
        if changes:
            await self._in_thread(lambda: self._forget(changes, self._node))
        self._udp = udp

    async def _keep_watch(self) -> None:
        """Notice when somebody else changed our table, and put it right."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            if not self.status.synced:
                continue
            try:
                if not await self._in_thread(self._table.intact):
                    log.warning("somebody else changed the Service rules: applying them again")
                    self._wake.set()
            except KtoolError as error:
                self._failed(error)

    async def _keep_host(self) -> None:
        while True:
            await self._clock.sleep(HOST_SECONDS)
            await self._prepare_host()
            await self._allow_localhost()

    async def _follow_links(self) -> None:
        """The bridge may come (again) at any time, its ports come and go with the pods."""
        async with contextlib.aclosing(self._links()) as changes:
            async for _ in changes:
                await self._guarded(self._host.connect_bridge)
                await self._allow_localhost()

    async def _prepare_host(self) -> None:
        await self._guarded(self._host.prepare)

    async def _allow_localhost(self) -> None:
        if self.status.synced:  # not before the table's guard is in place
            await self._guarded(self._host.allow_localhost)

    async def _guarded(self, step: Callable[[], None]) -> None:
        try:
            await self._in_thread(step)
        except KtoolError as error:
            log.warning("host network: %s", error)
            self.status = replace(self.status, host_error=str(error), errors=self.status.errors + 1)
        else:
            if step == self._host.prepare:
                self.status = replace(self.status, host_error="")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _failed(self, error: KtoolError) -> None:
        log.warning("Service rules: %s", error)
        self.status = replace(self.status, errors=self.status.errors + 1, error=str(error))


def remove(node: NodeNetwork, *, record: Path) -> None:
    """Take back all that a proxy with this record did to the node: host settings first (they rely on the rules), then
    the table. Nothing happens where nothing is left. KtoolError if something resists."""
    HostNetwork(node, record=record).remove()
    table = NftTable()
    try:
        table.remove()
    finally:
        table.close()
