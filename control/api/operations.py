"""Reads and writes of objects for handlers of subresources and for the server itself (`subresource.Operations`)."""

from __future__ import annotations

from control.api import strategy
from control.api.attributes import Attributes, Object, UserInfo
from control.api.environment import Environment
from control.api.handlers.create import create_object
from control.api.handlers.delete import delete_object
from control.api.handlers.update import update_object
from control.api.resource import Resource
from control.api.subresource import Mutation
from kube.kinds import Kind


class ApiOperations:
    """Operations through the same admission, validation and commit as requests of clients."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _resource(self, kind: Kind) -> Resource:
        found = self._environment.registry.find(kind.group, kind.version, kind.plural)
        if found is None:
            raise LookupError(f"{kind.group_resource} is not served")
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Operations.get."""
        resource = self._resource(kind)
        await self._environment.cache.fresh()
        entry = self._environment.storage.get(resource, namespace, name)
        if entry is None:
            raise strategy.not_found(resource, name)
        return entry.seen_as(resource).parse()

    async def create(self, kind: Kind, namespace: str, obj: Object, *, user: UserInfo, dry_run: bool = False) -> Object:
        """Operations.create."""
        resource = self._resource(kind)
        name = obj.get("metadata", {}).get("name", "")
        attributes = _attributes(user, "create", kind, namespace, name, dry_run=dry_run)
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, **obj}
        entry = await create_object(self._environment, resource, namespace, obj, attributes)
        return entry.seen_as(resource).parse()

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        mutate: Mutation,
        *,
        user: UserInfo,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Operations.update."""
        resource = self._resource(kind)
        attributes = _attributes(user, "update", kind, namespace, name, subresource=subresource, dry_run=dry_run)
        entry = await update_object(self._environment, resource, namespace, name, mutate, attributes)
        return entry.seen_as(resource).parse()

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Object, *, user: UserInfo, dry_run: bool = False
    ) -> Object:
        """Operations.delete: the object as it was last, or as it waits for its deletion."""
        resource = self._resource(kind)
        attributes = _attributes(user, "delete", kind, namespace, name, dry_run=dry_run)
        found = await delete_object(self._environment, resource, namespace, name, options, attributes)
        return found.entry.seen_as(resource).parse()


def _attributes(
    user: UserInfo, verb: str, kind: Kind, namespace: str, name: str, *, subresource: str = "", dry_run: bool = False
) -> Attributes:
    return Attributes(
        user,
        verb,
        kind.group,
        kind.version,
        kind.plural,
        subresource,
        namespace,
        name,
        path=kind.path(namespace, name, subresource),
        dry_run=dry_run,
    )
