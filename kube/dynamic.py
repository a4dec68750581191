"""Objects as plain data, of whatever kind a server has: for the command line, which learns kinds from discovery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from kube.client import Client, PatchType, lines
from kube.kinds import Kind
from kube.transport import Query

Object = dict[str, Any]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class DynamicClient:
    """The client's verbs by Kind instead of by type; every method may raise ApiError or ConnectionError."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object:
        """One object; 404 NotFound."""
        return _object((await self.client.raw("GET", kind.path(namespace, name))).body)

    async def list(self, kind: Kind, *, namespace: str = "", query: Query = ()) -> Object:
        """A whole list object, with `items` and `metadata.resourceVersion`."""
        return _object((await self.client.raw("GET", kind.path(namespace), query=query)).body)

    async def table(self, kind: Kind, *, namespace: str = "", name: str = "", query: Query = ()) -> Object:
        """The server's table (meta/v1 Table) of one object or of a list, with the objects' metadata."""
        response = await self.client.raw("GET", kind.path(namespace, name), query=query, headers={"accept": TABLE})
        return _object(response.body)

    async def create(self, kind: Kind, obj: Object, *, namespace: str = "", query: Query = ()) -> Object:
        """Create an object; 409 AlreadyExists, 422 Invalid."""
        headers = {"content-type": "application/json"}
        response = await self.client.raw(
            "POST", kind.path(namespace), query=query, headers=headers, body=orjson.dumps(obj)
        )
        return _object(response.body)

    async def patch(
        self,
        kind: Kind,
        name: str,
        patch: Object,
        *,
        namespace: str = "",
        patch_type: PatchType = PatchType.MERGE,
        query: Query = (),
    ) -> Object:
        """Change an object by a patch."""
        headers = {"content-type": patch_type.value}
        response = await self.client.raw(
            "PATCH", kind.path(namespace, name), query=query, headers=headers, body=orjson.dumps(patch)
        )
        return _object(response.body)

    async def delete(self, kind: Kind, name: str, *, namespace: str = "", options: Object | None = None) -> Object:
        """Ask for deletion; the object as it is now, or a Status."""
        headers = {"content-type": "application/json"}
        body = orjson.dumps({"apiVersion": "v1", "kind": "DeleteOptions", **(options or {})})
        response = await self.client.raw("DELETE", kind.path(namespace, name), headers=headers, body=body)
        return _object(response.body)

    async def watch(
        self, kind: Kind, *, namespace: str = "", query: Query = (), table: bool = False
    ) -> AsyncIterator[Object]:
        """Watch events as plain data ({type, object}); with `table` the objects are tables of one row."""
        headers = {"accept": TABLE} if table else {}
        response = await self.client.raw(
            "GET", kind.path(namespace), query=[*query, ("watch", "true")], headers=headers, stream=True
        )
        try:
            async for line in lines(response):
                yield orjson.loads(line)
        finally:
            await response.close()


def _object(body: bytes) -> Object:
    found: Object = orjson.loads(body)
    return found
