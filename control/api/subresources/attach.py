"""attach: the streams of a running container's own process, over a WebSocket (`kubectl attach`)."""

from __future__ import annotations

from control.api.container_choice import node_of
from control.api.kubelet_connection import connect
from control.api.subresource import SubresourceContext
from control.api.subresources.exec import target
from kube.transport import Request, Response


async def handle(context: SubresourceContext, request: Request) -> Response:
    """A WebSocket that is the process' streams (`v5.channel.k8s.io`). ApiError 400, and what the kubelet refuses."""
    path, query = target(context, request, "attach")
    return await connect(context, node_of(context.object)).tunnel(path, query, context.upgrade)
