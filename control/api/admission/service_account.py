"""ServiceAccount: every pod runs as one, with its token mounted (Kubernetes concept: Service Accounts)."""

from __future__ import annotations

from control.api.attributes import Attributes, Object, ObjectReader, Operation
from kube import kinds, status
from kube.clock import Clock
from kube.names import random_suffix

ACCOUNTS = kinds.known("", "v1", "serviceaccounts")
DEFAULT = "default"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
# an odd number of seconds above the hour: clients see that the token is bound and renewed (as Kubernetes chose)
TOKEN_SECONDS = 3607
ATTEMPTS = 20
PAUSE_SECONDS = 0.1


class ServiceAccount:
    """Sets the account, checks that it exists, and adds the volume with token, CA and namespace."""

    name = "ServiceAccount"

    def __init__(self, reader: ObjectReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        is_pod = attributes.group == "" and attributes.resource == "pods" and not attributes.subresource
        if obj is None or operation is not Operation.CREATE or not is_pod:
            return
        spec = obj.setdefault("spec", {})
        name = spec.get("serviceAccountName") or DEFAULT
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._find(attributes.namespace, name)
        if account is None:
            message = (
                f'error looking up service account {attributes.namespace}/{name}: serviceaccount "{name}" not found'
            )
            raise status.forbidden("pods", attributes.name, message)
        if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(s) for s in account["imagePullSecrets"]]
        wanted = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if wanted:
            mount_token(spec)

    async def _find(self, namespace: str, name: str) -> Object | None:
        """The account; a namespace's default one is waited for, as its controller makes it just after the namespace."""
        for attempt in range(ATTEMPTS if name == DEFAULT else 1):
            if attempt:
                await self._clock.sleep(PAUSE_SECONDS)
            account = self._reader.get(ACCOUNTS, namespace, name)
            if account is not None:
                return account
        return None


def mount_token(spec: Object) -> None:
    """Add the projected volume and mount it into every container that has nothing at that path yet, in place."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    bare = [c for c in containers if all(m.get("mountPath") != MOUNT_PATH for m in c.get("volumeMounts") or ())]
    if not bare:
        return
    volumes = spec.setdefault("volumes", [])
    name = next((v["name"] for v in volumes if v.get("name", "").startswith(VOLUME_PREFIX)), "")
    if not name:
        name = VOLUME_PREFIX + random_suffix()
        volumes.append(_volume(name))
    for container in bare:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": MOUNT_PATH})


def _volume(name: str) -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [namespace]}},
            ],
        },
    }
