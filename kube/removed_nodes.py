"""Nodes that were removed: what was issued to them before that lets nobody in any more.

Kubernetes revokes no certificate, and a node's is good for a year. So whoever removes a node for good notes it in the
cluster, by a ConfigMap of the node's name, and the API server turns away a node whose certificate is older than that
note. Under the same name a machine can join anew at once: what it gets then is younger.

The note's time is its creationTimestamp, by the clock of the API server, as a certificate's is by that of the signer
beside it: how late it is on the machine from which somebody removes a node does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kube import kinds, pki, times
from kube.client import Client
from kube.clock import Clock
from kube.models import core_v1, meta_v1
from kube.status import ApiError, is_not_found

CONFIG_MAPS = kinds.known("", "v1", "configmaps")
NAMESPACE = "kube-system"
LABEL = "ktool.io/removed-node"


def object_name(node: str) -> str:
    """The name of a node's note."""
    return f"removed-node-{node}"


async def note(client: Client, node: str, *, clock: Clock) -> None:
    """Note that the node is removed as of now, in place of an earlier note; forget what is older than any certificate.

    Raises ApiError.
    """
    await _forget(client, object_name(node))
    metadata = meta_v1.ObjectMeta(name=object_name(node), namespace=NAMESPACE, labels={LABEL: "true"})
    await client.create(core_v1.ConfigMap(metadata=metadata, data={"node": node}))
    notes = await client.list(core_v1.ConfigMap, namespace=NAMESPACE, label_selector=f"{LABEL}=true")
    for one in notes.items:
        stamp = one.metadata.creationTimestamp if one.metadata else None
        if stamp and times.parse(stamp) < clock.time() - pki.CERT_LIFETIME - pki.BACKDATE:
            await _forget(client, one.metadata.name or "")


async def _forget(client: Client, name: str) -> None:
    try:
        await client.delete(core_v1.ConfigMap, name, namespace=NAMESPACE)
    except ApiError as error:
        if not is_not_found(error):
            raise


def removed_at(found: Mapping[str, Any] | None) -> float | None:
    """When the node of a note (an object as plain data) was removed, in epoch seconds; None without a note."""
    stamp = ((found or {}).get("metadata") or {}).get("creationTimestamp")
    return times.parse(stamp) if stamp else None
