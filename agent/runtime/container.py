"""Containers: what one is to be, what it is, what it uses (CRI: ContainerConfig, ContainerStatus, ContainerStats)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field


class ContainerState(StrEnum):
    """CRI: ContainerState."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    UNKNOWN = "UNKNOWN"


class MountPropagation(StrEnum):
    """Whether mounts made on one side appear on the other (CRI: MountPropagation; the values are the kernel's)."""

    PRIVATE = "rprivate"
    HOST_TO_CONTAINER = "rslave"
    BIDIRECTIONAL = "rshared"


class Mount(Struct, frozen=True):
    """A file or directory of the host inside the container (CRI: Mount). `host_path` must exist."""

    host_path: str
    container_path: str
    read_only: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE


class Resources(Struct, frozen=True):
    """Limits in the kernel's units (CRI: LinuxContainerResources); 0 leaves the runtime's default.

    `cpu_quota` and `cpu_period` are microseconds. `oom_score_adj` is raised where the node may not go that low.
    """

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    memory_limit_bytes: int = 0
    oom_score_adj: int = 0


class Security(Struct, frozen=True):
    """Who the process is and what it may (CRI: LinuxContainerSecurityContext). None leaves what the image says.

    Capabilities are named without `CAP_`; `ALL` stands for all of them.
    """

    privileged: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    read_only_root: bool = False
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False


class ContainerConfig(Struct, frozen=True):
    """What a container is to be (CRI: ContainerConfig).

    `attempt` counts the containers of this name in the pod. `image` is a reference or an ID of an image that is on
    the node. `command` replaces the image's entry point, `args` its arguments; as in Kubernetes, a `command` without
    `args` drops the image's arguments. `log_path` is relative to the sandbox's `log_directory`. With `stdin` the
    process has a standard input that `attach` reaches; it ends with the first attached client if `stdin_once`.
    """

    name: str
    image: str
    attempt: int = 0
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    security: Security = Security()
    stop_signal: str = ""


class Container(Struct, frozen=True):
    """A container as listed (CRI: Container). `image` is what its configuration named, `image_id` what that was."""

    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: ContainerState
    image: str
    image_id: str
    created_at: datetime
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class ContainerStatus(Container, frozen=True):
    """A container in detail (CRI: ContainerStatus).

    `exit_code` is None until it has ended. `reason` is one word for an ended container: Completed, Error, OOMKilled
    or ContainerCannotRun (it never started; `message` says why).
    """

    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    log_path: str = ""


class ContainerStats(Struct, frozen=True):
    """What a running container uses (CRI: ContainerStats).

    `cpu_usage_ns` is CPU time since its start, in nanoseconds; the working set is memory that cannot be reclaimed
    at once (usage without inactive page cache).
    """

    id: str
    name: str
    labels: Mapping[str, str]
    timestamp: datetime
    cpu_usage_ns: int
    memory_working_set_bytes: int
    memory_usage_bytes: int
    memory_limit_bytes: int
