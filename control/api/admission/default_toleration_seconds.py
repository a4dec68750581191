"""DefaultTolerationSeconds: pods stay for five minutes on a node that is not ready or cannot be reached."""

from __future__ import annotations

from control.api.attributes import Attributes, Object, Operation

SECONDS = 300
TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class DefaultTolerationSeconds:
    """Adds the two tolerations unless the pod says itself what it bears (Kubernetes: the plugin of the same name)."""

    name = "DefaultTolerationSeconds"

    async def admit(self, obj: Object | None, old: Object | None, operation: Operation, attributes: Attributes) -> None:
        is_pod = attributes.group == "" and attributes.resource == "pods" and not attributes.subresource
        if obj is None or operation is not Operation.CREATE or not is_pod:
            return
        spec = obj.setdefault("spec", {})
        tolerations = spec.setdefault("tolerations", [])
        for taint in TAINTS:
            if not any(_covers(toleration, taint) for toleration in tolerations):
                tolerations.append(
                    {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}
                )


def _covers(toleration: Object, taint: str) -> bool:
    return toleration.get("key") in (None, "", taint) and toleration.get("effect") in (None, "", "NoExecute")
