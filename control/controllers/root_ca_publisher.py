"""Each namespace has the cluster's CA in a ConfigMap `kube-root-ca.crt` (Kubernetes: root-ca-certificate-publisher).

Pods mount it beside their token, to know the API server by. Watches Namespaces and these ConfigMaps; keys are
namespaces. A changed or deleted one is put right.
"""

from __future__ import annotations

from typing import ClassVar

from control.controllers.controller import Context, Controller
from control.controllers.service_account import is_active, is_moot
from kube import objects
from kube.informer import DELETED, Delta
from kube.models import core_v1, meta_v1
from kube.status import ApiError

NAME = "kube-root-ca.crt"
KEY = "ca.crt"
DESCRIPTION = "kubernetes.io/description"


def plan(namespace: core_v1.Namespace | None, current: core_v1.ConfigMap | None, ca: str) -> core_v1.ConfigMap | None:
    """The ConfigMap to write (create it if `current` is None); None if it is as it should be. `ca` is PEM."""
    if namespace is None or not is_active(namespace):
        return None
    if current is not None and current.data == {KEY: ca}:
        return None
    note = "Contains a CA bundle that can be used to verify the kube-apiserver from inside the cluster."
    return core_v1.ConfigMap(
        metadata=meta_v1.ObjectMeta(
            name=NAME,
            namespace=objects.name(namespace),
            annotations={DESCRIPTION: note},
            resourceVersion=objects.resource_version(current) if current is not None else None,
        ),
        data={KEY: ca},
    )


class RootCAPublisher(Controller):
    """Publishes the CA to all namespaces."""

    name: ClassVar[str] = "root-ca-certificate-publisher"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context, *, ca: str) -> None:
        super().__init__(context)
        self._ca = ca
        self._namespaces = self.watch(core_v1.Namespace, self._on_namespace)
        self._maps = self.watch(core_v1.ConfigMap, self._on_map, field_selector=f"metadata.name={NAME}")

    def _on_namespace(self, delta: Delta[core_v1.Namespace]) -> None:
        if delta.type != DELETED:
            self.queue.add(objects.name(delta.object))

    def _on_map(self, delta: Delta[core_v1.ConfigMap]) -> None:
        self.queue.add(objects.namespace(delta.object))

    async def reconcile(self, key: str) -> float | None:
        current = self._maps.get(f"{key}/{NAME}")
        wanted = plan(self._namespaces.get(key), current, self._ca)
        if wanted is None:
            return None
        try:
            await (self.client.create(wanted) if current is None else self.client.update(wanted))
        except ApiError as error:
            if not is_moot(error):
                raise
        return None
