"""Several masters allot addresses in one store: each with a watch cache of its own that may lag behind."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from control.api.address_claims import PREFIX, AddressClaims, Claim
from control.api.admission.service_addresses import SERVICES, ServiceAddresses
from control.api.attributes import Attributes, Operation, Undo, UserInfo
from control.store.sqlite import SqliteStore
from kube.clock import SystemClock
from kube.status import ApiError
from tests.control.api import server_under_test
from tests.control.api.objects_in_memory import ObjectsInMemory

NETWORK = ipaddress.IPv4Network("10.96.0.0/24")
ADDRESS = "10.96.0.9"


def service(name: str, address: str = ADDRESS) -> dict[str, Any]:
    ports = [{"port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"type": "ClusterIP", "ports": ports, "clusterIP": address},
    }


class OneMaster:
    """Its admission and its cache, to which it is told later what others have written."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.cache = ObjectsInMemory()
        self.untold: list[Callable[[], object]] = []
        self.claims = AddressClaims(store, self._fresh, SystemClock())
        self.admission = ServiceAddresses(self.cache, NETWORK, range(30000, 30003), SystemClock(), claims=self.claims)

    async def _fresh(self) -> None:
        while self.untold:
            self.untold.pop(0)()

    async def admit(self, obj: dict[str, Any]) -> Undo | None:
        asked = Attributes(user=UserInfo("jane"), verb="create", resource="services", namespace="a", name="x")
        return await self.admission.admit(obj, None, Operation.CREATE, asked)

    async def write(self, obj: dict[str, Any], *others: OneMaster) -> None:
        """Store a Service that was admitted. This master's cache has it at once, the others' when they ask."""
        key = f"/registry/services/a/{obj['metadata']['name']}"
        obj["metadata"]["resourceVersion"] = str(await self.store.put(key, b""))
        self.cache.put(SERVICES, obj)
        for other in others:
            other.untold.append(functools.partial(other.cache.put, SERVICES, obj))

    async def claimed(self) -> list[str]:
        """What is claimed in the store, once this master has taken back what it can."""
        done, idle = self.claims._done, asyncio.Event()
        take = type(done).get

        async def taken() -> Claim:
            if done.empty():
                idle.set()
            return await take(done)

        done.get = taken  # type: ignore[method-assign]
        run = asyncio.create_task(self.claims.run())
        await asyncio.wait_for(idle.wait(), 20)
        run.cancel()
        await asyncio.wait([run])
        return [kv.key.removeprefix(PREFIX) for kv in (await self.store.range(PREFIX)).items]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[OneMaster, OneMaster]]:
    store = await SqliteStore.open(tmp_path / "state.db")
    yield OneMaster(store), OneMaster(store)
    await store.close()


async def test_a_claim_goes_when_the_service_is_there(two: tuple[OneMaster, OneMaster]) -> None:
    one, other = two
    obj = service("s")
    await one.admit(obj)
    with pytest.raises(ApiError, match="already allocated"):
        await other.admit(service("t"))
    await one.write(obj, other)
    assert await one.claimed() == []
    with pytest.raises(ApiError, match="already allocated"):
        await other.admit(service("t"))


async def test_a_service_that_is_refused_gives_its_address_back_at_once(two: tuple[OneMaster, OneMaster]) -> None:
    one, other = two
    undo = await one.admit(service("s"))
    assert undo is not None
    undo()
    assert await one.claimed() == []
    await other.admit(service("t"))


async def test_the_late_story_of_another_service_ends_no_claim(two: tuple[OneMaster, OneMaster]) -> None:
    """Another master's Service came and went with that address, unseen here until the claim is made."""
    one, other = two
    before = service("before")
    await other.admit(before)
    await other.write(before, one)
    assert await other.claimed() == []
    other.cache.remove(SERVICES, "a", "before")
    one.untold.append(lambda: one.cache.remove(SERVICES, "a", "before"))

    obj = service("s")
    await one.admit(obj)
    assert await one.claimed() == [ADDRESS]
    with pytest.raises(ApiError, match="already allocated"):
        await other.admit(service("t"))


async def test_another_try_takes_the_claim_over_and_the_first_cannot_end_it(two: tuple[OneMaster, OneMaster]) -> None:
    one, other = two
    undo = await one.admit(service("s"))
    again = await other.admit(service("s"))  # by another master, for instance, since the first did not answer
    assert undo is not None
    assert again is not None
    undo()
    assert await one.claimed() == [ADDRESS]
    # nor can the second one, refused because the first is there: that one may not be seen by all yet
    again()
    assert await other.claimed() == [ADDRESS]
    obj = service("s")
    await one.write(obj, other)
    await other._fresh()
    assert await other.claimed() == []


async def test_who_loses_one_address_gives_back_the_others(two: tuple[OneMaster, OneMaster]) -> None:
    one, other = two
    await other.admit(service("t"))
    both = service("s", "10.96.0.5")
    both["spec"] |= {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}
    theirs = service("u", "10.96.0.6")
    theirs["spec"] |= {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}
    await other.admit(theirs)
    with pytest.raises(ApiError, match="already allocated"):
        await one.admit(both)
    assert sorted(await one.claimed()) == ["10.96.0.6", ADDRESS, "TCP/30001"]


SERVICES_PATH = "/api/v1/namespaces/default/services"


async def test_the_server_undoes_what_was_admitted_and_then_refused(tmp_path: Path) -> None:
    async with server_under_test.running(tmp_path / "state.db") as server:
        undone: list[str] = []

        class Noting:
            name = "Noting"

            async def admit(self, obj: Any, old: Any, operation: Operation, attributes: Attributes) -> Undo | None:
                if operation is Operation.DELETE or attributes.resource != "services":
                    return None
                return lambda: undone.append(f"{operation} {attributes.name}")

        server.api.environment.admission = (Noting(),)
        good = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
        bad = {"metadata": {"name": "t"}, "spec": {"ports": [{"port": -1}]}}
        await server.call("POST", SERVICES_PATH, good)
        assert undone == []
        await server.error("POST", SERVICES_PATH, good)  # AlreadyExists
        await server.error("POST", SERVICES_PATH, bad)
        await server.error("PUT", f"{SERVICES_PATH}/s", bad | {"metadata": {"name": "s"}})
        assert undone == ["CREATE s", "CREATE t", "UPDATE s"]
