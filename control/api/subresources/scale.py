"""scale: the replicas of a workload in one form for all kinds (`kubectl scale`, autoscaling/v1 Scale)."""

from __future__ import annotations

from control.api.attributes import Object
from control.api.rules import fields
from control.api.rules.columns import selector_text
from control.api.subresource import SubresourceContext
from kube import codec, status
from kube.errors import FieldError
from kube.transport import Request, Response

COPIED = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


async def handle(context: SubresourceContext, request: Request) -> Response:
    """GET the Scale; PUT or PATCH changes `spec.replicas`, by compare-and-swap if it has a resourceVersion."""
    obj = context.object
    if request.method != "GET":
        attributes = context.attributes

        def mutate(current: Object) -> Object:
            wanted = context.changed(scale_of(current))
            errors = _validate(wanted)
            if errors:
                raise status.invalid("autoscaling", "Scale", attributes.name, errors)
            seen = (wanted.get("metadata") or {}).get("resourceVersion")
            if seen and seen != current["metadata"].get("resourceVersion"):
                raise status.conflict(context.resource.kind.plural, attributes.name, group=context.resource.kind.group)
            current["spec"]["replicas"] = (wanted.get("spec") or {}).get("replicas", 0)
            return current

        obj = await context.operations.update(
            context.resource.kind,
            attributes.namespace,
            attributes.name,
            mutate,
            user=attributes.user,
            subresource="scale",
            dry_run=context.dry_run,
        )
    return Response(200, {"content-type": "application/json"}, codec.encode(scale_of(obj)))


def scale_of(obj: Object) -> Object:
    """The Scale of a workload."""
    spec, state = obj.get("spec") or {}, obj.get("status") or {}
    selector = selector_text(spec.get("selector"))
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: obj["metadata"][field] for field in COPIED if field in obj["metadata"]},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": state.get("replicas", 0),
            **({"selector": selector} if selector != "<none>" else {}),
        },
    }


def _validate(scale: Object) -> list[FieldError]:
    return fields.at_least(scale.get("spec") or {}, "spec", "replicas", 0)
