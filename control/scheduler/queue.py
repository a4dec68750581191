"""The scheduling queue: pods that want a node, in the order of their priority, then of their arrival.

A pod is active (to be tried now), in backoff (tried lately: 1 s doubling to 10 s), or unschedulable (waiting for the
cluster to change). Any change that could help moves the unschedulable ones on, through backoff, so that a pod which
never fits does not keep the scheduler busy (Kubernetes: Scheduling Queue).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from msgspec import Struct

from control.scheduler.pod_info import PodInfo
from kube.clock import Clock

INITIAL_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0
UNSCHEDULABLE_SECONDS = 300.0


class QueuedPod(Struct):
    """A pod in the queue: `attempts` failed so far, `ready_at` ends its backoff (monotonic seconds)."""

    info: PodInfo
    order: int
    attempts: int = 0
    ready_at: float = 0.0
    waiting_since: float = 0.0


@dataclass(order=True, slots=True)
class _Entry:
    rank: tuple[float, int]
    key: str = field(compare=False)
    pod: QueuedPod = field(compare=False)


class SchedulingQueue:
    """Active heap, backoff heap, unschedulable map. Not thread safe; all in one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counter = itertools.count()
        self._pods: dict[str, QueuedPod] = {}
        self._active: list[_Entry] = []
        self._backoff: list[_Entry] = []
        # in the order in which they failed
        self._unschedulable: dict[str, QueuedPod] = {}
        # those of them that another pod's placement may help
        self._dependent: set[str] = set()
        # raised by every change that could help; tells whether one came while a pod was being decided
        self._moves = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def counts(self) -> tuple[int, int, int]:
        """(active, backoff, unschedulable)"""
        backoff = sum(self._pods.get(entry.key) is entry.pod for entry in self._backoff)
        return len(self._pods) - len(self._unschedulable) - backoff, backoff, len(self._unschedulable)

    @property
    def moves(self) -> int:
        return self._moves

    def add(self, info: PodInfo) -> None:
        """A pod that wants a node, or a changed one: it is tried at once."""
        known = self._pods.get(info.key)
        pod = QueuedPod(info, known.order if known else next(self._counter))
        self._wait_no_more(info.key)
        self._pods[info.key] = pod
        self._push_active(pod)

    def remove(self, key: str) -> None:
        """A pod that no longer wants a node; heap entries of it are skipped when they come up."""
        self._pods.pop(key, None)
        self._wait_no_more(key)

    def failed(self, pod: QueuedPod, moves: int) -> None:
        """A pod found no node; `moves` is what `moves` was when its decision began."""
        if self._pods.get(pod.info.key) is not pod:
            return
        self._rest(pod)
        if moves != self._moves:
            self._push_backoff(pod)
        else:
            self._unschedulable[pod.info.key] = pod
            if pod.info.depends_on_pods:
                self._dependent.add(pod.info.key)

    def retry(self, pod: QueuedPod) -> None:
        """Something failed that has nothing to do with the cluster's room: try again after the backoff."""
        self._pods[pod.info.key] = pod
        self._rest(pod)
        self._push_backoff(pod)

    def done(self, pod: QueuedPod) -> None:
        """A pod has its node."""
        if self._pods.get(pod.info.key) is pod:
            self.remove(pod.info.key)

    def move_all(self) -> None:
        """Something changed in the cluster: those that wait for it are tried again when their backoff is over."""
        self._moves += 1
        self._move([*self._unschedulable])

    def move_dependents(self) -> None:
        """A pod was placed: those that may have waited for it to be near them, or for evenness, are tried again."""
        if self._dependent:
            self._moves += 1
            self._move([*self._dependent])

    def _move(self, keys: list[str]) -> None:
        now = self._clock.monotonic()
        for key in keys:
            pod = self._unschedulable[key]
            self._wait_no_more(key)
            if pod.ready_at <= now:
                self._push_active(pod)
            else:
                self._push_backoff(pod)

    def _wait_no_more(self, key: str) -> None:
        self._unschedulable.pop(key, None)
        self._dependent.discard(key)

    def _rest(self, pod: QueuedPod) -> None:
        pod.attempts += 1
        pod.waiting_since = self._clock.monotonic()
        pod.ready_at = pod.waiting_since + backoff_seconds(pod.attempts)

    async def get(self) -> QueuedPod:
        """The next pod to try; waits until there is one."""
        while True:
            self._promote()
            while self._active:
                entry = heapq.heappop(self._active)
                if self._pods.get(entry.key) is entry.pod:
                    return entry.pod
            self._wake.clear()
            pause = self._pause()
            if pause is None:
                await self._wake.wait()
                continue
            waiting = asyncio.ensure_future(self._wake.wait())
            sleeping = asyncio.ensure_future(self._clock.sleep(pause))
            try:
                await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                sleeping.cancel()

    def _pause(self) -> float | None:
        """Seconds until some pod becomes active by itself, or None."""
        times = [self._backoff[0].rank[0]] if self._backoff else []
        if self._unschedulable:
            times.append(next(iter(self._unschedulable.values())).waiting_since + UNSCHEDULABLE_SECONDS)
        return max(min(times) - self._clock.monotonic(), 0.001) if times else None

    def _promote(self) -> None:
        now = self._clock.monotonic()
        while self._backoff and self._backoff[0].rank[0] <= now:
            entry = heapq.heappop(self._backoff)
            if self._pods.get(entry.key) is entry.pod:
                self._push_active(entry.pod)
        # a change that should have helped may have been overlooked: nobody waits for ever
        while self._unschedulable:
            key, pod = next(iter(self._unschedulable.items()))
            if pod.waiting_since + UNSCHEDULABLE_SECONDS > now:
                break
            self._wait_no_more(key)
            self._push_active(pod)

    def _push_active(self, pod: QueuedPod) -> None:
        heapq.heappush(self._active, _Entry((-float(pod.info.priority), pod.order), pod.info.key, pod))
        self._wake.set()

    def _push_backoff(self, pod: QueuedPod) -> None:
        heapq.heappush(self._backoff, _Entry((pod.ready_at, pod.order), pod.info.key, pod))
        self._wake.set()


def backoff_seconds(attempts: int) -> float:
    """How long a pod rests after its n-th failure."""
    return float(min(INITIAL_BACKOFF_SECONDS * 2.0 ** (attempts - 1), MAX_BACKOFF_SECONDS))
