"""Who owns whom: the graph over all objects that the garbage collector walks. Pure.

Nodes are objects by uid, edges their owner references. An owner that no watch has shown yet stands in the graph as a
*virtual* node, so that its dependents are not lost when it never turns up; whether it really exists is asked of the
server. Each change of the graph gives the attempts that follow from it: to delete an object (if it has become
garbage), to orphan the dependents of one, to verify that an owner exists. An attempt is a suspicion, never a verdict:
the collector looks at the live objects before it does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from msgspec import Struct, field
from msgspec.structs import replace

from control.controllers.discovery import Metadata
from kube.kinds import Kind
from kube.models import meta_v1

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class Identity(Struct, frozen=True):
    """Where an object is (kind None: the server has no such kind) and which one it is."""

    kind: Kind | None
    namespace: str
    name: str
    uid: str


class Node(Struct):
    """One object. `waits_for_dependents`: it is being deleted in the foreground; `orphans`: orphaning them."""

    identity: Identity
    owners: dict[str, meta_v1.OwnerReference] = field(default_factory=dict)
    dependents: set[str] = field(default_factory=set)
    deleting: bool = False
    waits_for_dependents: bool = False
    orphans: bool = False
    virtual: bool = False

    def blocks(self, owner: str) -> bool:
        """Whether the owner's foreground deletion must wait for this object."""
        reference = self.owners.get(owner)
        return reference is not None and bool(reference.blockOwnerDeletion)


class Verb(Enum):
    """What to try."""

    DELETE = "delete"
    ORPHAN = "orphan"
    VERIFY = "verify"  # that an owner exists which no watch has shown


class Attempt(Struct, frozen=True):
    """Something to try for an object."""

    verb: Verb
    uid: str


class OwnerGraph(Struct):
    """The graph. `kinds` resolves apiVersion and kind of owner references."""

    kinds: Mapping[tuple[str, str], Kind] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def put(self, kind: Kind, meta: Metadata) -> list[Attempt]:
        """An object was seen, new or changed."""
        uid = meta.uid or ""
        identity = Identity(kind, meta.namespace or "", meta.name or "", uid)
        node = self.nodes.get(uid)
        if node is None:
            node = self.nodes[uid] = Node(identity)
        attempts: list[Attempt] = []
        if node.virtual and not _same_object(node.identity, identity):
            # It turned up elsewhere than the first reference to it said: who named it wrongly must be looked at.
            attempts += [Attempt(Verb.DELETE, dependent) for dependent in sorted(node.dependents)]
        node.identity, node.virtual = identity, False
        attempts += self._set_owners(node, {o.uid: o for o in meta.ownerReferences if o.uid})
        deleting = meta.deletionTimestamp is not None
        orphans = deleting and ORPHAN in meta.finalizers
        waits = deleting and FOREGROUND in meta.finalizers
        if orphans and not node.orphans:
            attempts.append(Attempt(Verb.ORPHAN, uid))
        if waits and not node.waits_for_dependents:
            attempts += [Attempt(Verb.DELETE, dependent) for dependent in sorted(node.dependents)]
            attempts.append(Attempt(Verb.DELETE, uid))
        node.deleting, node.orphans, node.waits_for_dependents = deleting, orphans, waits
        return attempts

    def remove(self, uid: str) -> list[Attempt]:
        """An object is gone: its dependents may be garbage, and owners that waited for it may go."""
        node = self.nodes.pop(uid, None)
        if node is None:
            return []
        attempts = [Attempt(Verb.DELETE, dependent) for dependent in sorted(node.dependents)]
        for owner in node.owners:
            attempts += self._cut(owner, uid)
        return attempts

    def restore(self, uid: str) -> None:
        """Tie an object to its owners again, after an owner's node was dropped that proved to exist after all.

        (A virtual node stands where the first reference to it says; if that was wrong, others may still be right.)
        """
        node = self.nodes.get(uid)
        for owner, reference in (node.owners if node is not None else {}).items():
            assert node is not None
            self._tie(node, owner, reference)

    def blocking(self, node: Node) -> list[Node]:
        """Dependents that a node's foreground deletion waits for."""
        uid = node.identity.uid
        found = (self.nodes[d] for d in sorted(node.dependents) if d in self.nodes)
        return [dependent for dependent in found if dependent.blocks(uid)]

    def resolve(self, reference: meta_v1.OwnerReference, namespace: str) -> Identity:
        """Where the owner of an object in `namespace` must be, if it exists: owners never cross namespaces."""
        kind = self.kinds.get((reference.apiVersion or "", reference.kind or ""))
        where = namespace if kind is not None and kind.namespaced else ""
        return Identity(kind, where, reference.name or "", reference.uid or "")

    def _set_owners(self, node: Node, owners: dict[str, meta_v1.OwnerReference]) -> list[Attempt]:
        attempts: list[Attempt] = []
        uid, before = node.identity.uid, node.owners
        node.owners = owners
        for owner, reference in before.items():
            after = owners.get(owner)
            if after is None:
                attempts += self._cut(owner, uid)
            elif reference.blockOwnerDeletion and not after.blockOwnerDeletion:
                attempts += self._retry_waiting(owner)
        for owner, reference in owners.items():
            if owner not in before:
                attempts += self._tie(node, owner, reference)
        return attempts

    def _tie(self, node: Node, owner: str, reference: meta_v1.OwnerReference) -> list[Attempt]:
        expected = self.resolve(reference, node.identity.namespace)
        found = self.nodes.get(owner)
        if found is None:
            self.nodes[owner] = Node(expected, dependents={node.identity.uid}, virtual=True)
            return [Attempt(Verb.VERIFY, owner)]
        found.dependents.add(node.identity.uid)
        if found.identity != expected and not _same_object(found.identity, expected):
            # A reference that names the owner's uid at another place is wrong: look at the dependent itself.
            return [Attempt(Verb.DELETE, node.identity.uid)]
        return []

    def _cut(self, owner: str, uid: str) -> list[Attempt]:
        found = self.nodes.get(owner)
        if found is None:
            return []
        found.dependents.discard(uid)
        if found.virtual and not found.dependents:
            del self.nodes[owner]
            return []
        return self._retry_waiting(owner)

    def _retry_waiting(self, owner: str) -> list[Attempt]:
        found = self.nodes.get(owner)
        return [Attempt(Verb.DELETE, owner)] if found is not None and found.waits_for_dependents else []


def _same_object(one: Identity, other: Identity) -> bool:
    """Whether two identities differ by the API version of the kind only."""
    if one.kind is None or other.kind is None or (one.kind.group, one.kind.kind) != (other.kind.group, other.kind.kind):
        return False
    return replace(one, kind=other.kind) == other


def without(references: Iterable[meta_v1.OwnerReference], uids: Iterable[str]) -> list[meta_v1.OwnerReference]:
    """Owner references except those to some owners."""
    gone = set(uids)
    return [reference for reference in references if reference.uid not in gone]
