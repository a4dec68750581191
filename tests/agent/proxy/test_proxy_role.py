"""The role: informers → plan → table, coalesced, retried, mended; with fakes on a virtual clock, and once for real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.proxy.conntrack import UdpChange
from agent.proxy.nft import Applied, NftError
from agent.proxy.proxy import CHECK_SECONDS, COALESCE_SECONDS, HOST_SECONDS, Proxy
from agent.proxy.ruleset import Ruleset
from agent.proxy.service_port import NodeNetwork
from kube.clock import VirtualClock
from kube.errors import KtoolError
from kube.informer import InformerFactory
from tests.agent.proxy import lab as labs
from tests.agent.proxy.samples import NODE
from tests.agent.proxy.test_host_ports import pod, status
from tests.fake_api import FakeAPI


class Inline(Executor):
    """Does at once, in this thread, what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (handed on, as executors do)
            future.set_exception(error)
        return future


class FakeTable:
    def __init__(self) -> None:
        self.applied: list[Ruleset] = []
        self.failures = 0
        self.damaged = False
        self.closed = False

    def sync(self, wanted: Ruleset) -> Applied:
        if self.failures:
            self.failures -= 1
            raise NftError("no")
        self.applied.append(wanted)
        self.damaged = False
        return Applied(1, len(self.applied) == 1, 0.001)

    def intact(self) -> bool:
        return not self.damaged

    def close(self) -> None:
        self.closed = True

    @property
    def services(self) -> dict[str, str]:
        return dict(self.applied[-1].elements.get("services", {}))


class FakeHost:
    def __init__(self, table: FakeTable) -> None:
        self.calls: list[str] = []
        self.sees_bridged_packets = True
        self.broken = False
        self._table = table

    def prepare(self) -> None:
        self.calls.append("prepare")
        if self.broken:
            raise KtoolError("read-only")

    def connect_bridge(self) -> None:
        self.calls.append("connect_bridge")

    def allow_localhost(self) -> None:
        assert self._table.applied, "the guard comes first"
        self.calls.append("allow_localhost")


