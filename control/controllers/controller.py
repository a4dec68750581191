"""The frame of every controller: informers tell which keys to look at, workers bring each key to what it should be.

A controller says which kinds it watches and how a change of one becomes a key (`watch`), and how a key is reconciled
(`reconcile`): read the caches, let a pure `plan` decide, carry the plan out. Reconciling is idempotent: it may run
again at any time, after an error, after a restart, on a cache that lags behind.

The frame takes care of the rest: no worker starts before all caches are synced; a key that fails comes back later and
later; a conflict (somebody changed the object) is no failure but a reason to look again; an idle controller costs
nothing, because it only waits for events and for the moments that `reconcile` asked to be called at.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from msgspec import Struct, field

from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.informer import ADDED, Delta, Handler, Indexer, Informer, InformerFactory
from kube.status import ApiError, is_conflict
from kube.workqueue import WorkQueue

T = TypeVar("T")

SYNC_TIMEOUT_SECONDS = 60.0
RECONCILE_TIMEOUT_SECONDS = 120.0
CONCURRENT_REQUESTS = 64

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where events about objects go (`kube.events.EventRecorder`)."""

    def event(self, obj: Any, type_: str, reason: str, message: str) -> None:
        """Note that something happened to an object; never waits, never fails."""
        ...


class SilentRecorder:
    """Drops all events."""

    def event(self, obj: Any, type_: str, reason: str, message: str) -> None:
        del obj, type_, reason, message


class Context(Struct, frozen=True):
    """What every controller works with.

    `recorder` gives the recorder that speaks in a component's name (`replicaset-controller`).
    """

    client: Client
    factory: InformerFactory
    clock: Clock = field(default_factory=SystemClock)
    recorder: Callable[[str], Recorder] = lambda _: SilentRecorder()


class Metrics(Struct):
    """Counters of one controller since its process started; seconds are of the clock, waiting for the API included."""

    reconciles: int = 0
    errors: int = 0
    conflicts: int = 0
    restarts: int = 0
    seconds: float = 0.0


class Controller(abc.ABC):
    """Base of controllers. Subclasses set `name`, call `watch` in `__init__` and define `reconcile`."""

    name: ClassVar[str]
    workers: ClassVar[int] = 2

    def __init__(self, context: Context) -> None:
        self.client = context.client
        self.factory = context.factory
        self.clock = context.clock
        self.recorder = context.recorder(self.name)
        self.metrics = Metrics()
        self.queue: WorkQueue[str] = self._new_queue()
        self._sources: list[tuple[Informer[Any], Handler[Any]]] = []
        self._active = False

    def watch(
        self,
        kind: type[T],
        handler: Handler[T] | None = None,
        *,
        namespace: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer[T]] | None = None,
    ) -> Informer[T]:
        """The shared informer of a kind, whose changes go to `handler` while this controller runs.

        When the controller starts, what the cache holds comes first, as ADDED. Without a handler the cache is only
        read; the controller still waits for it to be synced.
        """
        informer = self.factory.informer(kind, namespace=namespace, field_selector=field_selector, indexers=indexers)
        told = handler or _ignore
        self._sources.append((informer, told))
        if handler is not None:
            informer.add_handler(lambda delta: self._tell(told, delta))
        return informer

    def _tell(self, handler: Handler[Any], delta: Delta[Any]) -> None:
        """Pass an event on while running. A handler's fault must not end the informer, which others live on too."""
        if not self._active:
            return
        try:
            handler(delta)
        except Exception:
            self.metrics.errors += 1
            log.exception("%s could not take in an event about %s", self.name, delta.object.metadata.name)

    @abc.abstractmethod
    async def reconcile(self, key: str) -> float | None:
        """Bring what `key` names to what it should be.

        Returns the seconds after which to be called again even if nothing happens, or None. Raises whatever the
        client raises; the key is then tried again later.
        """

    async def start(self) -> None:  # noqa: B027 (most controllers have nothing to prepare)
        """Called once all caches are synced, before the first key is worked on."""

    async def run(self) -> None:
        """Run until cancelled: wait for the caches, then work. May be run again after it ended."""
        await self._wait_synced()
        self.queue = self._new_queue()
        await self.start()
        self._active = True
        try:
            for informer, handler in self._sources:
                for obj in informer.list():
                    handler(Delta(ADDED, obj))
            async with asyncio.TaskGroup() as group:
                for number in range(self.workers):
                    group.create_task(self._work(), name=f"{self.name}-{number}")
        finally:
            self._active = False
            self.queue.shut_down()

    async def _wait_synced(self) -> None:
        for informer, _ in self._sources:
            while not informer.synced:
                try:
                    await informer.wait_synced(SYNC_TIMEOUT_SECONDS)
                except TimeoutError:
                    log.warning("%s: still waiting for the first list of %s", self.name, informer.kind.__name__)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self.process(key)
            finally:
                self.queue.done(key)

    async def process(self, key: str) -> None:
        """Reconcile one key and decide when it comes back."""
        self.metrics.reconciles += 1
        began = self.clock.monotonic()
        queue = self.queue
        try:
            async with asyncio.timeout(RECONCILE_TIMEOUT_SECONDS):
                again = await self.reconcile(key)
        except Exception as failure:  # noqa: BLE001 (one key's failure must not end the controller; it is logged)
            self._failed(key, failure)
            queue.add_rate_limited(key)
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)
        finally:
            self.metrics.seconds += self.clock.monotonic() - began

    def _failed(self, key: str, failure: Exception) -> None:
        errors = list(_leaves(failure))
        if all(is_conflict(error) for error in errors):
            self.metrics.conflicts += 1
            log.debug("%s: %s was changed meanwhile, looking again: %s", self.name, key, errors[0])
            return
        self.metrics.errors += 1
        expected = (ApiError, KtoolError, ConnectionError, TimeoutError, StaleCacheError)
        unexpected = next((e for e in errors if not isinstance(e, expected)), None)
        if unexpected is None:
            level = logging.DEBUG if all(isinstance(e, StaleCacheError) for e in errors) else logging.WARNING
            log.log(level, "%s: %s failed, trying again: %s", self.name, key, errors[0])
        else:
            log.error("%s: %s failed, trying again", self.name, key, exc_info=unexpected)

    def _new_queue(self) -> WorkQueue[str]:
        return WorkQueue(self.name, clock=self.clock)


class StaleCacheError(Exception):
    """The cache does not show yet what this controller did before: look again a little later."""


def _ignore(delta: Delta[Any]) -> None:
    del delta


def _leaves(failure: BaseException) -> Iterable[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for inner in failure.exceptions:
            yield from _leaves(inner)
    else:
        yield failure


async def run_all(calls: Iterable[Callable[[], Any]]) -> list[BaseException]:
    """Run calls that don't depend on each other at once (at most CONCURRENT_REQUESTS); the errors of those that failed.

    Every call is made, whatever happens to the others; cancellation ends all.
    """
    limit = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(call: Callable[[], Any]) -> None:
        async with limit:
            await call()

    results = await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)
    found = [result for result in results if isinstance(result, BaseException)]
    fatal = next((e for e in found if not isinstance(e, Exception)), None)
    if fatal is not None:
        raise fatal
    return found


def raise_first(errors: Iterable[BaseException]) -> None:
    """Raise the errors of `run_all`, one as itself, several as a group; nothing if there are none."""
    found = [e for e in errors if isinstance(e, Exception)]
    if len(found) == 1:
        raise found[0]
    if found:
        raise ExceptionGroup("several actions failed", found)
