"""log: a container's log, streamed from its node (`kubectl logs`)."""

from __future__ import annotations

from control.api.call import Options
from control.api.container_choice import container_of
from control.api.kubelet_connection import connect
from control.api.subresource import SubresourceContext
from kube.transport import Request, Response

FLAGS = ("follow", "previous", "timestamps")
VALUES = ("tailLines", "sinceSeconds", "sinceTime", "limitBytes", "stream")


async def handle(context: SubresourceContext, request: Request) -> Response:
    """GET: the log as plain text; empty for a pod that no node has yet (as in Kubernetes). ApiError 400, 404, 422."""
    options = Options(dict(reversed(request.query)))
    pod = context.object
    container = container_of(pod, options.text("container"))
    node = pod["spec"].get("nodeName")
    if not node:
        return Response(200, {"content-type": "text/plain"})
    query = [(name, "true") for name in FLAGS if options.flag(name)]
    query += [(name, options.text(name)) for name in VALUES if options.text(name)]
    metadata = pod["metadata"]
    path = f"/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
    response = await connect(context, node).get(path, query)
    return Response(200, {"content-type": "text/plain"}, stream=response.stream)
