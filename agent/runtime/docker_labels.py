"""How sandboxes and containers are told apart, found again and claimed: the names and labels on the engine.

The engine's labels are the only state that survives an agent, so everything that a list must answer is in them. What
the kubelet gives as labels is stored as it is; annotations get a prefix, since the engine has none; what the runtime
itself must know lies under `io.ktool.`. `io.ktool.cluster` says whose it is: several clusters may share an engine,
and each lists, and removes, its own only.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.runtime.container import ContainerConfig
from agent.runtime.runtime import LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID
from agent.runtime.sandbox import SandboxConfig

CLUSTER = "io.ktool.cluster"
TYPE = "io.ktool.type"
TYPE_SANDBOX = "sandbox"
TYPE_CONTAINER = "container"
SANDBOX_ID = "io.ktool.sandbox"
ATTEMPT = "io.ktool.attempt"
LOG_PATH = "io.ktool.log-path"
# What Docker's own tools and Kubernetes' call the container of a sandbox.
SANDBOX_CONTAINER_NAME = "POD"

_RUNTIME_PREFIX = "io.ktool."
_ANNOTATION_PREFIX = "annotation."


def sandbox_name(config: SandboxConfig) -> str:
    """The engine's name of a sandbox; equal for equal pod and attempt, so that no race makes two of them."""
    return f"k8s_{SANDBOX_CONTAINER_NAME}_{config.name}_{config.namespace}_{config.uid}_{config.attempt}"


def container_name(config: ContainerConfig, sandbox: SandboxConfig) -> str:
    """The engine's name of a container; equal for equal pod, container name and attempt."""
    return f"k8s_{config.name}_{sandbox.name}_{sandbox.namespace}_{sandbox.uid}_{config.attempt}"


def sandbox_labels(cluster: str, config: SandboxConfig) -> dict[str, str]:
    """All labels of a sandbox's container."""
    return {
        **config.labels,
        **{_ANNOTATION_PREFIX + name: value for name, value in config.annotations.items()},
        **_pod_labels(config),
        LABEL_CONTAINER_NAME: SANDBOX_CONTAINER_NAME,
        CLUSTER: cluster,
        TYPE: TYPE_SANDBOX,
        ATTEMPT: str(config.attempt),
    }


def container_labels(cluster: str, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> dict[str, str]:
    """All labels of a container in a sandbox."""
    log = {LOG_PATH: f"{sandbox.log_directory}/{config.log_path}"} if sandbox.log_directory and config.log_path else {}
    return {
        **config.labels,
        **{_ANNOTATION_PREFIX + name: value for name, value in config.annotations.items()},
        **_pod_labels(sandbox),
        LABEL_CONTAINER_NAME: config.name,
        CLUSTER: cluster,
        TYPE: TYPE_CONTAINER,
        SANDBOX_ID: sandbox_id,
        ATTEMPT: str(config.attempt),
        **log,
    }


def given_labels(found: Mapping[str, str]) -> dict[str, str]:
    """The labels as the kubelet gave them (and those that CRI knows), out of all that the engine has."""
    return {name: value for name, value in found.items() if not name.startswith((_RUNTIME_PREFIX, _ANNOTATION_PREFIX))}


def given_annotations(found: Mapping[str, str]) -> dict[str, str]:
    """The annotations as the kubelet gave them."""
    return {
        name.removeprefix(_ANNOTATION_PREFIX): value
        for name, value in found.items()
        if name.startswith(_ANNOTATION_PREFIX)
    }


def filters(cluster: str, kind: str = "", labels: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """The engine's list filter for this cluster's objects with these labels; both kinds when `kind` is empty."""
    wanted = {CLUSTER: cluster, **({TYPE: kind} if kind else {}), **(labels or {})}
    return {"label": [f"{name}={value}" for name, value in wanted.items()]}


def _pod_labels(config: SandboxConfig) -> dict[str, str]:
    return {LABEL_POD_NAME: config.name, LABEL_POD_NAMESPACE: config.namespace, LABEL_POD_UID: config.uid}
