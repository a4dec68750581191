"""Objects in the store: create, compare and swap, delete, and reads of the past.

Every write returns after the watch cache has taken it in, so that its writer and everybody it tells read it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec import Struct

from control.api.entry import Entry, encode_for_storage
from control.api.resource import Object, Resource
from control.api.watch_cache import WatchCache
from control.store.errors import ConflictError, KeyNotFoundError, LeaseNotFoundError, ValueTooLargeError
from control.store.store import Store
from kube import status
from kube.clock import Clock, SystemClock
from kube.status import ApiError

MAX_OBJECT_BYTES = 1536 * 1024

# Objects that expire share leases: one is given to all that are made within this time.
LEASE_SHARED_SECONDS = 60
LEASE_SHARED_KEYS = 1000

log = logging.getLogger(__name__)


class _SharedLease(Struct):
    lease: int
    until: float
    keys: int


class Page(Struct, frozen=True):
    """Objects in key order as of `revision`; `remaining` more follow the last one."""

    entries: Sequence[Entry]
    revision: int
    remaining: int


class Storage:
    """Objects of all resources, over a Store and its WatchCache."""

    def __init__(self, store: Store, cache: WatchCache, *, clock: Clock | None = None) -> None:
        self.store = store
        self.cache = cache
        self._clock = clock or SystemClock()
        self._leases: dict[int, _SharedLease] = {}

    def get(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """The current object, or None."""
        return self.cache.of_prefix(resource.prefix).entries.get(f"{namespace}/{name}" if namespace else name)

    async def create(self, resource: Resource, namespace: str, name: str, obj: Object) -> Entry:
        """Store a new object. ApiError 409 AlreadyExists, 413 too large."""
        value = self._encode(resource, name, obj)
        try:
            return await self._put(resource, namespace, name, value, expected_revision=0)
        except ConflictError:
            raise status.already_exists(resource.kind.plural, name, group=resource.kind.group) from None

    async def update(self, resource: Resource, namespace: str, name: str, obj: Object, *, revision: int) -> Entry:
        """Replace an object that is still at `revision`. ConflictError if it is not; ApiError 413 too large."""
        value = self._encode(resource, name, obj)
        return await self._put(resource, namespace, name, value, expected_revision=revision)

    async def delete(self, resource: Resource, entry: Entry) -> Entry:
        """Remove an object that is still as in `entry`: what it was last. ConflictError if it changed or is gone."""
        try:
            result = await self.store.delete(resource.prefix + entry.key, expected_revision=entry.revision)
        except KeyNotFoundError as error:
            raise ConflictError(error.key, entry.revision, None) from None
        await self.cache.wait_for(result.revision)
        return entry.at(result.revision)

    async def page_at(self, resource: Resource, namespace: str, *, revision: int, start_after: str, limit: int) -> Page:
        """Objects as they were at a past revision. CompactedError, FutureRevisionError."""
        prefix = f"{resource.prefix}{namespace}/" if namespace else resource.prefix
        after = resource.prefix + start_after if start_after else ""
        found = await self.store.range(prefix, start_after=after, limit=limit, revision=revision)
        cut = len(resource.prefix)
        entries = [Entry.from_storage(kv.key[cut:], kv.mod_revision, kv.value) for kv in found.items]
        return Page(entries, found.revision, found.remaining)

    async def _put(
        self, resource: Resource, namespace: str, name: str, value: bytes, *, expected_revision: int
    ) -> Entry:
        key = resource.key(namespace, name)
        try:
            if resource.ttl_seconds:
                revision = await self._put_expiring(key, value, expected_revision, resource.ttl_seconds)
            else:
                revision = await self.store.put(key, value, expected_revision=expected_revision)
        except ValueTooLargeError:
            # etcd counts the whole request, and may be set to take less than we do
            raise too_large(resource, name, len(value)) from None
        await self.cache.wait_for(revision)
        own = key[len(resource.prefix) :]
        entry = self.cache.of_prefix(resource.prefix).entries.get(own)
        if entry is None or entry.revision != revision:
            # somebody has changed it again already
            entry = Entry.from_storage(own, revision, value)
        return entry

    async def _put_expiring(self, key: str, value: bytes, expected_revision: int, ttl_seconds: int) -> int:
        for _ in range(2):
            lease = await self._lease(ttl_seconds)
            try:
                return await self.store.put(key, value, expected_revision=expected_revision, lease=lease)
            except LeaseNotFoundError:
                self._leases.pop(ttl_seconds, None)
        raise status.internal_error("leases end faster than objects can be written")

    async def _lease(self, ttl_seconds: int) -> int:
        now = self._clock.monotonic()
        shared = self._leases.get(ttl_seconds)
        if shared is None or now > shared.until or shared.keys >= LEASE_SHARED_KEYS:
            lease = await self.store.grant_lease(ttl_seconds + LEASE_SHARED_SECONDS)
            shared = self._leases[ttl_seconds] = _SharedLease(lease, now + LEASE_SHARED_SECONDS, 0)
        shared.keys += 1
        return shared.lease

    def _encode(self, resource: Resource, name: str, obj: Object) -> bytes:
        value = encode_for_storage(resource.to_storage(obj) if resource.to_storage else obj)
        if len(value) > MAX_OBJECT_BYTES:
            raise too_large(resource, name, len(value))
        return value


def too_large(resource: Resource, name: str, size: int) -> ApiError:
    """413: an object over the size limit."""
    return status.too_large(
        f'{resource.kind.group_resource} "{name}" is too large: found {size} bytes, wanted at most '
        f"{MAX_OBJECT_BYTES} bytes (1.5 MiB); split it into several objects"
    )
