"""One asynchronous client for everybody: controllers, scheduler, kubelet, proxy and command line.

Typed: a method takes a type of `kube.models` (or an object of one) and gives objects of it back. Reads and requests
that the server refused for the moment (429, 503 with Retry-After) are tried again with backoff and jitter; writes are
repeated only when the server said that it did not look at them.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from kube import kinds, objects
from kube.models import meta_v1
from kube.status import ApiError
from kube.transport import Query, Request, Response, Transport, raise_for_status

T = TypeVar("T")

PAGE = 500
RETRIES = 5
RETRY_BASE_SECONDS = 0.1
RETRY_CAP_SECONDS = 5.0


class PatchType(enum.Enum):
    """Media types of PATCH bodies (Kubernetes API concepts, "Patch")."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class ObjectList(Struct, Generic[T], frozen=True):
    """All objects of a list and the revision at which they were read."""

    items: list[T]
    resource_version: str


class WatchEvent(Struct, Generic[T], frozen=True):
    """One event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK (an object with nothing but its resourceVersion)."""

    type: str
    object: T


class _RawList(msgspec.Struct):
    metadata: meta_v1.ListMeta = msgspec.field(default_factory=lambda: meta_v1.ListMeta())
    items: msgspec.Raw = msgspec.Raw(b"[]")


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


_list_decoder = msgspec.json.Decoder(_RawList)
_items_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_event_decoder = msgspec.json.Decoder(_RawEvent)
_object_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def _object_decoder(type_: type[T]) -> msgspec.json.Decoder[T]:
    if type_ not in _object_decoders:
        _object_decoders[type_] = msgspec.json.Decoder(type_)
    return _object_decoders[type_]


def _items(type_: type[T], raw: msgspec.Raw) -> list[T]:
    """The objects of a list. To make a kind's decoder takes milliseconds: there is none for kinds without objects."""
    if bytes(memoryview(raw)[:3]) == b"[]":  # a long list is not copied for this
        return []
    if type_ not in _items_decoders:
        _items_decoders[type_] = msgspec.json.Decoder(list[type_])  # type: ignore[valid-type]
    found: list[T] = _items_decoders[type_].decode(raw)
    return found


