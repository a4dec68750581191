"""Which container of a pod a request for its log or streams means, and on which node it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from control.api.attributes import Object
from kube import status


def container_of(pod: Object, wanted: str) -> str:
    """The container's name; ApiError 400 if none is named and there are several, or the pod has none of this name."""
    spec = pod.get("spec") or {}
    name = pod["metadata"]["name"]
    containers, inits, ephemerals = (
        _names(spec.get(field)) for field in ("containers", "initContainers", "ephemeralContainers")
    )
    if wanted:
        if wanted not in [*containers, *inits, *ephemerals]:
            raise status.bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(containers) == 1:
        return containers[0]
    message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if inits:
        message += f" or one of the init containers: [{' '.join(inits)}]"
    if ephemerals:
        message += f" or one of the ephemeral containers: [{' '.join(ephemerals)}]"
    raise status.bad_request(message)


def node_of(pod: Object) -> str:
    """The node that the pod is bound to; ApiError 400 if it is not yet."""
    node: str = (pod.get("spec") or {}).get("nodeName") or ""
    if not node:
        raise status.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return node


def _names(containers: Iterable[Object] | None) -> list[str]:
    return [container.get("name", "") for container in containers or ()]
