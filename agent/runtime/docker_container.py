"""Containers on Docker Engine: from what is wanted to the body of a create request, from an inspection to a status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.runtime import docker_labels, docker_times, oom_score
from agent.runtime.container import (
    Container,
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    Mount,
    Security,
)
from agent.runtime.docker_sandbox import NodeLimits, cgroup_parent
from agent.runtime.runtime import LABEL_CONTAINER_NAME
from agent.runtime.sandbox import SandboxConfig

# Kubernetes: containerLogMaxSize and containerLogMaxFiles.
_LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}

# Exit code of a process that SIGKILL ended.
_KILLED = 137

_STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
}


def creation(
    sandbox_id: str,
    config: ContainerConfig,
    sandbox: SandboxConfig,
    *,
    cluster: str,
    limits: NodeLimits,
    image_user: str = "",
) -> dict[str, Any]:
    """The body of the engine's create request for a container in a sandbox.

    `image_user` is the image's own user (`user[:group]`), which counts where only a group is asked for.
    """
    joined = f"container:{sandbox_id}"
    resources, security = config.resources, config.security
    host: dict[str, Any] = {
        "NetworkMode": joined,
        "IpcMode": "host" if sandbox.host_ipc else joined,
        "PidMode": "host" if sandbox.host_pid else joined if sandbox.share_process_namespace else "",
        "UTSMode": "host" if sandbox.host_network else "",
        "CgroupParent": cgroup_parent(sandbox.cgroup_parent, limits.cgroup_driver),
        "CpuShares": resources.cpu_shares,
        "CpuQuota": resources.cpu_quota,
        "CpuPeriod": resources.cpu_period,
        "Memory": resources.memory_limit_bytes,
        # Kubernetes: a limit on memory is not a licence to swap.
        "MemorySwap": resources.memory_limit_bytes,
        "OomScoreAdj": oom_score.clamp(resources.oom_score_adj, limits.lowest_oom_score),
        "Mounts": [_mount(mount) for mount in config.mounts],
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.read_only_root,
        "CapAdd": list(security.add_capabilities),
        "CapDrop": list(security.drop_capabilities),
        "GroupAdd": [str(group) for group in security.supplemental_groups],
        "SecurityOpt": ["no-new-privileges"] if security.no_new_privileges else [],
        "LogConfig": _LOG_CONFIG,
        "RestartPolicy": {"Name": "no"},  # restarting is the kubelet's decision
    }
    body: dict[str, Any] = {
        "Image": config.image,
        "User": _user(security, image_user),
        "WorkingDir": config.working_dir,
        "Env": [f"{name}={value}" for name, value in config.env],
        "Labels": docker_labels.container_labels(cluster, sandbox_id, config, sandbox),
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Tty": config.tty,
        "Healthcheck": {"Test": ["NONE"]},  # the pod's probes count, not the image's
        "HostConfig": host,
    }
    if config.command:
        body["Entrypoint"] = list(config.command)
    if config.args:
        body["Cmd"] = list(config.args)
    if config.stop_signal:
        body["StopSignal"] = config.stop_signal
    return body


def listed(found: Mapping[str, Any]) -> Container:
    """One entry of the engine's container list."""
    labels = found.get("Labels") or {}
    return Container(
        id=found["Id"],
        **_identity(labels),
        state=_STATES.get(found.get("State", ""), ContainerState.UNKNOWN),
        image=found.get("Image", ""),
        image_id=found.get("ImageID", ""),
        created_at=datetime.fromtimestamp(found.get("Created", 0), UTC),
    )


def inspected(found: Mapping[str, Any], *, out_of_memory: bool = False) -> ContainerStatus:
    """An inspected container.

    `out_of_memory`: the engine had an `oom` event of it. Where that comes after the end, the engine's own record does
    not have it.
    """
    config, state = found.get("Config") or {}, found.get("State") or {}
    status = _STATES.get(state.get("Status", ""), ContainerState.UNKNOWN)
    started, finished = docker_times.parse(state.get("StartedAt", "")), docker_times.parse(state.get("FinishedAt", ""))
    code = state.get("ExitCode", 0)
    reason = ""
    if status is ContainerState.CREATED and code != 0:
        # The engine tried to start it and failed; to Kubernetes it has come and gone.
        status, reason = ContainerState.EXITED, "ContainerCannotRun"
        started = finished = docker_times.parse(found.get("Created", ""))
    elif status is ContainerState.EXITED:
        killed = state.get("OOMKilled") or (out_of_memory and code == _KILLED)
        reason = "OOMKilled" if killed else "Completed" if code == 0 else "Error"
    ended = status is ContainerState.EXITED
    labels = config.get("Labels") or {}
    return ContainerStatus(
        id=found["Id"],
        **_identity(labels),
        state=status,
        image=config.get("Image", ""),
        image_id=found.get("Image", ""),
        created_at=docker_times.parse_known(found.get("Created", "")),
        started_at=started,
        finished_at=finished if ended else None,
        exit_code=code if ended else None,
        reason=reason,
        message=state.get("Error", ""),
        log_path=labels.get(docker_labels.LOG_PATH, ""),
    )


def _identity(labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "sandbox_id": labels.get(docker_labels.SANDBOX_ID, ""),
        "name": labels.get(LABEL_CONTAINER_NAME, ""),
        "attempt": int(labels.get(docker_labels.ATTEMPT, "0")),
        "labels": docker_labels.given_labels(labels),
        "annotations": docker_labels.given_annotations(labels),
    }


def _mount(mount: Mount) -> dict[str, Any]:
    # As a mount, not as a bind: a missing source is then an error instead of a new empty directory.
    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Target": mount.container_path,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation.value},
    }


def _user(security: Security, image_user: str) -> str:
    user, group = security.run_as_user, security.run_as_group
    if group is None:
        return "" if user is None else str(user)
    return f"{image_user.partition(':')[0] or '0' if user is None else user}:{group}"
