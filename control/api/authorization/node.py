"""The node authorizer: a node reads and writes only what concerns it (Kubernetes concept: Using Node Authorization).

What a node may read depends on which pods are bound to it: their Secrets, ConfigMaps and service accounts, nothing
else. The index of pods by node follows the watch cache, so a decision looks at the node's own pods only.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from control.api.attributes import Attributes, Decision, Object, ObjectReader, UserInfo
from kube import kinds, selector

USER_PREFIX = "system:node:"
GROUP = "system:nodes"
LEASE_NAMESPACE = "kube-node-lease"
PODS = kinds.known("", "v1", "pods")

READ = frozenset({"get", "list", "watch"})
# What every node may do with every object of a resource: (group, resource/subresource) → verbs.
EVERYWHERE: dict[tuple[str, str], frozenset[str]] = {
    ("", "services"): READ,
    ("", "events"): frozenset({"create", "patch", "update"}),
    ("events.k8s.io", "events"): frozenset({"create", "patch", "update"}),
    ("discovery.k8s.io", "endpointslices"): READ,
    ("certificates.k8s.io", "certificatesigningrequests"): READ | {"create"},
    ("authentication.k8s.io", "tokenreviews"): frozenset({"create"}),
    ("authorization.k8s.io", "subjectaccessreviews"): frozenset({"create"}),
    # registration; which Node it is, admission checks (NodeRestriction). All of them can be read: agents keep routes to
    # each other's pods
    ("", "nodes"): READ | {"create"},
}
OWN_NODE = frozenset({"update", "patch"})
OWN_LEASE = frozenset({"get", "update", "patch", "delete"})


def node_name(user: UserInfo) -> str:
    """Name of the node that a user is, or an empty string."""
    is_node = user.name.startswith(USER_PREFIX) and GROUP in user.groups
    return user.name.removeprefix(USER_PREFIX) if is_node else ""


class PodNeeds(Struct, frozen=True):
    """What a pod lets its node read: its service account, and its (`secrets` or `configmaps`, name) pairs.

    Only this is kept of each pod: whole pods would cost this index many times what the watch cache itself needs.
    """

    account: str
    references: frozenset[tuple[str, str]]


class NodeAuthorizer:
    """Decides for users `system:node:<name>` in the group `system:nodes`; has no opinion on others."""

    def __init__(self, reader: ObjectReader) -> None:
        self._pods: dict[str, dict[tuple[str, str], PodNeeds]] = {}
        for pod in reader.list(PODS):
            self._changed(pod, None)
        reader.subscribe(PODS, self._changed)

    async def authorize(self, attributes: Attributes) -> Decision:
        node = node_name(attributes.user)
        if not node:
            return Decision(False)
        if not attributes.is_resource_request:
            return Decision(False)
        if self._allows(node, attributes):
            return Decision(True)
        return Decision(False, f"node {node!r} may only use what its own pods need")

    def _allows(self, node: str, asked: Attributes) -> bool:
        resource = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
        place = (asked.group, resource)
        if asked.verb in EVERYWHERE.get(place, frozenset()):
            return True
        match place:
            case ("", "nodes"):
                return asked.verb in OWN_NODE and asked.name == node
            case ("", "nodes/status"):
                return asked.verb in ("get", "update", "patch") and asked.name == node
            case ("coordination.k8s.io", "leases"):
                if asked.namespace != LEASE_NAMESPACE:
                    return False
                # the name of a new one is in the body; admission checks it
                return asked.verb == "create" or (asked.name == node and asked.verb in OWN_LEASE)
            case ("", "pods"):
                return self._allows_pods(node, asked)
            case ("", "pods/status" | "pods/eviction"):
                return asked.verb in ("get", "update", "patch", "create") and self._is_bound(node, asked)
            case ("", "secrets" | "configmaps" as kind):
                name = _named(asked)
                return asked.verb in READ and bool(name) and self._is_needed(node, kind, asked.namespace, name)
            case ("", "serviceaccounts/token"):
                return asked.verb == "create" and self._uses_account(node, asked)
            case ("", "serviceaccounts"):
                return asked.verb == "get" and self._uses_account(node, asked)
        return False

    def _allows_pods(self, node: str, asked: Attributes) -> bool:
        if asked.verb in ("list", "watch") and not asked.name:
            return _selected(asked.field_selector, "spec.nodeName") == node
        return asked.verb in ("get", "list", "watch", "delete") and self._is_bound(node, asked)

    def _is_bound(self, node: str, asked: Attributes) -> bool:
        return (asked.namespace, _named(asked)) in self._pods.get(node, {})

    def _is_needed(self, node: str, kind: str, namespace: str, name: str) -> bool:
        found = self._pods.get(node, {}).items()
        return any(where == namespace and (kind, name) in needs.references for (where, _), needs in found)

    def _uses_account(self, node: str, asked: Attributes) -> bool:
        found = self._pods.get(node, {}).items()
        return any(where == asked.namespace and needs.account == asked.name for (where, _), needs in found)

    def _changed(self, new: Object | None, old: Object | None) -> None:
        for pod, add in ((old, False), (new, True)):
            node = (pod.get("spec") or {}).get("nodeName") if pod else None
            if pod is None or not node:
                continue
            key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
            if add:
                spec = pod["spec"]
                needs = PodNeeds(spec.get("serviceAccountName", ""), frozenset(references(spec)))
                self._pods.setdefault(node, {})[key] = needs
            else:
                self._pods.get(node, {}).pop(key, None)


def references(spec: Object) -> Iterator[tuple[str, str]]:
    """(`secrets` or `configmaps`, name) of everything that a pod spec refers to."""
    for secret in spec.get("imagePullSecrets") or ():
        yield "secrets", secret.get("name", "")
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            for source in container.get("envFrom") or ():
                yield "configmaps", (source.get("configMapRef") or {}).get("name", "")
                yield "secrets", (source.get("secretRef") or {}).get("name", "")
            for variable in container.get("env") or ():
                value = variable.get("valueFrom") or {}
                yield "configmaps", (value.get("configMapKeyRef") or {}).get("name", "")
                yield "secrets", (value.get("secretKeyRef") or {}).get("name", "")
    for volume in spec.get("volumes") or ():
        yield "configmaps", (volume.get("configMap") or {}).get("name", "")
        yield "secrets", (volume.get("secret") or {}).get("secretName", "")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield "configmaps", (source.get("configMap") or {}).get("name", "")
            yield "secrets", (source.get("secret") or {}).get("name", "")


def _named(asked: Attributes) -> str:
    """The one object a request is about: by its path, or for lists and watches by `metadata.name=...`."""
    return asked.name or _selected(asked.field_selector, "metadata.name")


def _selected(field_selector: str, field: str) -> str:
    """Value that a field selector demands of a field, or an empty string."""
    if not field_selector:
        return ""
    try:
        return selector.parse_fields(field_selector).exact(field) or ""
    except selector.SelectorError:
        return ""  # demands nothing that could be relied on
