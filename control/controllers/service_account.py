"""Each namespace has a ServiceAccount `default` (Kubernetes: serviceaccount-controller).

Watches Namespaces and ServiceAccounts; keys are namespaces. Pods that name no account run as this one, so it is made
the moment a namespace appears and made again when somebody deletes it.
"""

from __future__ import annotations

from typing import ClassVar

from control.controllers.controller import Context, Controller
from kube import objects
from kube.informer import DELETED, Delta
from kube.models import core_v1, meta_v1
from kube.status import ApiError, is_already_exists, is_not_found

DEFAULT = "default"


def is_active(namespace: core_v1.Namespace | None) -> bool:
    """Whether the namespace exists and is not being deleted."""
    if namespace is None or objects.is_deleting(namespace):
        return False
    return (namespace.status.phase if namespace.status else None) != "Terminating"


def plan(namespace: core_v1.Namespace | None, account: core_v1.ServiceAccount | None) -> core_v1.ServiceAccount | None:
    """The account to create in a namespace, or None."""
    if namespace is None or not is_active(namespace) or account is not None:
        return None
    return core_v1.ServiceAccount(metadata=meta_v1.ObjectMeta(name=DEFAULT, namespace=objects.name(namespace)))


class ServiceAccountController(Controller):
    """Makes the default ServiceAccounts."""

    name: ClassVar[str] = "serviceaccount-controller"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._namespaces = self.watch(core_v1.Namespace, self._on_namespace)
        self._accounts = self.watch(core_v1.ServiceAccount, self._on_account)

    def _on_namespace(self, delta: Delta[core_v1.Namespace]) -> None:
        if delta.type != DELETED:
            self.queue.add(objects.name(delta.object))

    def _on_account(self, delta: Delta[core_v1.ServiceAccount]) -> None:
        if delta.type == DELETED and objects.name(delta.object) == DEFAULT:
            self.queue.add(objects.namespace(delta.object))

    async def reconcile(self, key: str) -> float | None:
        wanted = plan(self._namespaces.get(key), self._accounts.get(f"{key}/{DEFAULT}"))
        if wanted is not None:
            try:
                await self.client.create(wanted)
            except ApiError as error:
                if not is_moot(error):
                    raise
        return None


def is_moot(error: ApiError) -> bool:
    """Whether creating something in a namespace failed in a way that leaves nothing to do.

    Somebody else made it, or the namespace is gone or going.
    """
    terminating = any(cause.get("reason") == "NamespaceTerminating" for cause in error.causes)
    return is_already_exists(error) or is_not_found(error) or terminating
