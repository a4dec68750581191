"""A whole API server over a real SQLite store in a temporary directory; everybody may do everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from control.api.attributes import Attributes, ClientCertificate, Decision, UserInfo
from control.api.environment import Environment
from control.api.local import LocalTransport
from control.api.object_reader import CacheReader
from control.api.pipeline import Api
from control.api.registry import ResourceRegistry
from control.api.storage import Storage
from control.api.watch_cache import WatchCache
from control.store.sqlite import SqliteStore
from kube import status
from kube.client import Client
from kube.transport import Query, Request, Response, raise_for_status

ADMIN = UserInfo("admin", groups=("system:masters",))

Object = dict[str, Any]


class Anybody:
    """Authenticates everybody as the administrator."""

    async def authenticate(self, headers: Mapping[str, str], client_cert: ClientCertificate | None) -> UserInfo | None:
        if headers.get("authorization") == "Bearer wrong":
            raise status.unauthorized()
        return None if headers.get("authorization") == "none" else ADMIN


class Everything:
    """Allows everything, but what the anonymous user asks for."""

    async def authorize(self, attributes: Attributes) -> Decision:
        return Decision(attributes.user.name != "system:anonymous")


@dataclass
class Server:
    """The running parts, and short ways to ask them."""

    api: Api
    store: SqliteStore
    cache: WatchCache
    local: LocalTransport
    client: Client

    async def send(
        self, method: str, path: str, body: Any = None, *, query: Query = (), stream: bool = False, **headers: str
    ) -> Response:
        """One request; its answer, whatever it is. Underscores in header names stand for dashes."""
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        found = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return await self.local.send(Request(method, path, query, found, data), stream=stream)

    async def call(self, method: str, path: str, body: Any = None, *, query: Query = (), **headers: str) -> Any:
        """One request that must succeed; its decoded answer."""
        response = raise_for_status(await self.send(method, path, body, query=query, **headers))
        return orjson.loads(response.body)

    async def error(self, method: str, path: str, body: Any = None, *, query: Query = (), **headers: str) -> Object:
        """One request that must fail; its Status."""
        response = await self.send(method, path, body, query=query, **headers)
        found: Object = orjson.loads(response.body)
        assert response.status >= 400, found
        assert (found["kind"], found["apiVersion"], found["status"]) == ("Status", "v1", "Failure")
        assert found["code"] == response.status
        return found


@asynccontextmanager
async def running(path: Path, *, namespace: str = "default", **cache: Any) -> AsyncIterator[Server]:
    store = await SqliteStore.open(path)
    watch_cache = WatchCache(store, **cache)
    await watch_cache.start()
    following = asyncio.create_task(watch_cache.run())
    registry = ResourceRegistry.builtin()
    environment = Environment(
        registry=registry,
        cache=watch_cache,
        storage=Storage(store, watch_cache),
        reader=CacheReader(watch_cache, registry),
        authenticator=Anybody(),
        authorizer=Everything(),
    )
    api = Api(environment)
    local = LocalTransport(api, ADMIN)
    server = Server(api, store, watch_cache, local, Client(local))
    if namespace:
        await server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    try:
        yield server
    finally:
        watch_cache.close_watches()
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await store.close()


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **metadata: Any) -> Object:
    spec = {"containers": [{"name": "main", "image": "web:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
