from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from kube.clock import VirtualClock
from kube.leader_election import ALONE, LeaderElector, Observation, Timing, is_free, observe
from kube.models import coordination_v1
from kube.status import service_unavailable
from tests.fake_api import FakeAPI


def lease(holder: str | None, renewed: str = "t", seconds: int = 15) -> coordination_v1.Lease:
    spec = coordination_v1.LeaseSpec(holderIdentity=holder, renewTime=renewed, leaseDurationSeconds=seconds)
    return coordination_v1.Lease(spec=spec)


@pytest.mark.parametrize(
    ("holder", "age", "expected"),
    [("me", 0, True), (None, 0, True), ("", 0, True), ("other", 14, False), ("other", 15, True)],
)
def test_who_may_take_it(holder: str | None, age: float, expected: bool) -> None:
    found = lease(holder)
    assert is_free(found, observe(found, None, now=0.0), "me", now=age) is expected


def test_a_renewal_is_what_changes_not_what_its_clock_says() -> None:
    first = observe(lease("a", "2001"), None, now=5.0)
    assert observe(lease("a", "2001"), first, now=9.0) is first
    assert observe(lease("a", "1999"), first, now=9.0) == Observation("a", "1999", 9.0)


class Candidates:
    """Candidates for one Lease, on one virtual clock; `leading` are those who lead at the moment."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeAPI(self.clock)
        self.leading: set[str] = set()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def stand(self, name: str, timing: Timing | None = None) -> LeaderElector:
        elector = LeaderElector(
            self.api.client(), namespace="kube-system", name="it", identity=name, timing=timing, clock=self.clock
        )

        async def lead() -> None:
            assert not self.leading, f"{name} and {self.leading} lead at once"
            self.leading.add(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.leading.discard(name)

        self.tasks[name] = asyncio.create_task(elector.run(lead))
        return elector

    async def leave(self, name: str) -> None:
        task = self.tasks.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def candidates() -> AsyncIterator[Candidates]:
    found = Candidates()
    yield found
    for name in [*found.tasks]:
        await found.leave(name)


async def test_one_leads_and_hands_over_at_once(candidates: Candidates) -> None:
    first = candidates.stand("a")
    await candidates.clock.advance(1)
    candidates.stand("b")
    await candidates.clock.advance(60)
    assert candidates.leading == {"a"}
    assert first.is_leader
    await candidates.leave("a")
    await candidates.clock.advance(3)
    assert candidates.leading == {"b"}
    found = candidates.api.find("Lease", "it", "kube-system")
    assert found is not None
    assert (found["spec"]["holderIdentity"], found["spec"]["leaseTransitions"]) == ("b", 1)


async def test_a_leader_who_cannot_renew_stops_before_another_starts(candidates: Candidates) -> None:
    candidates.stand("a")
    await candidates.clock.advance(5)
    candidates.stand("b")
    candidates.api.refuse = lambda request: service_unavailable("away") if request.method == "PUT" else None
    await candidates.clock.advance(12)
    assert candidates.leading == set()
    candidates.api.refuse = lambda _: None
    await candidates.clock.advance(20)
    assert candidates.leading in ({"a"}, {"b"})


async def test_the_same_identity_takes_up_its_own_lease(candidates: Candidates) -> None:
    candidates.api.put(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "it", "namespace": "kube-system"},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 60, "renewTime": "2025-01-01T00:00:00.000000Z"},
        }
    )
    candidates.stand("a", ALONE)
    await candidates.clock.settle()
    assert candidates.leading == {"a"}
    before = len(candidates.api.requests)
    await candidates.clock.advance(3600)
    assert len(candidates.api.requests) - before <= 180


async def test_work_that_fails_ends_the_run_and_frees_the_lease() -> None:
    clock = VirtualClock()
    api = FakeAPI(clock)
    elector = LeaderElector(api.client(), namespace="x", name="it", identity="a", clock=clock)

    async def lead() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await elector.run(lead)
    found = api.find("Lease", "it", "x")
    assert found is not None
    assert not found["spec"].get("holderIdentity")
