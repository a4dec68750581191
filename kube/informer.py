"""Informers: a local, indexed copy of a kind that is always a true past state of the cluster, and soon the present one.

The problem: controllers, scheduler, kubelet and proxy need to know all objects of a kind and each change of them, over
connections that break, to servers that restart and forget old revisions.

The answer is Kubernetes' list and watch: list once, remember the list's revision, watch from there. If the watch ends,
watch again from the last revision seen (bookmarks keep it fresh). If the server no longer knows that revision (410
Expired), list again and tell handlers only the difference between the old copy and the new one, so that they see
every object's change at most once and no deletion is lost.

What would go wrong otherwise: listing after each disconnect costs the server its memory and hides deletions; watching
from "now" loses what happened in between; handlers that are told a full list again act twice.

Handlers are plain functions, called in the order of the events after the cache has changed. They must be quick: put a
key into a WorkQueue and return.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from msgspec import Struct

from kube import kinds, objects
from kube.client import Client
from kube.status import ApiError, is_resource_version_too_large

T = TypeVar("T")
Indexer = Callable[[T], Iterable[str]]

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"

BACKOFF_BASE_SECONDS = 0.2
BACKOFF_CAP_SECONDS = 10.0
WATCH_SECONDS = (300, 600)
SHORT_WATCH_SECONDS = 1.0

log = logging.getLogger(__name__)


class Delta(Struct, Generic[T], frozen=True):
    """One change of the cache. `object` is the new state (for DELETED the last known one), `old` the state before."""

    type: str
    object: T
    old: T | None = None


Handler = Callable[[Delta[T]], None]


class Cache(Generic[T]):
    """Objects by key, with indexes kept up to date; reading it never waits."""

    def __init__(self, indexers: Mapping[str, Indexer[T]] | None = None) -> None:
        self._objects: dict[str, T] = {}
        self._indexers: dict[str, Indexer[T]] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {}
        for name, indexer in (indexers or {}).items():
            self.add_indexer(name, indexer)

    def add_indexer(self, name: str, indexer: Indexer[T]) -> None:
        """Index objects by the values that `indexer` gives for each; the same name again is the same index."""
        if name in self._indexers:
            return
        self._indexers[name] = indexer
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            self._index(name, key, indexer(obj), add=True)

    def get(self, key: str) -> T | None:
        return self._objects.get(key)

    def values(self) -> list[T]:
        return [*self._objects.values()]

    def keys(self) -> list[str]:
        return [*self._objects]

    def __len__(self) -> int:
        return len(self._objects)

    def by_index(self, name: str, value: str) -> list[T]:
        """Objects whose index `name` has `value`, in the order in which they were added."""
        return [self._objects[key] for key in self._indexes[name].get(value, ())]

    def put(self, key: str, obj: T) -> T | None:
        """Store an object; the one before, if any."""
        old = self.remove(key)
        self._objects[key] = obj
        for name, indexer in self._indexers.items():
            self._index(name, key, indexer(obj), add=True)
        return old

    def remove(self, key: str) -> T | None:
        """Drop an object; the one that was there, if any."""
        old = self._objects.pop(key, None)
        if old is not None:
            for name, indexer in self._indexers.items():
                self._index(name, key, indexer(old), add=False)
        return old

    def _index(self, name: str, key: str, values: Iterable[str], *, add: bool) -> None:
        index = self._indexes[name]
        for value in values:
            if add:
                index.setdefault(value, {})[key] = None
            elif value in index:
                index[value].pop(key, None)
                if not index[value]:
                    del index[value]


class Informer(Generic[T]):
    """List, watch, cache and handlers for one kind (optionally one namespace or selector)."""

    def __init__(
        self,
        client: Client,
        kind: type[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer[T]] | None = None,
    ) -> None:
        self.kind = kind
        self.cache: Cache[T] = Cache(indexers)
        self.resource_version = ""
        self._client = client
        self._namespace = namespace
        self._selectors: dict[str, Any] = {"label_selector": label_selector, "field_selector": field_selector}
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._name = kinds.kind_of_type(kind).group_resource

    def get(self, key: str) -> T | None:
        """Object by key (`namespace/name` or `name`), or None."""
        return self.cache.get(key)

    def by_index(self, name: str, value: str) -> list[T]:
        return self.cache.by_index(name, value)

    def add_indexer(self, name: str, indexer: Indexer[T]) -> None:
        self.cache.add_indexer(name, indexer)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler` for every change from now on; what the cache already holds comes first, as ADDED."""
        self._handlers.append(handler)
        for obj in self.cache.values():
            handler(Delta(ADDED, obj))

    def remove_handler(self, handler: Handler[T]) -> None:
        """Call a handler no more: for parts that end, or are started again, while the informer goes on."""
        self._handlers.remove(handler)

    @property
    def synced(self) -> bool:
        """Whether the first list has been taken in."""
        return self._synced.is_set()

    async def wait_synced(self, timeout: float = 60.0) -> None:
        """Wait until the first list has been taken in; TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self._synced.wait()

    async def run(self) -> None:
        """List and watch until cancelled; failures are logged and tried again with backoff."""
        failures = 0
        while True:
            try:
                if not self.resource_version:
                    await self._relist()
                # a server that ends each watch at once (it is being stopped, or a proxy gives up) is not to be hurried
                failures = 0 if await self._watch() else failures + 1
            except ApiError as error:
                if error.code == 410 or is_resource_version_too_large(error):
                    log.info("%s: revision %s is not known, listing again", self._name, self.resource_version)
                    self.resource_version = ""
                    # at once for the first time: a 410 is no sign of an overloaded server
                    failures, previous = failures + 1, failures
                    if previous == 0:
                        continue
                else:
                    failures += 1
                    log.warning("%s: %s", self._name, error)
            except (ConnectionError, TimeoutError) as error:
                failures += 1
                log.info("%s: connection lost: %s", self._name, error)
            except Exception:
                # an answer that makes no sense: everybody else who shares this process must go on, and so must we,
                # as soon as the server answers properly
                failures += 1
                log.exception("%s: cannot be followed", self._name)
            if failures:
                await asyncio.sleep(_backoff(failures))

    async def _relist(self) -> None:
        found = await self._client.list(self.kind, namespace=self._namespace, **self._selectors)
        fresh = {objects.key(obj): obj for obj in found.items}
        gone = [key for key in self.cache.keys() if key not in fresh]  # noqa: SIM118 (not a dict)
        for key in gone:
            self._drop(key)
        for key, obj in fresh.items():
            self._store(key, obj)
        self.resource_version = found.resource_version
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow one watch to its end. Whether it was of any use: it lasted, or it told something."""
        begun, told = time.monotonic(), False
        events = self._client.watch(
            self.kind,
            namespace=self._namespace,
            resource_version=self.resource_version,
            # servers end watches at the asked time; a spread keeps clients from coming back all at once
            timeout_seconds=random.randint(*WATCH_SECONDS),  # noqa: S311
            **self._selectors,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                told = True
                if event.type in (ADDED, MODIFIED):
                    self._store(objects.key(event.object), event.object)
                elif event.type == DELETED:
                    self._drop(objects.key(event.object), event.object)
                self.resource_version = objects.resource_version(event.object) or self.resource_version
        return told or time.monotonic() - begun >= SHORT_WATCH_SECONDS

    def _store(self, key: str, obj: T) -> None:
        old = self.cache.get(key)
        if old is not None and objects.resource_version(old) == objects.resource_version(obj):
            return
        if old is not None and objects.uid(old) != objects.uid(obj):
            # deleted and made anew under the same name while we were not watching: handlers must see both
            self._drop(key)
            old = None
        self.cache.put(key, obj)
        self._tell(Delta(ADDED if old is None else MODIFIED, obj, old))

    def _drop(self, key: str, last: T | None = None) -> None:
        old = self.cache.remove(key)
        if old is not None:
            self._tell(Delta(DELETED, last if last is not None else old, old))

    def _tell(self, delta: Delta[T]) -> None:
        for handler in [*self._handlers]:
            try:
                handler(delta)
            except Exception:
                # its owner's fault: the cache is right, and the other handlers must not miss the change
                log.exception("%s: a handler failed on %s of %s", self._name, delta.type, objects.key(delta.object))

    def list(self) -> list[T]:
        """All objects in the cache. (Last in the class: below it, `list` means this method to a type checker.)"""
        return self.cache.values()


def _backoff(failures: int) -> float:
    return random.uniform(0.5, 1.0) * min(BACKOFF_BASE_SECONDS * 2.0**failures, BACKOFF_CAP_SECONDS)  # noqa: S311


class InformerFactory:
    """Shared informers: everybody who asks for the same kind and selectors gets the same cache and one watch."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._informers: dict[tuple[Any, ...], Informer[Any]] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(
        self,
        kind: type[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer[T]] | None = None,
    ) -> Informer[T]:
        """The shared informer; indexers given by several callers are joined by name. May be called while running."""
        key = (kind, namespace, label_selector, field_selector)
        informer: Informer[T] | None = self._informers.get(key)
        if informer is None:
            informer = Informer(
                self.client,
                kind,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
            )
            self._informers[key] = informer
            if self._group is not None:
                self._group.create_task(informer.run(), name=f"informer-{kind.__name__}")
        for name, indexer in (indexers or {}).items():
            informer.add_indexer(name, indexer)
        return informer

    async def wait_synced(self, timeout: float = 60.0) -> None:
        """Wait until every informer asked for so far has its first list."""
        async with asyncio.timeout(timeout):
            for informer in [*self._informers.values()]:
                await informer.wait_synced(timeout)

    async def run(self) -> None:
        """Run all informers until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for informer in self._informers.values():
                group.create_task(informer.run(), name=f"informer-{informer.kind.__name__}")
            # keeps the group open for informers that are asked for later
            await asyncio.Event().wait()
