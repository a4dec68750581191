"""proxy of a node: the kubelet's own API, for those who may (`kubectl get --raw /api/v1/nodes/NAME/proxy/...`)."""

from __future__ import annotations

from control.api import request_info
from control.api.kubelet_connection import connect
from control.api.subresource import SubresourceContext
from kube.transport import Request, Response

# Only these are handed on: what tells who the user is stays here, and what is about one connection means only that.
REQUEST_HEADERS = ("accept", "accept-encoding", "content-type", "user-agent")
RESPONSE_HEADERS = ("content-type", "content-encoding", "cache-control", "etag", "last-modified")


async def handle(context: SubresourceContext, request: Request) -> Response:
    """The kubelet's answer, streamed, or a WebSocket passed through. ApiError if the kubelet cannot be reached."""
    path = "/" + request_info.parse(request.method, request.path, {}).rest
    if request.path.endswith("/") and not path.endswith("/"):
        path += "/"
    kubelet = connect(context, context.attributes.name)
    if context.upgrade is not None:
        return await kubelet.tunnel(path, request.query, context.upgrade)
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    found = await kubelet.send(request.method, path, request.query, headers=headers, body=request.body)
    kept = {name: found.headers[name] for name in RESPONSE_HEADERS if name in found.headers}
    return Response(found.status, kept, stream=found.stream)
