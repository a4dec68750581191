"""What a pod may know of itself (Kubernetes: the downward API): its object's fields, containers' resources. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Context, Decimal

from agent.kubelet import resources
from agent.kubelet.start_error import ConfigError
from kube import quantity
from kube.models import core_v1, meta_v1

_ONE_KEY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
# Without a limit of its own a container may use all that the node gives to pods.
_LIMITED_BY_NODE = ("cpu", "memory", "ephemeral-storage")
_EXACT = Context(prec=80)

_FIELDS: dict[str, Callable[[core_v1.Pod, core_v1.PodSpec, core_v1.PodStatus], str | None]] = {
    "metadata.name": lambda pod, spec, status: pod.metadata.name,
    "metadata.namespace": lambda pod, spec, status: pod.metadata.namespace,
    "metadata.uid": lambda pod, spec, status: pod.metadata.uid,
    "metadata.labels": lambda pod, spec, status: lines(pod.metadata.labels),
    "metadata.annotations": lambda pod, spec, status: lines(pod.metadata.annotations),
    "spec.nodeName": lambda pod, spec, status: spec.nodeName,
    "spec.serviceAccountName": lambda pod, spec, status: spec.serviceAccountName,
    "spec.restartPolicy": lambda pod, spec, status: spec.restartPolicy,
    "status.hostIP": lambda pod, spec, status: status.hostIP,
    "status.hostIPs": lambda pod, spec, status: ",".join(ip.ip or "" for ip in status.hostIPs) or status.hostIP,
    "status.podIP": lambda pod, spec, status: status.podIP,
    "status.podIPs": lambda pod, spec, status: ",".join(ip.ip or "" for ip in status.podIPs) or status.podIP,
}


def field_value(pod: core_v1.Pod, path: str) -> str:
    """The text of a field (`fieldRef`); ConfigError for one that the downward API does not have."""
    one = _ONE_KEY.fullmatch(path)
    if one is not None:
        values = pod.metadata.labels if one[1] == "labels" else pod.metadata.annotations
        return values.get(one[2], "")
    read = _FIELDS.get(path)
    if read is None:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return read(pod, pod.spec or core_v1.PodSpec(), pod.status or core_v1.PodStatus()) or ""


def resource_value(
    pod: core_v1.Pod,
    container: core_v1.Container,
    selector: core_v1.ResourceFieldSelector,
    *,
    allocatable: Mapping[str, meta_v1.Quantity],
) -> str:
    """A request or limit in units of the divisor, rounded up (`resourceFieldRef`).

    `container` is whose environment it is; the selector may name another one of the pod. Where the container has no
    limit the node's `allocatable` counts. ConfigError for an unknown container or resource.
    """
    if selector.containerName and selector.containerName != container.name:
        container = container_named(pod, selector.containerName)
    kind, _, name = (selector.resource or "").partition(".")
    if kind not in ("limits", "requests") or not name:
        raise ConfigError(f"unsupported container resource: {selector.resource}")
    found = (resources.limits_of if kind == "limits" else resources.requests_of)(container)
    amount: meta_v1.Quantity = found.get(name, "0")
    if kind == "limits" and name in _LIMITED_BY_NODE and quantity.parse(amount) == 0:
        amount = allocatable.get(name, "0")
    divisor = quantity.parse(selector.divisor or "1") or Decimal(1)
    return str(int(_EXACT.divide(quantity.parse(amount), divisor).to_integral_value(ROUND_CEILING)))


def container_named(pod: core_v1.Pod, name: str) -> core_v1.Container:
    """A container of the pod; ConfigError if there is none of this name."""
    assert pod.spec is not None
    for container in [*pod.spec.initContainers, *pod.spec.containers]:
        if container.name == name:
            return container
    raise ConfigError(f"container {name} not found")


def lines(values: Mapping[str, str]) -> str:
    """Labels or annotations as a file of the downward API has them: `key="value"`, sorted, a line each."""
    return "\n".join(f"{key}={_quoted(values[key])}" for key in sorted(values))


def _quoted(value: str) -> str:
    """A string as Go writes it in its source (strconv.Quote), which is what readers of such files expect."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    escapes |= {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}

    def written(character: str) -> str:
        if character in escapes:
            return escapes[character]
        if character.isprintable():
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return f'"{"".join(map(written, value))}"'
