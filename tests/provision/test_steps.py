"""The order in which a service is brought to its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from provision.local_cluster.program import Program
from provision.local_cluster.steps import run_service, start_ahead, waits
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

    def names(self) -> list[str]:
        return ["agent"] if self.running else []

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


@pytest.mark.parametrize(
    ("running", "other", "told", "restart", "done"),
    [
        # Started ahead, it reads its arguments when they are there.
        (True, False, None, False, ["install"]),
        (True, False, None, True, ["install"]),
        (True, True, None, False, ["stop", "install", "start"]),
        (False, False, None, False, ["install", "start"]),
        (True, False, "--a\n", False, ["install"]),
        (True, False, "--a\n", True, ["stop", "install", "start"]),
        (True, False, "--b\n", False, ["stop", "install", "start"]),
        (False, False, "--b\n", False, ["install", "start"]),
    ],
)
def test_a_program_is_told_its_arguments(
    tmp_path: Path, running: bool, other: bool, told: str | None, restart: bool, done: list[str]
) -> None:
    supervisor = Supervisor(running=running, other=other)
    program = Program(SPEC, tmp_path / "agent.args", ("--a",))
    if told is not None:
        program.arguments_file.write_text(told)
    anew = told is None or "start" in done
    assert run_service(cast("Any", supervisor), program, restart=restart) is anew
    assert supervisor.done == done
    assert program.arguments_file.read_text() == "--a\n"


def test_a_program_that_was_started_ahead(tmp_path: Path) -> None:
    supervisor = Supervisor(running=False, other=True)
    program = Program(SPEC, tmp_path / "agent.args", ())
    start_ahead(cast("Any", supervisor), program)
    assert supervisor.done == ["install", "start"]
    assert not program.told
    supervisor.running, supervisor.other = True, False
    assert waits(cast("Any", supervisor), program)
    supervisor.other = True  # one of another version of ktool, whose arguments are in its command line
    assert not waits(cast("Any", supervisor), program)
    supervisor.other = False
    program.tell()
    assert not waits(cast("Any", supervisor), program)
