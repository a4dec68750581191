"""portforward: connections to a pod's ports, over a WebSocket (`kubectl port-forward`)."""

from __future__ import annotations

from control.api.container_choice import node_of
from control.api.kubelet_connection import connect
from control.api.subresource import SubresourceContext
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """A WebSocket that is the connections; `ports` names them for protocols with fixed channels. ApiError 400."""
    metadata = context.object["metadata"]
    texts = [value for name, value in request.query if name in ("ports", "port")]
    query = [("port", port.strip()) for text in texts for port in text.split(",") if port.strip()]
    path = f"/portForward/{metadata['namespace']}/{metadata['name']}/{metadata['uid']}"
    return await connect(context, node_of(context.object)).tunnel(path, query, context.upgrade)
