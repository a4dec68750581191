"""One watch of one client: which changes concern it, and the bytes that wait to be sent.

A change is encoded once for all watchers that get it in the same form. A watcher collects what happened since it was
last asked and gives it out in one piece, so a burst of changes costs each client one write. A client that reads too
slowly is not waited for: its watch ends, and it resumes from the last change it saw.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import orjson

from control.api.entry import Entry
from control.api.resource import Resource
from kube.selector import EVERYTHING, FieldSelector, Selector
from kube.status import ApiError

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"
BOOKMARK = "BOOKMARK"

MAX_PENDING_BYTES = 64 << 20
MAX_PENDING_EVENTS = 20_000

NO_FIELDS = FieldSelector()

log = logging.getLogger(__name__)


class Change:
    """One change of one object: what it is now (None: deleted) and what it was (None: it did not exist)."""

    __slots__ = ("_last", "_lines", "new", "old", "revision")

    def __init__(self, revision: int, new: Entry | None, old: Entry | None) -> None:
        self.revision = revision
        self.new = new
        self.old = old
        self._last: Entry | None = None
        self._lines: dict[str, bytes] = {}

    @property
    def key(self) -> str:
        entry = self.new or self.old
        return entry.key if entry else ""

    @property
    def last(self) -> Entry:
        """What the object was before, under this change's revision: the object of a DELETED event."""
        if self._last is None:
            assert self.old is not None
            self._last = self.old.at(self.revision)
        return self._last

    def line(self, type_: str, entry: Entry) -> bytes:
        """The event as a line of JSON, encoded once for all watchers."""
        line = self._lines.get(type_)
        if line is None:
            line = self._lines[type_] = event_line(type_, entry.data)
        return line

    def forget_lines(self) -> None:
        """Give up the encoded forms: everybody who watches now has them."""
        self._lines.clear()


def event_line(type_: str, data: bytes) -> bytes:
    """A watch event as a line of JSON."""
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), data)


class Encoder(Protocol):
    """How events look for a client that wants another form than the object itself (a Table, metadata only)."""

    def __call__(self, type_: str, entry: Entry) -> bytes: ...


class Scope:
    """Which objects a list or watch is about: a namespace (empty: all), labels and fields."""

    __slots__ = ("everything", "fields", "labels", "name", "namespace", "prefix", "resource")

    def __init__(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        labels: Selector = EVERYTHING,
        fields: FieldSelector = NO_FIELDS,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.prefix = f"{namespace}/" if namespace else ""
        self.labels = labels
        self.name = fields.exact("metadata.name")
        self.fields = fields
        self.everything = labels.everything and not fields.requirements

    def selects(self, entry: Entry) -> bool:
        """Whether an entry of the right namespace is meant."""
        if self.everything:
            return True
        if self.name is not None and entry.name != self.name:
            return False
        labels, fields = entry.selectable(self.resource)
        return self.labels.matches(labels) and self.fields.matches(fields)

    def contains(self, entry: Entry) -> bool:
        """Whether an entry is meant."""
        return entry.key.startswith(self.prefix) and self.selects(entry)


class Watcher:
    """An open watch: an asynchronous iterator over chunks of whole event lines; ends by `close` or `aclose`."""

    def __init__(
        self,
        scope: Scope,
        *,
        removed: Callable[[Watcher], None],
        encoder: Encoder | None = None,
        bookmarks: bool = False,
    ) -> None:
        self.scope = scope
        self.bookmarks = bookmarks
        self.sent_revision = 0
        self._encoder = encoder
        self._removed = removed
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[Change] | None = None

    def end_after(self, seconds: float) -> None:
        """End the watch after a time."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def hold(self) -> None:
        """Put changes aside until `release`: the past is still being read."""
        self._held = []

    def release(self, past: Iterable[Change]) -> None:
        """Give out the past, the changes that came meanwhile, and all from now on."""
        held, self._held = self._held or [], None
        for change in past:
            self.offer(change, bounded=False)
        for change in held:
            self.offer(change, bounded=False)

    def offer(self, change: Change, *, bounded: bool = True) -> None:
        """Take in a change, if it concerns this watch."""
        if self._held is not None:
            self._held.append(change)
            if len(self._held) > MAX_PENDING_EVENTS:
                self._held.clear()
                self.close()
            return
        scope, new, old = self.scope, change.new, change.old
        if scope.prefix and not change.key.startswith(scope.prefix):
            return
        if scope.resource.from_storage is not None:
            change = Change(
                change.revision,
                new.seen_as(scope.resource) if new else None,
                old.seen_as(scope.resource) if old else None,
            )
            new, old = change.new, change.old
        before = old is not None and scope.selects(old)
        if new is not None and scope.selects(new):
            self._put(change, MODIFIED if before else ADDED, new, bounded)
        elif before:
            # gone, or no longer selected: for this client that is the same
            self._put(change, DELETED, change.last, bounded)

    def _put(self, change: Change, type_: str, entry: Entry, bounded: bool) -> None:
        self.sent_revision = change.revision
        line = change.line(type_, entry) if self._encoder is None else self._encoder(type_, entry)
        self.push(line, bounded=bounded)

    def push_object(self, type_: str, entry: Entry) -> None:
        """Add an event that is no change: an object that was there already."""
        shown = entry.seen_as(self.scope.resource)
        line = event_line(type_, shown.data) if self._encoder is None else self._encoder(type_, shown)
        self.push(line, bounded=False)

    def bookmark(self, revision: int, *, initial_events_end: bool = False) -> None:
        """Tell the client up to which revision it has seen everything."""
        if self._held is not None or self._closed:
            return
        kind = self.scope.resource.kind
        metadata: dict[str, object] = {"resourceVersion": str(revision)}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        entry = Entry("", revision, orjson.dumps(obj))
        self.push(event_line(BOOKMARK, entry.data) if self._encoder is None else self._encoder(BOOKMARK, entry))
        self.sent_revision = revision

    def fail(self, error: ApiError) -> None:
        """End the watch with an ERROR event."""
        self.push(event_line("ERROR", orjson.dumps(error.to_status())))
        self.close()

    def push(self, line: bytes, *, bounded: bool = True) -> None:
        """Add a line to what waits; ends the watch if the client is too far behind (unless not `bounded`)."""
        if self._closed:
            return
        self._pending.append(line)
        self._pending_bytes += len(line)
        self._wake()
        if bounded and (self._pending_bytes > MAX_PENDING_BYTES or len(self._pending) > MAX_PENDING_EVENTS):
            log.warning("a watch of %s fell too far behind and is closed", self.scope.resource.kind.group_resource)
            self.close()

    def close(self) -> None:
        """End the watch once what waits has been given out."""
        if not self._closed:
            self._closed = True
            self._removed(self)
            if self._timer is not None:
                self._timer.cancel()
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> bytes:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        chunk = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return chunk

    async def aclose(self) -> None:
        """Give up the watch at once."""
        self.close()
        self._pending.clear()
