"""A container's environment variables (Kubernetes: "Define Environment Variables for a Container"). Pure.

The order is Kubernetes': first what `envFrom` brings (a later source wins over an earlier one), then `env` from top to
bottom (each wins over what was there), at last the variables about Services, which give way to all others. A value may
refer to what stands before it, and to Services, by `$(NAME)`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections import ChainMap
from collections.abc import Mapping, Sequence

from agent.kubelet import downward
from agent.kubelet.expansion import expand
from agent.kubelet.start_error import ConfigError
from kube.models import core_v1

# The Service of the API server: every pod learns of it, whatever its namespace.
MASTER_NAMESPACE = "default"
MASTER_SERVICES = ("kubernetes",)

log = logging.getLogger(__name__)


def resolve(
    container: core_v1.Container,
    pod: core_v1.Pod,
    *,
    config_maps: Mapping[str, core_v1.ConfigMap],
    secrets: Mapping[str, core_v1.Secret],
    services: Sequence[core_v1.Service],
    node: core_v1.Node | None,
) -> list[tuple[str, str]]:
    """A container's variables in order, each name once.

    `pod` carries its status (for its addresses). `config_maps` and `secrets` are those of the pod's namespace that
    exist, by name; `services` those of all namespaces. `node` is whose capacity limits a container without limits.
    Raises ConfigError where something that is not optional is missing.
    """
    assert pod.spec is not None
    namespace = pod.metadata.namespace or ""
    links = pod.spec.enableServiceLinks is not False
    about_services = service_variables(services, namespace, links=links)
    found: dict[str, str] = {}
    for source in container.envFrom:
        found |= _from_source(source, namespace, config_maps, secrets)
    scope = ChainMap(found, about_services)
    for variable in container.env:
        if variable.value:
            value: str | None = expand(variable.value, scope)
        elif variable.valueFrom is not None:
            value = _from_reference(variable.valueFrom, container, pod, config_maps, secrets, node)
        else:
            value = ""
        if value is not None:
            found[variable.name or ""] = value
    return [*found.items(), *((name, value) for name, value in about_services.items() if name not in found)]


def service_variables(services: Sequence[core_v1.Service], namespace: str, *, links: bool) -> dict[str, str]:
    """Variables about the Services that a pod of a namespace sees; with `links` False only about the API server's."""
    chosen: dict[str, core_v1.Service] = {}
    for service in services:
        name = service.metadata.name or ""
        if service.spec is None or service.spec.clusterIP in (None, "", "None"):
            continue
        if service.metadata.namespace == namespace and links:
            chosen[name] = service
        elif service.metadata.namespace == MASTER_NAMESPACE and name in MASTER_SERVICES:
            chosen.setdefault(name, service)
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables |= _about(chosen[name])
    return variables


def _about(service: core_v1.Service) -> dict[str, str]:
    assert service.spec is not None
    ports = service.spec.ports
    if not ports:
        return {}
    address = service.spec.clusterIP or ""
    prefix = _variable_name(service.metadata.name or "")
    found = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0].port)}
    for port in ports:
        if port.name:
            found[f"{prefix}_SERVICE_PORT_{_variable_name(port.name)}"] = str(port.port)
    # The form of Docker's links, which older images look for.
    for position, port in enumerate(ports):
        protocol = (port.protocol or "TCP").lower()
        url = f"{protocol}://{f'[{address}]' if ':' in address else address}:{port.port}"
        if position == 0:
            found[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        found |= {
            link: url,
            f"{link}_PROTO": protocol,
            f"{link}_PORT": str(port.port),
            f"{link}_ADDR": address,
        }
    return found


def _variable_name(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def _from_source(
    source: core_v1.EnvFromSource,
    namespace: str,
    config_maps: Mapping[str, core_v1.ConfigMap],
    secrets: Mapping[str, core_v1.Secret],
) -> dict[str, str]:
    """All variables of one `envFrom` entry. Keys that cannot be names of variables are left out."""
    values: dict[str, str] = {}
    if source.configMapRef is not None:
        name = source.configMapRef.name or ""
        config_map = config_maps.get(name)
        if config_map is not None:
            values = config_map.data
        elif not source.configMapRef.optional:
            raise ConfigError(f'configmap "{name}" not found')
    elif source.secretRef is not None:
        name = source.secretRef.name or ""
        secret = secrets.get(name)
        if secret is not None:
            values = {key: _text(data, f"Secret {namespace}/{name}", key) for key, data in secret.data.items()}
        elif not source.secretRef.optional:
            raise ConfigError(f'secret "{name}" not found')
    prefix = source.prefix or ""
    named = {prefix + key: values[key] for key in sorted(values)}
    refused = [key for key in named if not _is_name(key)]
    if refused:
        log.info("keys that are no names of variables are left out: %s", ", ".join(refused))
    return {key: value for key, value in named.items() if key not in refused}


def _from_reference(
    origin: core_v1.EnvVarSource,
    container: core_v1.Container,
    pod: core_v1.Pod,
    config_maps: Mapping[str, core_v1.ConfigMap],
    secrets: Mapping[str, core_v1.Secret],
    node: core_v1.Node | None,
) -> str | None:
    """The value that `valueFrom` means; None: it is optional and not there."""
    namespace = pod.metadata.namespace or ""
    if origin.fieldRef is not None:
        return downward.field_value(pod, origin.fieldRef.fieldPath or "")
    if origin.resourceFieldRef is not None:
        allocatable = node.status.allocatable if node is not None and node.status is not None else {}
        return downward.resource_value(pod, container, origin.resourceFieldRef, allocatable=allocatable)
    if (wanted := origin.configMapKeyRef) is not None:
        config_map = config_maps.get(wanted.name or "")
        if config_map is None:
            if wanted.optional:
                return None
            raise ConfigError(f'configmap "{wanted.name}" not found')
        if wanted.key not in config_map.data and not wanted.optional:
            raise ConfigError(f"couldn't find key {wanted.key} in ConfigMap {namespace}/{wanted.name}")
        return config_map.data.get(wanted.key or "")
    if (hidden := origin.secretKeyRef) is not None:
        secret = secrets.get(hidden.name or "")
        if secret is None:
            if hidden.optional:
                return None
            raise ConfigError(f'secret "{hidden.name}" not found')
        if hidden.key not in secret.data:
            if hidden.optional:
                return None
            raise ConfigError(f"couldn't find key {hidden.key} in Secret {namespace}/{hidden.name}")
        return _text(secret.data[hidden.key or ""], f"Secret {namespace}/{hidden.name}", hidden.key or "")
    return ""


def _text(encoded: str, where: str, key: str) -> str:
    """A Secret's value as a variable; ConfigError, which never shows it, if it cannot be one."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ConfigError(f"key {key} in {where} is no text (UTF-8), which a variable must be") from None
    if "\0" in text:
        raise ConfigError(f"key {key} in {where} has a zero byte, which a variable cannot have")
    return text


def _is_name(name: str) -> bool:
    """Whether the kernel and every shell's parent can carry it: printable ASCII without `=` (Kubernetes 1.32)."""
    return bool(name) and name.isascii() and name.isprintable() and "=" not in name
