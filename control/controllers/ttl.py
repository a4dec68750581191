"""Things that live for a time only: bootstrap tokens and events.

Bootstrap tokens say themselves when they end (`expiration`); the secret is deleted at that moment, by a timer
(Kubernetes: tokencleaner). Events are kept for an hour. An API server that keeps them under a lease drops them itself,
and EventTTL is not needed; elsewhere it reads the events page by page now and then, and keeps none in memory.
"""

from __future__ import annotations

import base64
import binascii
import logging
from functools import partial
from typing import Any, ClassVar

import orjson

from control.controllers.controller import Context, Controller, raise_first, run_all
from kube import objects, times
from kube.informer import DELETED, Delta
from kube.models import core_v1
from kube.status import ApiError, is_not_found

TOKEN_TYPE = "bootstrap.kubernetes.io/token"  # noqa: S105 (the type's name)
TOKEN_NAMESPACE = "kube-system"  # noqa: S105 (a namespace)
EVENT_SECONDS = 3600.0
EVENT_SWEEP_SECONDS = 300.0
PAGE = 500

log = logging.getLogger(__name__)


def token_ends_in(secret: core_v1.Secret, *, now: float) -> float | None:
    """Seconds until a bootstrap token ends (0: it has); None if the secret is none, or never ends.

    A token whose expiration cannot be read has ended: nobody can tell for how long it would be good.
    """
    if secret.type != TOKEN_TYPE:
        return None
    encoded = secret.data.get("expiration")
    if not encoded:
        return None
    try:
        moment = times.parse(base64.b64decode(encoded, validate=True).decode())
    except (binascii.Error, UnicodeDecodeError, times.TimeError):
        return 0.0
    return max(0.0, moment - now)


class TokenCleaner(Controller):
    """Deletes bootstrap tokens that have ended."""

    name: ClassVar[str] = "token-cleaner"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._secrets = self.watch(core_v1.Secret, self._on_secret, namespace=TOKEN_NAMESPACE)

    def _on_secret(self, delta: Delta[core_v1.Secret]) -> None:
        if delta.type != DELETED and delta.object.type == TOKEN_TYPE:
            self.queue.add(objects.key(delta.object))

    async def reconcile(self, key: str) -> float | None:
        secret = self._secrets.get(key)
        if secret is None:
            return None
        left = token_ends_in(secret, now=self.clock.time())
        if left is None or left > 0:
            return left
        try:
            # only in the version that was looked at: it may just have been prolonged
            await self.client.delete(
                core_v1.Secret,
                objects.name(secret),
                namespace=objects.namespace(secret),
                uid=objects.uid(secret),
                resource_version=objects.resource_version(secret),
            )
        except ApiError as error:
            if not is_not_found(error):
                raise
        else:
            log.info("bootstrap token %s has ended and is deleted", objects.name(secret))
        return None


def event_moment(event: dict[str, Any]) -> float:
    """When an event (plain data) happened last; 0 if it does not say."""
    series = (event.get("series") or {}).get("lastObservedTime")
    found = (
        series
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or (event.get("metadata") or {}).get("creationTimestamp")
    )
    return times.parse(found) if found else 0.0


class EventTTL(Controller):
    """Deletes events that are older than an hour. One key, on a timer."""

    name: ClassVar[str] = "event-ttl"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context, *, seconds: float = EVENT_SECONDS) -> None:
        super().__init__(context)
        self._seconds = seconds

    async def start(self) -> None:
        self.queue.add("events")

    async def reconcile(self, key: str) -> float | None:
        token = ""
        while True:
            query = [("limit", str(PAGE)), *([("continue", token)] if token else [])]
            response = await self.client.raw("GET", "/api/v1/events", query=query)
            page = orjson.loads(response.body)
            before = self.clock.time() - self._seconds
            old = [event["metadata"] for event in page["items"] if event_moment(event) < before]
            raise_first(await run_all(partial(self._delete, meta) for meta in old))
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return EVENT_SWEEP_SECONDS

    async def _delete(self, meta: dict[str, Any]) -> None:
        """Delete an event in the version that was read: one that was repeated meanwhile is not old."""
        try:
            await self.client.delete(
                core_v1.Event,
                meta["name"],
                namespace=meta["namespace"],
                uid=meta["uid"],
                resource_version=meta["resourceVersion"],
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise
