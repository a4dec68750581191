"""Events: short notes about what happened to an object, for people (`kubectl describe`; Kubernetes: core/v1 Event).

Whoever records an event must never wait for it and never fail because of it: `event()` only notes it down, `run()`
brings the notes to the API server. What repeats is counted and not written again (a crash loop is one Event whose
count grows), and one object that talks without end is cut short, so that events never become the cluster's main load.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from typing import Any

from msgspec import Struct

from kube import kinds, objects, times
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.models import core_v1, meta_v1
from kube.status import ApiError, Reason

NORMAL = "Normal"
WARNING = "Warning"

MAX_PENDING = 1000
MAX_KNOWN = 4096
MAX_MESSAGE = 1024
ATTEMPTS = 12
RETRY_SECONDS = 10.0
# One object may say this much at once, and then one more thing every five minutes.
BURST = 25
REFILL_SECONDS = 300.0

log = logging.getLogger(__name__)


class _Key(Struct, frozen=True):
    """What makes two events the same but for their time."""

    about: tuple[str, ...]
    type: str
    reason: str
    message: str


class _Note(Struct):
    """An event that waits to be written: how often it happened since the last write, and when."""

    about: core_v1.ObjectReference
    count: int
    first: float
    last: float


class _Written(Struct):
    """An Event that exists in the API."""

    namespace: str
    name: str
    count: int


class EventRecorder:
    """Records events in the name of a component (`kubelet`, `deployment-controller`) on a host (may be empty)."""

    def __init__(self, client: Client, component: str, host: str = "", *, clock: Clock | None = None) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock or SystemClock()
        self._pending: OrderedDict[_Key, _Note] = OrderedDict()
        self._written: OrderedDict[_Key, _Written] = OrderedDict()
        self._allowance: OrderedDict[tuple[str, ...], tuple[float, float]] = OrderedDict()
        self._wake = asyncio.Event()
        self._dropped = 0

    def event(self, obj: Any, type_: str, reason: str, message: str, *, field_path: str = "") -> None:
        """Note that something happened to an object. Returns at once, never raises for what the API may say.

        `obj` is a typed object or an ObjectReference, `type_` NORMAL or WARNING, `reason` one CamelCase word;
        `field_path` says which part of the object (`spec.containers{web}`).
        """
        about = obj if isinstance(obj, core_v1.ObjectReference) else objects.reference(obj)
        if field_path:
            about = objects.copy(about)
            about.fieldPath = field_path
        text = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
        identity = (about.kind or "", about.namespace or "", about.name or "", about.uid or "", about.fieldPath or "")
        key = _Key(identity, type_, reason, text)
        now = self._clock.time()
        note = self._pending.get(key)
        if note is not None:
            note.count += 1
            note.last = now
            return
        if not self._allowed(identity[:4], now):
            self._dropped += 1
            return
        if len(self._pending) >= MAX_PENDING:
            self._pending.popitem(last=False)
            self._dropped += 1
        self._pending[key] = _Note(about, 1, now, now)
        self._wake.set()

    async def run(self) -> None:
        """Write noted events until cancelled."""
        while True:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            key, note = self._pending.popitem(last=False)
            await self._deliver(key, note)
            if self._dropped:
                log.info("%d events were dropped: too many at once", self._dropped)
                self._dropped = 0

    async def flush(self, timeout: float = 5.0) -> None:
        """Write what waits, within `timeout` seconds: for a clean end, after `run()` was cancelled."""
        try:
            async with asyncio.timeout(timeout):
                while self._pending:
                    await self._write(*self._pending.popitem(last=False))
        except (ApiError, ConnectionError, TimeoutError) as error:
            log.info("%d events are lost: %s", len(self._pending) + 1, error)

    def _allowed(self, source: tuple[str, ...], now: float) -> bool:
        """Token bucket for each object."""
        tokens, since = self._allowance.pop(source, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - since) / REFILL_SECONDS)
        allowed = tokens >= 1.0
        self._allowance[source] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._allowance) > MAX_KNOWN:
            self._allowance.popitem(last=False)
        return allowed

    async def _deliver(self, key: _Key, note: _Note) -> None:
        for attempt in range(ATTEMPTS):
            try:
                await self._write(key, note)
            except ApiError as error:
                if error.code < 500 and error.code != 429:
                    # The namespace is being deleted, the object's name is odd: trying again gives the same answer.
                    log.debug("event %s of %s was refused: %s", key.reason, key.about, error)
                    return
            except (ConnectionError, TimeoutError) as error:
                log.debug("event %s of %s is not written yet: %s", key.reason, key.about, error)
            else:
                return
            last = attempt == ATTEMPTS - 1
            if not last:
                await self._clock.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311
        self._dropped += 1

    async def _write(self, key: _Key, note: _Note) -> None:
        written = self._written.pop(key, None)
        if written is not None:
            count = written.count + note.count
            patch = {"count": count, "lastTimestamp": times.rfc3339(note.last)}
            try:
                await self._client.patch(core_v1.Event, written.name, patch, namespace=written.namespace)
            except (ApiError, ConnectionError, TimeoutError) as error:
                if not isinstance(error, ApiError) or error.reason != Reason.NOT_FOUND:
                    self._written[key] = written
                    raise
                # It has expired (events live an hour): it becomes a new one.
            else:
                written.count = count
                self._remember(key, written)
                return
        event = self._event(key, note)
        created = await self._client.create(event, namespace=event.metadata.namespace or "default")
        self._remember(key, _Written(objects.namespace(created), objects.name(created), note.count))

    def _remember(self, key: _Key, written: _Written) -> None:
        self._written[key] = written
        if len(self._written) > MAX_KNOWN:
            self._written.popitem(last=False)

    def _event(self, key: _Key, note: _Note) -> core_v1.Event:
        namespace = note.about.namespace or "default"
        name = f"{note.about.name}.{int(note.first * 1e6):x}{random.getrandbits(32):08x}"
        return core_v1.Event(
            metadata=meta_v1.ObjectMeta(name=name, namespace=namespace),
            involvedObject=note.about,
            reason=key.reason,
            message=key.message,
            type=key.type,
            count=note.count,
            firstTimestamp=times.rfc3339(note.first),
            lastTimestamp=times.rfc3339(note.last),
            source=core_v1.EventSource(component=self._component, host=self._host or None),
            reportingComponent=self._component,
            reportingInstance=self._host or None,
        )


def reference_to(kind: type[Any], name: str, *, namespace: str = "", uid: str = "") -> core_v1.ObjectReference:
    """Reference to an object that is known by name only (a Node, by its kubelet)."""
    found = kinds.kind_of_type(kind)
    return core_v1.ObjectReference(
        apiVersion=found.api_version, kind=found.kind, name=name, namespace=namespace or None, uid=uid or None
    )
