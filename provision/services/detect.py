"""Which supervisor this machine has."""

from __future__ import annotations

from pathlib import Path

from kube.errors import KtoolError
from provision.services.service import ServiceSupervisor
from provision.services.supervisord import SupervisordServices
from provision.services.systemd import SystemdServices, is_running


def detect(data_dir: Path, *, wanted: str = "auto") -> ServiceSupervisor:
    """The supervisor for services of `data_dir`.

    `auto` is systemd where it is pid 1, supervisord elsewhere; a data directory that has services under supervisord
    keeps it. `wanted` may also name one of the two. Raises KtoolError for any other word, or for systemd where it
    does not run.
    """
    match wanted:
        case "supervisord":
            return SupervisordServices(data_dir)
        case "systemd" if is_running():
            return SystemdServices(data_dir)
        case "auto":
            supervised = SupervisordServices(data_dir)
            return supervised if supervised.names() or not is_running() else SystemdServices(data_dir)
    raise KtoolError(
        "no such supervisor on this machine",
        found=wanted,
        wanted="auto, supervisord" + (", systemd" if is_running() else " (systemd is not pid 1 here)"),
    )
