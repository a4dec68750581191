"""What a service is, whoever keeps it running.

A service is restarted within about a second when it dies, and more and more slowly when it dies at once each time.
Stopping or restarting a service touches its one process only: what the process started (containers, above all) lives
on. The command line may end or crash, services do not notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

LOG_ROTATION_BYTES = 32 * 1024 * 1024


class RestartPolicy(StrEnum):
    """When a service that ended is started again (systemd: `Restart=`)."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "no"


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits of the process; None leaves what the machine gives."""

    open_files: int | None = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One long-running process.

    `name` is a DNS label; `argv[0]` an absolute path; `env` is added to a minimal environment (secrets belong neither
    here nor in `argv`, but in files); `after` names services that start earlier and stop later; output goes to
    `log_path`; `stop_timeout` is how many seconds the process gets between SIGTERM and SIGKILL. `pid_files` are where
    it notes processes of its own that end with it; it may wait in vain for one that has ended and that nobody has
    reaped, so a supervisor on a machine whose pid 1 is slow at that removes such notes before a start. `autostart`
    starts it with the machine, where the supervisor itself starts with that (systemd). `succession` lets the process
    name another one that goes on in its place (sd_notify(3): MAINPID), where the supervisor can be told.
    """

    name: str
    description: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    restart: RestartPolicy = RestartPolicy.ALWAYS
    stop_timeout: float = 15.0
    pid_files: tuple[Path, ...] = ()
    limits: Limits = Limits()
    autostart: bool = True
    succession: bool = False


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How a service is doing. `restarts` counts starts after the first since it was last started on request;
    `uptime` is in seconds; `state` is the supervisor's own word, for people."""

    name: str
    running: bool
    pid: int | None = None
    restarts: int = 0
    uptime: float = 0.0
    state: str = ""


class ServiceSupervisor(Protocol):
    """Keeps services running. Every method may be called again with nothing left to do."""

    @property
    def name(self) -> str:
        """What people call it: `systemd`, `supervisord`."""
        ...

    def install(self, spec: ServiceSpec) -> bool:
        """Make the service known, as `spec` says; True if that differs from what was known before (or is new).

        A running service keeps running as it is until it is started again.
        """
        ...

    def differs(self, spec: ServiceSpec) -> bool:
        """Whether the service is known otherwise than `spec` says, or not at all: whether `install` would be True."""
        ...

    def start(self, name: str) -> None:
        """Have the service running; a running one is left alone. KtoolError if it cannot be started."""
        ...

    def stop(self, name: str, *, timeout: float | None = None) -> None:
        """Have the service's process ended: SIGTERM, and SIGKILL after `timeout` (the spec's, if None) seconds."""
        ...

    def recover(self) -> list[str]:
        """After the supervisor itself was killed: have it running again. Gives the services that had gone on without
        it; they are ended, for the caller to start anew."""
        ...

    def status(self, name: str) -> ServiceStatus:
        """The service's state; `running` is False for one that is not known."""
        ...

    def log_path(self, name: str) -> Path | None:
        """Where the service's output goes; None for a service that is not known."""
        ...

    def names(self) -> list[str]:
        """Services that are known, in the order in which they start."""
        ...

    def remove(self, name: str) -> None:
        """Stop the service and forget it; the log stays."""
        ...

    def shutdown(self) -> None:
        """Stop and forget all services, then the supervisor itself where it is ours; leaves none of its files."""
        ...


def tail(path: Path | None, *, lines: int = 15) -> str:
    """The last `lines` lines of a log, empty if there is none."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
