"""Empties namespaces that are being deleted, then lets them go (Kubernetes: namespace-controller).

Watches Namespaces, and Pods (they are what takes longest to go). Keys are namespaces. A namespace is let go, by taking
the finalizer `kubernetes` off through its subresource `finalize`, only after every kind of content was listed and found
empty; what cannot be discovered or deleted keeps it, and its conditions say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from msgspec import Struct

from control.controllers.controller import Context, Controller
from control.controllers.discovery import PartialObject, discover, metadata_type
from kube import objects, times
from kube.informer import DELETED, Delta
from kube.kinds import Kind
from kube.models import core_v1
from kube.status import ApiError, is_not_found

FINALIZER = "kubernetes"
AGAIN_SECONDS = 2.0
# `kubectl delete -f` deletes a namespace first and then, one by one, what the manifest puts into it: emptied at once,
# the namespace would make it fail on objects that are gone (kube-controller-manager waits 5 s).
DELETION_DELAY_SECONDS = 1.0


class Content(Struct, frozen=True):
    """What is left in a namespace after its deletion was asked for.

    `remaining` counts objects by resource (`pods`, `deployments.apps`), `finalizers` objects by finalizer;
    `undiscovered` and `undeleted` are error messages by group version and resource.
    """

    remaining: Mapping[str, int]
    finalizers: Mapping[str, int]
    undiscovered: Mapping[str, str]
    undeleted: Mapping[str, str]

    @property
    def is_gone(self) -> bool:
        """Whether the namespace is surely empty."""
        return not (self.remaining or self.undiscovered or self.undeleted)


def conditions(
    content: Content, old: Sequence[core_v1.NamespaceCondition], *, now: float
) -> list[core_v1.NamespaceCondition]:
    """The conditions of a namespace that is being deleted, in Kubernetes' terms."""
    remaining = ", ".join(f"{r}. has {n} resource instances" for r, n in sorted(content.remaining.items()))
    kept = ", ".join(f"{f} in {n} resource instances" for f, n in sorted(content.finalizers.items()))
    rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("DiscoveryFailed", "Discovery failed for some groups: " + _joined(content.undiscovered)),
            ("ResourcesDiscovered", "All resources successfully discovered"),
            bool(content.undiscovered),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("", ""),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            False,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeletionFailed", "Failed to delete all resource types: " + _joined(content.undeleted)),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            bool(content.undeleted),
        ),
        (
            "NamespaceContentRemaining",
            ("SomeResourcesRemain", "Some resources are remaining: " + remaining),
            ("ContentRemoved", "All content successfully removed"),
            bool(content.remaining),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: " + kept),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            bool(content.finalizers),
        ),
    ]
    found = []
    for type_, bad, good, is_bad in rows:
        status = "True" if is_bad else "False"
        reason, message = bad if is_bad else good
        before = objects.condition(old, type_)
        stamp = times.rfc3339(now)
        if before is not None and before.status == status and before.lastTransitionTime:
            stamp = before.lastTransitionTime
        found.append(
            core_v1.NamespaceCondition(
                type=type_, status=status, reason=reason, message=message, lastTransitionTime=stamp
            )
        )
    return found


def _joined(messages: Mapping[str, str]) -> str:
    return ", ".join(f"{where}: {message}" for where, message in sorted(messages.items()))


def count(found: Mapping[Kind, Sequence[PartialObject]]) -> tuple[Counter[str], Counter[str]]:
    """(objects by resource, objects by finalizer) of what is left."""
    remaining = Counter({kind.group_resource: len(items) for kind, items in found.items() if items})
    finalizers = Counter(f for items in found.values() for item in items for f in item.metadata.finalizers)
    return remaining, finalizers


class NamespaceController(Controller):
    """Deletes what is in namespaces that go."""

    name: ClassVar[str] = "namespace-controller"
    workers: ClassVar[int] = 2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._namespaces = self.watch(core_v1.Namespace, self._on_namespace)
        self._pods = self.watch(core_v1.Pod, self._on_pod)

    def _on_namespace(self, delta: Delta[core_v1.Namespace]) -> None:
        if delta.type != DELETED and objects.is_deleting(delta.object):
            self.queue.add_after(objects.name(delta.object), DELETION_DELAY_SECONDS)

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        if delta.type == DELETED:
            namespace = self._namespaces.get(objects.namespace(delta.object))
            if namespace is not None and objects.is_deleting(namespace):
                self.queue.add(objects.name(namespace))

    async def reconcile(self, key: str) -> float | None:
        namespace = self._namespaces.get(key)
        if namespace is None or not objects.is_deleting(namespace):
            return None
        if namespace.spec is None or FINALIZER not in namespace.spec.finalizers:
            return None
        content = await self._empty(key)
        if content.is_gone:
            await self._let_go(namespace)
            return None
        await self._report(namespace, content)
        return AGAIN_SECONDS

    async def _empty(self, name: str) -> Content:
        discovered = await discover(self.client)
        left: dict[Kind, Sequence[PartialObject]] = {}
        undeleted: dict[str, str] = {}
        for kind in discovered.with_verbs("list", "delete"):
            if not kind.namespaced:
                continue
            try:
                left[kind] = await self._delete_all(kind, name, discovered.resources[kind])
            except ApiError as error:
                undeleted[kind.group_resource] = str(error)
        remaining, finalizers = count(left)
        return Content(remaining, finalizers, discovered.failures, undeleted)

    async def _delete_all(self, kind: Kind, namespace: str, verbs: frozenset[str]) -> list[PartialObject]:
        """Ask for the deletion of all objects of a kind; those that are left (they wait for something)."""
        type_ = metadata_type(kind)
        found = (await self.client.list(type_, namespace=namespace)).items
        fresh = [item for item in found if item.metadata.deletionTimestamp is None]
        if not fresh:
            return found
        if "deletecollection" in verbs:
            await self.client.raw("DELETE", kind.path(namespace), query=[("propagationPolicy", "Background")])
        else:
            for item in fresh:
                await self._delete(type_, item)
        return (await self.client.list(type_, namespace=namespace)).items

    async def _delete(self, type_: type[PartialObject], item: PartialObject) -> None:
        meta = item.metadata
        try:
            await self.client.delete(
                type_,
                meta.name or "",
                namespace=meta.namespace or "",
                uid=meta.uid or "",
                propagation_policy="Background",
            )
        except ApiError as error:
            if not is_not_found(error):
                raise

    async def _report(self, namespace: core_v1.Namespace, content: Content) -> None:
        updated = objects.copy(namespace)
        updated.status = updated.status or core_v1.NamespaceStatus(phase="Terminating")
        updated.status.conditions = conditions(content, updated.status.conditions, now=self.clock.time())
        if updated != namespace:
            await self.client.update(updated, subresource="status")

    async def _let_go(self, namespace: core_v1.Namespace) -> None:
        finalized = objects.copy(namespace)
        assert finalized.spec is not None
        finalized.spec.finalizers = [f for f in finalized.spec.finalizers if f != FINALIZER]
        try:
            await self.client.update(finalized, subresource="finalize")
        except ApiError as error:
            if not is_not_found(error):
                raise
