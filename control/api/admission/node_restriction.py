"""NodeRestriction: a node changes only itself and its own pods (Kubernetes: the admission plugin of the same name).

The node authorizer has checked what a node may ask for by path; here the content is checked: which Node it registers,
which lease it creates, which labels it gives itself, which pod it wants a token for.
"""

from __future__ import annotations

from control.api.attributes import Attributes, Object, ObjectReader, Operation
from control.api.authorization.node import PODS, node_name
from kube import status
from kube.node_labels import is_restricted


class NodeRestriction:
    """Refuses what a node's identity may not do to the objects that it may touch."""

    name = "NodeRestriction"

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        node = node_name(attributes.user)
        if not node:
            return
        match attributes.resource:
            case "nodes":
                self._admit_node(node, obj, old, operation, attributes)
            case "leases":
                if (attributes.name or _name(obj)) != node:
                    raise _refused(attributes, f"node {node!r} may only change the lease of its own name")
            case "pods":
                self._admit_pod(node, obj, old, operation, attributes)
            case "serviceaccounts" if attributes.subresource == "token":
                self._admit_token(node, obj or {}, attributes)

    def _admit_node(
        self, node: str, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes
    ) -> None:
        if (attributes.name or _name(obj)) != node:
            raise _refused(attributes, f"node {node!r} may only change its own Node object")
        if obj is None or operation not in (Operation.CREATE, Operation.UPDATE):
            return
        forbidden = sorted(changed_labels(obj, old or {}))
        if forbidden:
            raise _refused(attributes, f"node {node!r} may not set the labels {', '.join(forbidden)} on itself")
        if operation is Operation.UPDATE:
            before, after = ((o or {}).get("spec") or {} for o in (old, obj))
            if before.get("taints") != after.get("taints"):
                raise _refused(attributes, f"node {node!r} may not change its own taints")

    def _admit_pod(
        self, node: str, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes
    ) -> None:
        if operation is Operation.CREATE and not attributes.subresource:
            raise _refused(attributes, f"node {node!r} may not create pods")
        pod = old or self._reader.get(PODS, attributes.namespace, attributes.name) or obj or {}
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise _refused(attributes, f"node {node!r} may only change pods that are bound to it")
        if operation is Operation.UPDATE and attributes.subresource != "status":
            raise _refused(attributes, f"node {node!r} may only change the status of pods")

    def _admit_token(self, node: str, request: Object, attributes: Attributes) -> None:
        bound = (request.get("spec") or {}).get("boundObjectRef") or {}
        pod = (
            self._reader.get(PODS, attributes.namespace, bound.get("name", "")) if bound.get("kind") == "Pod" else None
        )
        if pod is None or pod["metadata"].get("uid") != bound.get("uid"):
            raise _refused(attributes, f"node {node!r} may only request tokens that are bound to a pod")
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise _refused(attributes, f"node {node!r} may only request tokens for pods that are bound to it")


def changed_labels(new: Object, old: Object) -> set[str]:
    """Labels that differ and that a node may not choose for itself."""
    after = (new.get("metadata") or {}).get("labels") or {}
    before = (old.get("metadata") or {}).get("labels") or {}
    changed = {key for key in {*after, *before} if after.get(key) != before.get(key)}
    return {key for key in changed if is_restricted(key)}


def _name(obj: Object | None) -> str:
    name: str = ((obj or {}).get("metadata") or {}).get("name", "")
    return name


def _refused(attributes: Attributes, reason: str) -> status.ApiError:
    return status.forbidden(attributes.resource, attributes.name, reason, group=attributes.group)
