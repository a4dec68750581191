"""exec: a command in a running container, over a WebSocket (`kubectl exec`)."""

from __future__ import annotations

from control.api.call import Options
from control.api.container_choice import container_of, node_of
from control.api.kubelet_connection import connect
from control.api.subresource import SubresourceContext
from kube import status
from kube.transport import Query, Request, Response

# PodExecOptions' names → the kubelet's.
STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}


async def handle(context: SubresourceContext, request: Request) -> Response:
    """A WebSocket that is the command's streams (`v5.channel.k8s.io`). ApiError 400, and what the kubelet refuses."""
    command = [value for name, value in request.query if name == "command"]
    if not command or not command[0]:
        raise status.bad_request("you must specify at least one command for the container")
    path, query = target(context, request, "exec")
    query = [*query, *(("command", word) for word in command)]
    return await connect(context, node_of(context.object)).tunnel(path, query, context.upgrade)


def target(context: SubresourceContext, request: Request, action: str) -> tuple[str, Query]:
    """Path and query by which the kubelet knows the container and the wanted streams. ApiError 400."""
    options = Options(dict(reversed(request.query)))
    pod = context.object
    container = container_of(pod, options.text("container"))
    query = [(kubelets, "1") for name, kubelets in STREAMS.items() if options.flag(name)]
    if not any(name != "tty" for name, _ in query):
        raise status.bad_request("you must specify at least one of stdin, stdout, stderr")
    metadata = pod["metadata"]
    return f"/{action}/{metadata['namespace']}/{metadata['name']}/{metadata['uid']}/{container}", query
