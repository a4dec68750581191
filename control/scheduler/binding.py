"""Binding: telling the API where a pod goes, and finding out what became of it when the answer got lost."""

from __future__ import annotations

import asyncio
import logging

from control.scheduler.pod_info import PodInfo
from kube import objects
from kube.client import Client
from kube.models import core_v1, meta_v1
from kube.status import ApiError

BINDING_SECONDS = 30.0

log = logging.getLogger(__name__)


async def bind(client: Client, info: PodInfo, node: str) -> None:
    """Bind a pod to a node. The API gives each pod one node once, whoever asks.

    Raises ApiError (404 the pod is gone, 409 it is bound already, being deleted, or another pod of the same name),
    ConnectionError or TimeoutError when nobody knows whether it was bound and it seems it was not.
    """
    namespace, name = objects.split_key(info.key)
    binding = core_v1.Binding(
        metadata=meta_v1.ObjectMeta(name=name, namespace=namespace, uid=info.uid),
        target=core_v1.ObjectReference(kind="Node", name=node),
    )
    try:
        async with asyncio.timeout(BINDING_SECONDS):
            await client.create_subresource(core_v1.Pod, name, "binding", binding, namespace=namespace)
    except (ApiError, ConnectionError, TimeoutError) as error:
        if isinstance(error, ApiError) and error.code < 500:
            raise
        if await _bound_to(client, info) != node:
            raise
        log.info("the answer to the binding of %s to %s was lost, but it is bound", info.key, node)


async def _bound_to(client: Client, info: PodInfo) -> str:
    """The node that the pod has now; empty if it has none, is gone, or cannot be asked for."""
    namespace, name = objects.split_key(info.key)
    try:
        async with asyncio.timeout(BINDING_SECONDS):
            pod = await client.get(core_v1.Pod, name, namespace=namespace)
    except (ApiError, ConnectionError, TimeoutError) as error:
        log.info("cannot find out whether %s is bound: %s", info.key, error)
        return ""
    if objects.uid(pod) != info.uid or pod.spec is None:
        return ""
    return pod.spec.nodeName or ""
