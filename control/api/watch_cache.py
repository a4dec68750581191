"""The watch cache: everything the store holds, in memory, ready to be sent.

The problem: a cluster has few writers and many readers. Each kubelet, controller and proxy watches; each restart
lists. If lists and watches went to the store, the store's scans and the encoding of the same objects over and over
would be all that the server does.

The answer: one watch of the whole store feeds one memory. An object is kept as the bytes that clients get
(`control.api.entry`), so a list is a join and an event is encoded once, however many watchers there are. Recent
changes are kept in a window per resource, so that a watch can start in the recent past; an older past is read from
the store, until compaction has removed it (410 Expired: list again).

What must hold: the cache takes in each revision exactly once and in order. A write is answered only after the cache
has taken it in, so whoever was told of a write finds it in every later read (`wait_for`). A watcher is added in the
same turn of the event loop in which its starting point is decided, so that nothing falls in between.

Watchers that ask for one value of a field (each kubelet wants the pods of its node) are found by that value, so that
a change of one pod does not cost a look at 5,000 watchers.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from control.api.entry import Entry
from control.api.resource import Object
from control.api.watcher import Change, Scope, Watcher
from control.store.errors import CompactedError, StoreUnavailableError
from control.store.store import Event, EventType, Store
from kube import status
from kube.clock import Clock, SystemClock

ROOT = "/registry/"
PAGE = 1000
WINDOW_CHANGES = 1000
WINDOW_BYTES = 4 << 20
BOOKMARK_SECONDS = 60.0
RETRY_SECONDS = 1.0
FUTURE_SECONDS = 3.0

log = logging.getLogger(__name__)

Changed = Callable[[Object | None, Object | None], None]


class ResourceCache:
    """All objects under one prefix of the store, the window of their recent changes, and who watches them."""

    def __init__(self, prefix: str, *, window_changes: int = WINDOW_CHANGES) -> None:
        self.prefix = prefix
        self._window_changes = window_changes
        self.entries: dict[str, Entry] = {}
        self.changed_revision = 0
        # changes after this revision are all in the window
        self.window_revision = 0
        self._keys: list[str] = []
        self._window: deque[Change] = deque()
        self._window_bytes = 0
        self._watchers: dict[Watcher, None] = {}
        self._triggered: dict[str, dict[str, dict[Watcher, None]]] = {}
        self._subscribers: list[Changed] = []

    def load(self, entries: Iterable[Entry], revision: int) -> None:
        """Start over with these objects, in key order. All watches end, with their clients to list again."""
        for watcher in [*self.watchers()]:
            watcher.fail(status.expired("the server lost its history; list again"))
        old, self.entries = self.entries, {entry.key: entry for entry in entries}
        self._keys = sorted(self.entries)
        self._window.clear()
        self._window_bytes = 0
        self.window_revision = self.changed_revision = revision
        for key in {**old, **self.entries}:
            self._tell(Change(revision, self.entries.get(key), old.get(key)))

    def apply(self, change: Change) -> None:
        """Take in one change and hand it to the watches that it concerns."""
        key, new = change.key, change.new
        if new is None:
            if self.entries.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]
        else:
            if key not in self.entries:
                insort(self._keys, key)
            self.entries[key] = new
        self.changed_revision = change.revision
        self._remember(change)
        for watcher in self._concerned(change):
            watcher.offer(change)
        change.forget_lines()
        self._tell(change)
        for entry in (new, change.old):
            if entry is not None:
                entry.forget()

    def _remember(self, change: Change) -> None:
        window = self._window
        window.append(change)
        self._window_bytes += _size(change)
        while window and (len(window) > self._window_changes or self._window_bytes > WINDOW_BYTES):
            oldest = window.popleft()
            self._window_bytes -= _size(oldest)
            self.window_revision = oldest.revision

    def _concerned(self, change: Change) -> list[Watcher]:
        found = dict(self._watchers)
        for field, by_value in self._triggered.items():
            for entry in (change.new, change.old):
                if entry is None:
                    continue
                if field == "metadata.name":
                    value = entry.name
                else:
                    # any watcher of the index knows the resource whose fields these are
                    resource = next(iter(next(iter(by_value.values())))).scope.resource
                    value = entry.selectable(resource)[1].get(field, "")
                found.update(by_value.get(value, {}))
        return [*found]

    def _tell(self, change: Change) -> None:
        if self._subscribers:
            new, old = (entry.object if entry else None for entry in (change.new, change.old))
            for changed in self._subscribers:
                changed(new, old)

    def window_since(self, revision: int) -> list[Change] | None:
        """Changes after `revision`, or None if the window does not reach so far back."""
        if revision < self.window_revision:
            return None
        found = []
        for change in reversed(self._window):
            if change.revision <= revision:
                break
            found.append(change)
        return found[::-1]

    def sorted_entries(self, namespace: str = "", start_after: str = "") -> Iterator[Entry]:
        """Objects in the order of their keys, optionally of one namespace, after a key."""
        keys = self._keys
        low, high = 0, len(keys)
        if namespace:
            low, high = bisect_left(keys, f"{namespace}/"), bisect_left(keys, f"{namespace}0")  # "0" follows "/"
        if start_after:
            low = max(low, bisect_left(keys, start_after + "\0"))
        entries = self.entries
        return (entries[keys[at]] for at in range(low, high))

    def add(self, watcher: Watcher) -> None:
        """Hand changes to a watch from now on."""
        trigger = _trigger(watcher.scope)
        if trigger is None:
            self._watchers[watcher] = None
        else:
            field, value = trigger
            self._triggered.setdefault(field, {}).setdefault(value, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Forget a watch."""
        trigger = _trigger(watcher.scope)
        if trigger is None:
            self._watchers.pop(watcher, None)
            return
        field, value = trigger
        by_value = self._triggered.get(field, {})
        if value in by_value:
            by_value[value].pop(watcher, None)
            if not by_value[value]:
                del by_value[value]
            if not by_value:
                del self._triggered[field]

    def watchers(self) -> Iterator[Watcher]:
        """All open watches."""
        yield from self._watchers
        for by_value in self._triggered.values():
            for watchers in by_value.values():
                yield from watchers

    def subscribe(self, changed: Changed) -> None:
        self._subscribers.append(changed)


