"""binding: the scheduler's word on where a pod runs, given once (core/v1 Binding)."""

from __future__ import annotations

import time

from control.api.attributes import Object
from control.api.subresource import SubresourceContext
from kube import codec, status, times
from kube.errors import FieldError
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """POST: sets `spec.nodeName` and the condition PodScheduled; 409 if the pod is bound or being deleted."""
    body = context.body or {}
    target = body.get("target") or {}
    attributes = context.attributes
    if target.get("kind") not in (None, "", "Node"):
        errors = [FieldError.not_supported("target.kind", target["kind"], ("Node", "<empty>"))]
        raise status.invalid("", "Binding", attributes.name, errors)
    if not target.get("name"):
        raise status.invalid("", "Binding", attributes.name, [FieldError.required("target.name")])
    metadata = body.get("metadata") or {}

    def mutate(pod: Object) -> Object:
        if metadata.get("uid") and metadata["uid"] != pod["metadata"]["uid"]:
            message = f"the pod's uid is {pod['metadata']['uid']}, the binding is for {metadata['uid']}"
            raise status.conflict("pods/binding", attributes.name, message)
        bind(pod, target["name"], metadata.get("annotations") or {}, times.rfc3339(time.time()))
        return pod

    await context.operations.update(
        context.resource.kind,
        attributes.namespace,
        attributes.name,
        mutate,
        user=attributes.user,
        subresource="binding",
        dry_run=context.dry_run,
    )
    return Response(201, {"content-type": "application/json"}, codec.encode(status.success_status() | {"code": 201}))


def bind(pod: Object, node: str, annotations: Object, now: str) -> None:
    """Bind a pod in place; ApiError 409 if it may not be bound (any more)."""
    name = pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        raise status.conflict("pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        message = f"pod {name} is already assigned to node {pod['spec']['nodeName']!r}"
        raise status.conflict("pods/binding", name, message)
    if pod["spec"].get("schedulingGates"):
        raise status.conflict("pods/binding", name, f"pod {name} has non-empty .spec.schedulingGates")
    pod["spec"]["nodeName"] = node
    if annotations:
        pod["metadata"].setdefault("annotations", {}).update(annotations)
    state = pod.setdefault("status", {})
    others = [c for c in state.get("conditions") or () if c.get("type") != "PodScheduled"]
    state["conditions"] = [*others, {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}]