class Stage:
    """A proxy on fakes, with a clock that stands still."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeAPI(self.clock)
        self.table = FakeTable()
        self.host = FakeHost(self.table)
        self.forgotten: list[list[UdpChange]] = []
        self.links: asyncio.Queue[None] = asyncio.Queue()

    def _forget(self, changes: list[UdpChange], _: NodeNetwork) -> int:
        self.forgotten.append(changes)
        return 0

    async def _link_changes(self) -> AsyncGenerator[None]:
        while True:
            yield await self.links.get()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        factory = InformerFactory(self.api.client())
        proxy = Proxy(
            factory,
            NODE,
            record=Path("unused"),
            table=self.table,
            host=self.host,
            forget=self._forget,
            links=self._link_changes,
            executor=Inline(),
            clock=self.clock,
        )
        tasks = [asyncio.create_task(factory.run()), asyncio.create_task(proxy.run())]
        try:
            await self.pass_time()
            yield proxy
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def pass_time(self, seconds: float = COALESCE_SECONDS * 3) -> None:
        await self.clock.advance(seconds)
        await self.clock.settle()


def service(name: str = "web", ip: str = "10.96.0.10", protocol: str = "TCP") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": protocol}]},
    }


def slice_(*ips: str, name: str = "web", protocol: str = "TCP") -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "nodeName": "one"} for ip in ips],
        "ports": [{"port": 8080, "protocol": protocol}],
    }


async def test_host_ports_come_and_go_with_their_pods() -> None:
    stage = Stage()
    async with stage.running() as proxy:
        for seen, rules in ((status(), {"tcp . 8080": "goto local-node-port-tcp-1"}), (None, {})):
            proxy.pod_changed(pod(hostPort=8080), seen)
            await stage.pass_time()
            assert stage.table.applied[-1].elements.get("local-node-ports", {}) == rules


async def test_services_become_rules() -> None:
    stage = Stage()
    stage.api.put(service())
    stage.api.put(slice_("10.244.1.11", "10.244.1.12"))
    async with stage.running() as proxy:
        assert stage.table.services == {"10.96.0.10 . tcp . 80": "goto service-tcp-2"}
        status = proxy.status
        assert (status.synced, status.services, status.endpoints, status.error) == (True, 1, 2, "")
        assert status.last_sync == pytest.approx(stage.clock.time(), abs=1)
        assert status.rules > 0
        assert status.elements > 0
        stage.api.put(slice_("10.244.1.11"))
        await stage.pass_time()
        assert stage.table.services == {"10.96.0.10 . tcp . 80": "goto service-tcp-1"}
    assert stage.table.closed


async def test_no_service_is_a_state_too() -> None:
    stage = Stage()
    async with stage.running() as proxy:
        assert proxy.status.synced
        assert stage.table.services == {}


async def test_a_burst_of_changes_is_applied_at_once() -> None:
    stage = Stage()
    async with stage.running():
        before = len(stage.table.applied)
        for number in range(50):
            stage.api.put(service(f"svc-{number}", f"10.96.1.{number}"))
            stage.api.put(slice_("10.244.1.11", name=f"svc-{number}"))
        await stage.pass_time()
        assert len(stage.table.services) == 50
        assert len(stage.table.applied) <= before + 2


async def test_a_failure_is_tried_again_and_shown() -> None:
    stage = Stage()
    stage.table.failures = 2
    stage.api.put(service())
    async with stage.running() as proxy:
        assert "no" in proxy.status.error
        assert not proxy.status.synced
        await stage.pass_time(10)
        assert proxy.status.synced
        assert (proxy.status.errors, proxy.status.error) == (2, "")


async def test_a_foreign_change_is_mended() -> None:
    stage = Stage()
    async with stage.running():
        before = len(stage.table.applied)
        stage.table.damaged = True
        await stage.pass_time(CHECK_SECONDS * 1.5)
        assert len(stage.table.applied) == before + 1
        assert not stage.table.damaged


async def test_host_comes_before_rules_and_localhost_after() -> None:
    stage = Stage()
    async with stage.running():
        assert stage.host.calls == ["prepare", "allow_localhost"]
        stage.links.put_nowait(None)
        await stage.pass_time()
        assert stage.host.calls[2:] == ["connect_bridge", "allow_localhost"]


async def test_rules_come_even_if_the_host_resists() -> None:
    stage = Stage()
    stage.host.broken = True
    async with stage.running() as proxy:
        assert proxy.status.synced
        assert "read-only" in proxy.status.host_error
        stage.host.broken = False
        await stage.pass_time(HOST_SECONDS * 1.5)
        assert proxy.status.host_error == ""


async def test_without_bridge_netfilter_clients_are_hidden() -> None:
    stage = Stage()
    stage.host.sees_bridged_packets = False
    stage.api.put(service())
    stage.api.put(slice_("10.244.1.11"))
    async with stage.running():
        assert stage.table.applied[-1].chains["service-tcp-1"].rules[0] == "ct mark set ct mark or 0x4000"


async def test_udp_flows_are_forgotten_when_endpoints_change() -> None:
    stage = Stage()
    stage.api.put(service(protocol="UDP"))
    stage.api.put(slice_("10.244.1.11", protocol="UDP"))
    stage.api.put(service("other", "10.96.0.11"))
    async with stage.running():
        assert [change.endpoints for change in stage.forgotten[0]] == [{("10.244.1.11", 8080)}]
        stage.api.put(slice_("10.244.1.12", protocol="UDP"))
        await stage.pass_time()
        assert {change.endpoints for change in stage.forgotten[1]} == {frozenset({("10.244.1.12", 8080)})}
        stage.api.put(slice_("10.244.1.13", name="other"))
        await stage.pass_time()
        assert len(stage.forgotten) == 2


@pytest.mark.nftables
@pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab")
def test_the_whole_way_for_real(tmp_path: Path) -> None:
    """From API objects to an answer of a pod, with the real table and host in a namespace."""
    with ExitStack() as stack:
        lab = labs.Lab(stack)
        api = FakeAPI()
        api.put(service())
        api.put(slice_("10.244.1.11"))

        async def main() -> list[str]:
            factory = InformerFactory(api.client())
            proxy = Proxy(factory, NODE, record=tmp_path / "host.json")
            tasks = [asyncio.create_task(factory.run()), asyncio.create_task(proxy.run())]
            try:
                await _until(lambda: proxy.status.endpoints == 1)
                first = await _answer(lab.pods[2])
                api.put(slice_("10.244.1.12"))
                second = await _answer(lab.pods[2], other_than=first)
                lab.node.run("nft", "flush", "ruleset")
                third = await _answer(lab.pods[0])
                assert proxy.status.error == proxy.status.host_error == ""
                return [first, second, third]
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

        with lab.node.inside():
            answers = asyncio.run(main())
    assert answers == ["a 10.244.1.13", "b 10.244.1.13", "b 10.244.1.11"]


async def _answer(pod: labs.Namespace, *, other_than: str = "") -> str:
    """What the Service answers as soon as it answers something else. (How many syncs that takes is up to the proxy.)"""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                found = await asyncio.to_thread(pod.ask, "10.96.0.10", 80)
                if found != other_than:
                    return found
            await asyncio.sleep(0.02)


async def _until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (reads only)
            await asyncio.sleep(0.02)