class Client:
    """Typed access to an API server over a Transport."""

    def __init__(self, transport: Transport, *, user_agent: str = "ktool") -> None:
        self.transport = transport
        self._headers = {"user-agent": user_agent, "accept": "application/json"}

    async def get(self, kind: type[T], name: str, *, namespace: str = "") -> T:
        """One object; ApiError (404 NotFound) if there is none."""
        path = kinds.kind_of_type(kind).path(namespace, name)
        response = await self._retry("GET", path)
        return _object_decoder(kind).decode(response.body)

    async def list(
        self,
        kind: type[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        resource_version: str = "",
    ) -> ObjectList[T]:
        """All objects that match, read in pages of `limit` at one revision.

        `resource_version="0"` takes what the server's cache holds. Raises ApiError; 410 Expired when the revision was
        compacted between two pages.
        """
        path = kinds.kind_of_type(kind).path(namespace)
        query = _selectors(label_selector, field_selector)
        if limit:
            query.append(("limit", str(limit)))
        if resource_version:
            query.append(("resourceVersion", resource_version))
        items: list[T] = []
        token = ""
        while True:
            response = await self._retry("GET", path, query=[*query, ("continue", token)] if token else query)
            page = _list_decoder.decode(response.body)
            items.extend(_items(kind, page.items))
            token = page.metadata.continue_ or ""
            if not token:
                return ObjectList(items, page.metadata.resourceVersion or "")
            query = [(k, v) for k, v in query if k != "resourceVersion"]

    async def create(self, obj: T, *, namespace: str = "", dry_run: bool = False, field_manager: str = "") -> T:
        """Create an object; its own namespace counts unless one is given. ApiError 409 AlreadyExists, 422 Invalid."""
        path = kinds.kind_of(obj).path(namespace or objects.namespace(obj))
        query = [("dryRun", "All")] if dry_run else []
        if field_manager:
            query.append(("fieldManager", field_manager))
        response = await self._write("POST", path, query=query, body=objects.encode(obj))
        return _object_decoder(type(obj)).decode(response.body)

    async def update(self, obj: T, *, subresource: str = "") -> T:
        """Replace an object, or its `status`; with a resourceVersion only if nobody changed it (409 Conflict)."""
        path = kinds.kind_of(obj).path(objects.namespace(obj), objects.name(obj), subresource)
        response = await self._write("PUT", path, body=objects.encode(obj))
        return _object_decoder(type(obj)).decode(response.body)

    async def patch(
        self,
        kind: type[T],
        name: str,
        patch: Any,
        *,
        namespace: str = "",
        subresource: str = "",
        patch_type: PatchType = PatchType.MERGE,
        field_manager: str = "",
        force: bool = False,
    ) -> T:
        """Change an object by a patch given as plain data; the object after the change."""
        path = kinds.kind_of_type(kind).path(namespace, name, subresource)
        query = [("fieldManager", field_manager)] if field_manager else []
        if force:
            query.append(("force", "true"))
        response = await self._write(
            "PATCH", path, query=query, body=objects.encode(patch), content_type=patch_type.value
        )
        return _object_decoder(kind).decode(response.body)

    async def delete(
        self,
        kind: type[Any],
        name: str,
        *,
        namespace: str = "",
        grace_period_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
        propagation_policy: str = "",
    ) -> None:
        """Ask for deletion (it may wait for finalizers or a grace period). ApiError 404 NotFound, 409 Conflict."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if uid or resource_version:
            found = {"uid": uid, "resourceVersion": resource_version}
            options["preconditions"] = {k: v for k, v in found.items() if v}
        if propagation_policy:
            options["propagationPolicy"] = propagation_policy
        await self._write("DELETE", kinds.kind_of_type(kind).path(namespace, name), body=objects.encode(options))

    async def create_subresource(
        self, kind: type[Any], name: str, subresource: str, body: Any, *, namespace: str = ""
    ) -> bytes:
        """POST to a subresource (`binding`, `eviction`, `token`); the answer's body."""
        path = kinds.kind_of_type(kind).path(namespace, name, subresource)
        return (await self._write("POST", path, body=objects.encode(body))).body

    async def watch(
        self,
        kind: type[T],
        *,
        namespace: str = "",
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = True,
        timeout_seconds: int | None = None,
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """Events after `resource_version`, until the server ends the watch.

        Raises ApiError (410 Expired: list again), ConnectionError when the connection broke.
        """
        query = [("watch", "true"), *_selectors(label_selector, field_selector)]
        if resource_version:
            query.append(("resourceVersion", resource_version))
        if allow_bookmarks:
            query.append(("allowWatchBookmarks", "true"))
        if timeout_seconds is not None:
            query.append(("timeoutSeconds", str(timeout_seconds)))
        request = Request("GET", kinds.kind_of_type(kind).path(namespace), query, self._headers)
        response = raise_for_status(await self.transport.send(request, stream=True))
        decoder = _object_decoder(kind)
        try:
            async for line in lines(response):
                event = _event_decoder.decode(line)
                if event.type == "ERROR":
                    raise ApiError.from_status(msgspec.json.decode(event.object))
                yield WatchEvent(event.type, decoder.decode(event.object))
        finally:
            await response.close()

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        stream: bool = False,
        timeout: float | None = None,
    ) -> Response:
        """Any request, for what has no type here; raises ApiError for a status of 400 and above."""
        request = Request(method, path, query, {**self._headers, **(headers or {})}, body)
        return raise_for_status(await self.transport.send(request, stream=stream, timeout=timeout))

    async def close(self) -> None:
        await self.transport.close()

    async def _write(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", content_type: str = "application/json"
    ) -> Response:
        return await self._retry(method, path, query=query, body=body, content_type=content_type)

    async def _retry(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", content_type: str = "application/json"
    ) -> Response:
        headers = {**self._headers, "content-type": content_type} if body else self._headers
        request = Request(method, path, query, headers, body)
        for attempt in range(RETRIES):
            last = attempt == RETRIES - 1
            try:
                response = await self.transport.send(request)
            except ConnectionError:
                if method != "GET" or last:
                    raise
                delay = _backoff(attempt)
            else:
                if response.status not in (429, 503) or "retry-after" not in response.headers or last:
                    return raise_for_status(response)
                delay = max(_backoff(attempt), min(float(response.headers["retry-after"]), RETRY_CAP_SECONDS))
            await asyncio.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: exponential with full jitter, so that clients don't march in step."""
    return random.uniform(0.5, 1.0) * min(RETRY_BASE_SECONDS * 2.0**attempt, RETRY_CAP_SECONDS)  # noqa: S311


def _selectors(label_selector: str, field_selector: str) -> list[tuple[str, str]]:
    found = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return [(name, value) for name, value in found if value]


async def lines(response: Response) -> AsyncIterator[bytes]:
    """Whole lines of a streamed body; half a line at the end is dropped (the connection broke inside an event)."""
    assert response.stream is not None
    rest = b""
    async for chunk in response.stream:
        *lines, rest = (rest + chunk if rest else chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