class WatchCache:
    """The caches of all resources, fed by one watch of the store.

    `start` loads what the store holds; `run` follows it until cancelled, and loads it first if that was not done.
    """

    def __init__(self, store: Store, *, clock: Clock | None = None, window_changes: int = WINDOW_CHANGES) -> None:
        self.store = store
        self._window_changes = window_changes
        self.revision = 0
        # set once the store's objects are in memory: before that nothing can be answered
        self.loaded = asyncio.Event()
        self._loaded_revision = 0
        self._clock = clock or SystemClock()
        self._caches: dict[str, ResourceCache] = {}
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_count = 0

    def of_prefix(self, prefix: str) -> ResourceCache:
        """The cache of a resource's prefix (`/registry/pods/`); empty if nothing was ever stored there."""
        cache = self._caches.get(prefix)
        if cache is None:
            cache = self._caches[prefix] = ResourceCache(prefix, window_changes=self._window_changes)
            cache.window_revision = cache.changed_revision = self._loaded_revision
        return cache

    async def start(self) -> None:
        """Load everything that the store holds."""
        found: dict[str, list[Entry]] = {}
        start_after, revision = "", 0
        while True:
            page = await self.store.range(ROOT, start_after=start_after, limit=PAGE, revision=revision)
            revision = page.revision
            for kv in page.items:
                prefix, key = _split(kv.key)
                found.setdefault(prefix, []).append(Entry.from_storage(key, kv.mod_revision, kv.value))
            if not page.more:
                break
            start_after = page.items[-1].key
        self._loaded_revision = revision
        for prefix in {**self._caches, **found}:
            self.of_prefix(prefix).load(found.get(prefix, ()), revision)
        self._advance(revision)
        self.loaded.set()

    async def run(self) -> None:
        """Follow the store and send bookmarks, until cancelled or until the store is closed (StoreClosedError)."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._bookmarks(), name="watch-cache-bookmarks")
            await self._follow()

    async def _follow(self) -> None:
        begin = not self.loaded.is_set()
        while True:
            try:
                if begin:
                    await self.start()
                    begin = False
                async with self.store.watch("", from_revision=self.revision + 1) as watch:
                    async for events in watch:
                        self._take(events)
            except CompactedError as error:
                # only if this process was stopped for longer than the history is kept
                log.warning("the store's history was compacted before it was read, loading everything again: %s", error)
                begin = True
            except StoreUnavailableError as error:
                log.error("cannot follow the store, trying again: %s", error)
                await self._clock.sleep(RETRY_SECONDS)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            kv = event.kv
            if not kv.key.startswith(ROOT):
                continue
            prefix, key = _split(kv.key)
            cache = self.of_prefix(prefix)
            old = cache.entries.get(key)
            if event.type is EventType.PUT:
                new = Entry.from_storage(key, kv.mod_revision, kv.value)
                cache.apply(Change(kv.mod_revision, new, old))
            elif old is not None:
                cache.apply(Change(kv.mod_revision, None, old))
        self._advance(events[-1].kv.mod_revision)

    def _advance(self, revision: int) -> None:
        self.revision = revision
        while self._waiters and self._waiters[0][0] <= revision:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)

    async def wait_for(self, revision: int) -> None:
        """Wait until the cache has taken in `revision`. The caller bounds the wait."""
        if revision <= self.revision:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiter_count += 1
        waiter = (revision, self._waiter_count, future)
        heapq.heappush(self._waiters, waiter)
        try:
            await future
        except asyncio.CancelledError:
            # clients may name revisions that never come: who has given up must not wait here for ever
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                heapq.heapify(self._waiters)
            raise

    async def fresh(self) -> None:
        """Wait until the cache holds everything that was acknowledged before now (a consistent read)."""
        await self.wait_for(await self.store.revision())

    async def not_older_than(self, revision: int) -> None:
        """Wait for a revision that a client named; ApiError 504 if it does not happen within a few seconds."""
        if revision <= self.revision:
            return
        try:
            async with asyncio.timeout(FUTURE_SECONDS):
                await self.wait_for(revision)
        except TimeoutError:
            error = status.timeout(f"Too large resource version: {revision}, current: {self.revision}", 1)
            error.details["causes"] = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            raise error from None

    def discard(self, watcher: Watcher) -> None:
        """Forget a watch."""
        self.of_prefix(watcher.scope.resource.prefix).remove(watcher)

    def close_watches(self) -> None:
        """End every watch: the server stops."""
        for cache in self._caches.values():
            for watcher in [*cache.watchers()]:
                watcher.close()

    def counts(self) -> Iterator[tuple[str, int, int]]:
        """(resource, objects, watches) of each resource."""
        for prefix, cache in self._caches.items():
            yield prefix.removeprefix(ROOT).rstrip("/"), len(cache.entries), sum(1 for _ in cache.watchers())

    async def _bookmarks(self) -> None:
        while True:
            await self._clock.sleep(BOOKMARK_SECONDS)
            for cache in self._caches.values():
                for watcher in [*cache.watchers()]:  # one that is too far behind is closed, and so leaves the cache
                    if watcher.bookmarks and watcher.sent_revision < self.revision:
                        watcher.bookmark(self.revision)


def _split(key: str) -> tuple[str, str]:
    """(prefix, key inside the resource) of a store key."""
    at = key.index("/", len(ROOT)) + 1
    return key[:at], key[at:]


def _size(change: Change) -> int:
    # a deletion keeps the last state alive; otherwise the old one is the new one of an earlier change
    entry = change.new or change.old
    return len(entry.data) if entry else 0


def _trigger(scope: Scope) -> tuple[str, str] | None:
    """The field and value by which a watch can be found, if its selector wants exactly one value."""
    if scope.resource.from_storage is not None:
        return None
    return next(((r.field, r.value) for r in scope.fields.requirements if r.equal), None)
