"""Deletes objects whose owners are gone (Kubernetes concept: Garbage Collection, Cascading deletion).

Watches the metadata of every kind that can be listed, watched and deleted, and keeps the owner graph of it. Keys are
attempts: `delete <uid>`, `orphan <uid>`, `verify <uid>`.

What must never happen is that something is deleted because a cache is behind. Therefore an attempt reads the object and
its owners from the server, an owner counts as gone only if the server says so (not found, or another uid under the same
name), and the deletion carries the uid and the version that were looked at: who adopted the object meanwhile keeps it.

Three ways to cascade. Background: the owner goes, its dependents follow. Foreground (finalizer `foregroundDeletion`):
dependents that block go first, then the owner. Orphan (finalizer `orphan`): dependents lose their reference and stay.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import Any, ClassVar

from control.controllers.controller import Context, Controller, raise_first, run_all
from control.controllers.discovery import Discovered, Metadata, PartialObject, discover, metadata_type
from control.controllers.owner_graph import FOREGROUND, ORPHAN, Attempt, Identity, Node, OwnerGraph, Verb, without
from kube import objects
from kube.informer import DELETED, Delta
from kube.kinds import Kind
from kube.models import meta_v1
from kube.status import ApiError, is_not_found

IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})
DISCOVERY = "discovery"
DISCOVERY_SECONDS = 60.0
REMEMBERED_ABSENT = 4096

log = logging.getLogger(__name__)


class GarbageCollector(Controller):
    """Collects dependents of owners that are gone or going."""

    name: ClassVar[str] = "garbage-collector"
    workers: ClassVar[int] = 8

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.graph = OwnerGraph()
        self._watched: set[tuple[str, str]] = set()
        # uids are never used again: what is gone once is gone for ever. Whole identities, because a wrong reference
        # to an object (its uid, another's name) is not found although the object exists.
        self._absent: OrderedDict[Identity, None] = OrderedDict()

    async def start(self) -> None:
        self.graph = OwnerGraph()
        await self._discover()
        await self._wait_synced()
        self.queue.add_after(DISCOVERY, DISCOVERY_SECONDS)

    async def _discover(self) -> Discovered:
        """Watch the kinds that are not watched yet; custom resources come at any time."""
        found = await discover(self.client)
        self.graph.kinds = {**self.graph.kinds, **found.kinds}
        for kind in found.with_verbs("list", "watch", "delete"):
            identity = (kind.group, kind.plural)
            if identity not in IGNORED and identity not in self._watched:
                self._watched.add(identity)
                self.watch(metadata_type(kind), partial(self._on_object, kind))
        return found

    def _on_object(self, kind: Kind, delta: Delta[PartialObject]) -> None:
        meta = delta.object.metadata
        if delta.type == DELETED:
            self._remove(Identity(kind, meta.namespace or "", meta.name or "", meta.uid or ""))
        else:
            self._queue(self.graph.put(kind, meta))

    def _remove(self, identity: Identity) -> None:
        self._absent[identity] = None
        if len(self._absent) > REMEMBERED_ABSENT:
            self._absent.popitem(last=False)
        self._queue(self.graph.remove(identity.uid))

    def _queue(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self.queue.add(f"{attempt.verb.value} {attempt.uid}")

    async def reconcile(self, key: str) -> float | None:
        if key == DISCOVERY:
            await self._discover()
            return DISCOVERY_SECONDS
        verb, _, uid = key.partition(" ")
        node = self.graph.nodes.get(uid)
        if node is None:
            return None
        if verb == Verb.ORPHAN.value:
            await self._orphan(node)
        elif verb == Verb.DELETE.value or node.virtual:
            await self._delete(node)
        return None

    async def _delete(self, node: Node) -> None:
        if node.deleting and not node.waits_for_dependents:
            return
        if node.identity.kind is None:
            log.debug("owner %s is of a kind that the server does not have", node.identity)
            return
        live = await self._live(node.identity)
        if live is None:
            # its event was missed, or it never was: as if it had been deleted now
            self._remove(node.identity)
            return
        if node.virtual:
            return  # it exists; its watch will show it
        if node.waits_for_dependents:
            await self._delete_dependents(node, live)
            return
        if not live.ownerReferences:
            return
        await self._judge(node, live)

    async def _judge(self, node: Node, live: Metadata) -> None:
        """Delete an object of which no owner is left; take off references to those that are gone."""
        solid: list[str] = []
        gone: list[str] = []
        waiting: list[str] = []
        for reference in live.ownerReferences:
            state = await self._owner_state(reference, live.namespace or "")
            {"solid": solid, "gone": gone, "waiting": waiting}[state].append(reference.uid or "")
        if solid:
            self.graph.restore(node.identity.uid)
            if gone or waiting:
                await self._set_owners(node.identity, live, without(live.ownerReferences, [*gone, *waiting]))
            return
        policy = "Background"
        if waiting and node.dependents:
            if any(d in self.graph.nodes and self.graph.nodes[d].waits_for_dependents for d in node.dependents):
                # A circle of objects that wait for each other: stop blocking, so that it opens.
                await self._set_owners(node.identity, live, [_unblocked(r) for r in live.ownerReferences])
                return  # the change comes back as a new version, and the owner that waits is tried again
            policy = "Foreground"
        elif ORPHAN in live.finalizers:
            policy = "Orphan"
        elif FOREGROUND in live.finalizers:
            policy = "Foreground"
        await self._delete_object(node.identity, live, policy)

    async def _owner_state(self, reference: meta_v1.OwnerReference, namespace: str) -> str:
        """`solid` (it exists), `gone`, or `waiting` (it is being deleted in the foreground)."""
        identity = self.graph.resolve(reference, namespace)
        if identity in self._absent:
            return "gone"
        if identity.kind is None or (identity.kind.namespaced and not namespace):
            # Nobody can tell whether it exists: then it does.
            return "solid"
        live = await self._live(identity)
        if live is None:
            return "gone"
        if live.deletionTimestamp is not None and FOREGROUND in live.finalizers:
            return "waiting"
        return "solid"

    async def _delete_dependents(self, node: Node, live: Metadata) -> None:
        """Foreground deletion: let the object go when nothing that blocks is left, else see to what blocks."""
        blocking = self.graph.blocking(node)
        if not blocking:
            await self._drop_finalizer(node.identity, live, FOREGROUND)
            return
        self._queue(
            [Attempt(Verb.DELETE, d.identity.uid) for d in blocking if not d.waits_for_dependents and not d.deleting]
        )

    async def _orphan(self, node: Node) -> None:
        """Take the reference to an object off all its dependents, then let it go."""
        uid = node.identity.uid
        dependents = [self.graph.nodes[d] for d in sorted(node.dependents) if d in self.graph.nodes]

        async def release(dependent: Node) -> None:
            live = await self._live(dependent.identity)
            if live is not None and any(r.uid == uid for r in live.ownerReferences):
                await self._set_owners(dependent.identity, live, without(live.ownerReferences, [uid]))

        raise_first(await run_all(partial(release, dependent) for dependent in dependents))
        live = await self._live(node.identity)
        if live is not None:
            await self._drop_finalizer(node.identity, live, ORPHAN)

    # --- the server --------------------------------------------------------------------------------------------------

    async def _live(self, identity: Identity) -> Metadata | None:
        """The object's metadata as the server has it; None if it is gone or another one has its name."""
        assert identity.kind is not None
        try:
            found = await self.client.get(metadata_type(identity.kind), identity.name, namespace=identity.namespace)
        except ApiError as error:
            if is_not_found(error):
                return None
            raise
        return found.metadata if found.metadata.uid == identity.uid else None

    async def _delete_object(self, identity: Identity, live: Metadata, policy: str) -> None:
        assert identity.kind is not None
        try:
            await self.client.delete(
                metadata_type(identity.kind),
                identity.name,
                namespace=identity.namespace,
                uid=identity.uid,
                resource_version=live.resourceVersion or "",
                propagation_policy=policy,
            )
        except ApiError as error:
            if not is_not_found(error):
                raise
            self._remove(identity)
            return
        log.debug("deleted %s %s/%s (%s)", identity.kind.plural, identity.namespace, identity.name, policy)

    async def _set_owners(self, identity: Identity, live: Metadata, references: list[meta_v1.OwnerReference]) -> None:
        data = [objects.to_dict(reference) for reference in references]
        await self._patch(identity, live, {"ownerReferences": data or None})

    async def _drop_finalizer(self, identity: Identity, live: Metadata, finalizer: str) -> None:
        if finalizer in live.finalizers:
            left = [f for f in live.finalizers if f != finalizer]
            await self._patch(identity, live, {"finalizers": left or None})

    async def _patch(self, identity: Identity, live: Metadata, metadata: dict[str, Any]) -> None:
        """Change metadata of the version that was looked at (409 Conflict if there is a newer one)."""
        assert identity.kind is not None
        patch = {"metadata": {"uid": identity.uid, "resourceVersion": live.resourceVersion, **metadata}}
        try:
            await self.client.patch(metadata_type(identity.kind), identity.name, patch, namespace=identity.namespace)
        except ApiError as error:
            if not is_not_found(error):
                raise


def _unblocked(reference: meta_v1.OwnerReference) -> meta_v1.OwnerReference:
    found = objects.copy(reference)
    found.blockOwnerDeletion = False
    return found
