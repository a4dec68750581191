"""A service is brought to its settings by whoever comes next, wherever the one before was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from provision.local_cluster import program as programs
from provision.local_cluster.program import Program
from provision.local_cluster.steps import run_service, start_ahead
from provision.services.service import ServiceSpec, ServiceStatus

SPEC = ServiceSpec(name="agent", description="agent", argv=("python", "@agent.args"), log_path=Path("/l"))
OTHER_RUNTIME = replace(SPEC, env={"KTOOL_RUNTIME": "before"})
EARLIER_VERSION = replace(SPEC, argv=("python", "--a", "old"))


class Killed(BaseException):
    """kill -9."""


@dataclass
class Process:
    """What it was started with; its arguments are read once, when they are there."""

    spec: ServiceSpec
    arguments: str | None = None


class Machine:
    """A supervisor with one service, its process, and the file with its arguments. The command that works on it is
    killed before the deed number `end`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "agent.args"
        self.unit: ServiceSpec | None = None
        self.process: Process | None = None
        self.end = -1

    def deed(self) -> None:
        if self.end == 0:
            raise Killed
        self.end -= 1

    def reads(self) -> None:
        process = self.process
        if process and process.arguments is None and "@agent.args" in process.spec.argv and self.file.exists():
            process.arguments = self.file.read_text()

    def reboot(self) -> None:
        self.process = Process(self.unit) if self.unit else None
        self.reads()

    def write(self, path: Path, data: bytes) -> None:
        self.deed()
        path.write_bytes(data)
        self.reads()

    # ---- ServiceSupervisor

    def status(self, name: str) -> ServiceStatus:
        return ServiceStatus(name, running=self.process is not None)

    def names(self) -> list[str]:
        return ["agent"] if self.unit else []

    def differs(self, spec: ServiceSpec) -> bool:
        return self.unit != spec

    def install(self, spec: ServiceSpec) -> bool:
        self.deed()
        self.unit = spec
        return True

    def stop(self, name: str) -> None:
        self.deed()
        self.process = None

    def start(self, name: str) -> None:
        self.deed()
        if self.process is None:
            self.reboot()


def nothing(machine: Machine) -> None:
    pass


def earlier(machine: Machine) -> None:
    machine.unit, machine.process = EARLIER_VERSION, Process(EARLIER_VERSION, "in its command line")


def waits(machine: Machine) -> None:
    machine.unit, machine.process = SPEC, Process(SPEC)


def waits_of_another_runtime(machine: Machine) -> None:
    machine.unit, machine.process = OTHER_RUNTIME, Process(OTHER_RUNTIME)


def told(machine: Machine) -> None:
    machine.file.write_text("--a\nnew\n")
    waits(machine)
    machine.reads()


def told_otherwise(machine: Machine) -> None:
    machine.file.write_text("--a\nold\n")
    waits_of_another_runtime(machine)
    machine.reads()


@pytest.mark.parametrize("before", [nothing, earlier, waits, waits_of_another_runtime, told, told_otherwise])
@pytest.mark.parametrize("first", [run_service, start_ahead])
@pytest.mark.parametrize("reboot", [False, True])
@pytest.mark.parametrize("end", range(5))
def test_the_next_run_finishes_what_was_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Machine], None],
    first: Callable[[Any, Program], object],
    reboot: bool,
    end: int,
) -> None:
    machine = Machine(tmp_path)
    monkeypatch.setattr(programs, "write_atomic", machine.write)
    before(machine)
    program = Program(SPEC, machine.file, ("--a", "new"))
    machine.end = end
    with contextlib.suppress(Killed):
        first(cast("Any", machine), program)
    machine.end = -1
    if reboot:
        machine.reboot()
    run_service(cast("Any", machine), program)
    assert machine.process == Process(SPEC, "--a\nnew\n")
    pid = machine.process
    assert run_service(cast("Any", machine), program) is False
    assert machine.process is pid
