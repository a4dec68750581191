"""The order in which a service is brought to its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from provision.local_cluster import preparation, restore
from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
from provision.local_cluster.program import Program
from provision.local_cluster.steps import run_service, start_ahead, waits
from provision.services.service import ServiceSpec, ServiceStatus

SPEC = ServiceSpec(name="agent", description="agent", argv=("/bin/true",), log_path=Path("/l"))


class Supervisor:
    """Notes what is done to its only service."""

    def __init__(self, *, running: bool, other: bool, restarts: int = 0) -> None:
        self.running = running
        self.other = other
        self.restarts = restarts
        self.done: list[str] = []

    def status(self, name: str) -> ServiceStatus:
        return ServiceStatus(name, running=self.running, restarts=self.restarts)

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


@pytest.mark.parametrize("told", [True, False])
def test_one_that_ended_while_it_waited_begins_anew(tmp_path: Path, told: bool) -> None:
    supervisor = Supervisor(running=True, other=False, restarts=3)
    program = Program(SPEC, tmp_path / "agent.args", ("--a",))
    if told:
        program.tell()
    assert run_service(cast("Any", supervisor), program) is not told
    assert supervisor.done == (["install"] if told else ["stop", "install", "start"])


@pytest.mark.parametrize(
    ("running", "other", "told", "done"),
    [
        (False, True, False, ["install", "start"]),
        (True, False, False, []),
        (True, True, False, ["stop", "install", "start"]),
        # Its settings must not change beside a process of the old ones.
        (True, True, True, []),
        (False, True, True, []),
    ],
)
def test_a_program_is_started_ahead(tmp_path: Path, running: bool, other: bool, told: bool, done: list[str]) -> None:
    supervisor = Supervisor(running=running, other=other)
    program = Program(SPEC, tmp_path / "agent.args", ())
    if told:
        program.tell()
    start_ahead(cast("Any", supervisor), program)
    assert supervisor.done == done
    assert program.told is told


@pytest.mark.parametrize(
    ("other", "file", "waiting"),
    [
        (False, "", True),
        # It was started by the runtime that a machine's image has, and another one is there by now.
        (True, "", True),
        # One of an earlier version of ktool has its arguments in its command line.
        (True, "agent/join.json", False),
        (True, "agent/pki/kubelet-client.crt", False),
        (False, "agent.args", False),
        (True, "agent.args", False),
    ],
)
def test_who_was_started_ahead(tmp_path: Path, other: bool, file: str, waiting: bool) -> None:
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    supervisor = Supervisor(running=True, other=other)
    config = LocalClusterConfig(data_dir=tmp_path)
    assert waits(config, cast("Any", supervisor), AGENT) is waiting
    assert not waits(config, cast("Any", supervisor), MASTER), "no such service"


@pytest.mark.parametrize("file", ["pki/ca.crt", "store/state.db", "etcd.yml", "agent/join.json"])
async def test_a_machine_of_a_cluster_is_not_loaded_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    supervisor = Supervisor(running=True, other=True)
    monkeypatch.setattr(preparation, "detect", lambda *_, **__: supervisor)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert await preparation.preload(LocalClusterConfig(data_dir=tmp_path)) is False
    assert supervisor.done == []
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {file.split("/")[0]}


def test_a_backup_is_not_brought_back_by_a_master_that_waits(tmp_path: Path) -> None:
    supervisor = Supervisor(running=True, other=False)
    config = LocalClusterConfig(data_dir=tmp_path)
    assert restore._services(config, cast("Any", supervisor)) == []
    config.program(AGENT).tell()
    assert restore._services(config, cast("Any", supervisor)) == [AGENT]
