"""The order in which a service is brought to its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from provision.local_cluster.steps import run_service
from provision.services.service import ServiceSpec, ServiceStatus

SPEC = ServiceSpec(name="agent", description="agent", argv=("/bin/true",), log_path=Path("/l"))


class Supervisor:
    """Notes what is done to its only service."""

    def __init__(self, *, running: bool, other: bool) -> None:
        self.running = running
        self.other = other
        self.done: list[str] = []

    def status(self, name: str) -> ServiceStatus:
        return ServiceStatus(name, running=self.running)

    def differs(self, spec: ServiceSpec) -> bool:
        return self.other

    def install(self, spec: ServiceSpec) -> bool:
        self.done.append("install")
        return self.other

    def stop(self, name: str) -> None:
        self.done.append("stop")

    def start(self, name: str) -> None:
        self.done.append("start")


@pytest.mark.parametrize(
    ("running", "other", "restart", "done"),
    [
        (True, False, False, ["install"]),
        # First stopped: killed after "install", the next run would take what runs for what is wanted.
        (True, True, False, ["stop", "install", "start"]),
        (True, False, True, ["stop", "install", "start"]),
        (False, True, False, ["install", "start"]),
        (False, False, False, ["install", "start"]),
        (False, False, True, ["install", "start"]),
    ],
)
def test_a_service_is_stopped_before_its_settings_change(
    running: bool, other: bool, restart: bool, done: list[str]
) -> None:
    supervisor = Supervisor(running=running, other=other)
    assert run_service(cast("Any", supervisor), SPEC, restart=restart) is ("start" in done)
    assert supervisor.done == done
