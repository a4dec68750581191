"""supervisord for real: processes start, are restarted after kill -9, outlive their starter, and are found again."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision import processes
from provision.services.service import Limits, RestartPolicy, ServiceSpec, tail
from provision.services.supervisord import SupervisordServices, priority, run_script
from tests.provision.conftest import eventually

SLEEPER = "import os, time; print('hello from', os.getpid(), os.environ.get('COLOUR'), flush=True); time.sleep(600)"


def spec(directory: Path, name: str = "sleeper", *, code: str = SLEEPER, **changes: object) -> ServiceSpec:
    fields: dict[str, object] = {
        "name": name,
        "description": "a process of a test",
        "argv": (sys.executable, "-c", code),
        "log_path": directory / "log" / f"{name}.log",
        "env": {"COLOUR": "it's %green"},
        "stop_timeout": 5.0,
    }
    return ServiceSpec(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def services(short_dir: Path) -> Iterator[SupervisordServices]:
    supervisor = SupervisordServices(short_dir)
    yield supervisor
    supervisor.shutdown()


def pid_of(services: SupervisordServices, name: str = "sleeper") -> int:
    pid = services.status(name).pid
    assert pid is not None
    return pid


def test_starts_runs_and_stops(services: SupervisordServices, short_dir: Path) -> None:
    assert services.install(spec(short_dir)) is True
    assert services.install(spec(short_dir)) is False
    assert services.status("sleeper").running is False
    services.start("sleeper")
    services.start("sleeper")
    eventually(lambda: "hello" in tail(short_dir / "log" / "sleeper.log"))
    status = services.status("sleeper")
    assert status.running
    assert status.restarts == 0
    assert (short_dir / "log" / "sleeper.log").read_text() == f"hello from {status.pid} it's %green\n"
    assert os.getsid(pid_of(services)) != os.getsid(0)
    services.stop("sleeper")
    assert services.status("sleeper").running is False
    assert not processes.is_alive(status.pid or 0)
    assert services.status("no-such-service").running is False


def test_is_restarted_within_two_seconds_after_kill_9(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir))
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").state == "RUNNING")
    first = pid_of(services)
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: services.status("sleeper").pid not in (None, first), timeout=5)
    assert time.monotonic() - killed < 2.5
    assert services.status("sleeper").restarts == 1


def test_backs_off_from_a_service_that_ends_at_once(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir, code="raise SystemExit(3)"))
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").state == "BACKOFF")
    time.sleep(3)
    assert 1 <= services.status("sleeper").restarts <= 3


def test_never_restarted_when_so_wished(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir, code="import time; time.sleep(1.2)", restart=RestartPolicy.NEVER))
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").state == "EXITED")
    assert services.status("sleeper").restarts == 0


def test_a_changed_spec_takes_effect_with_the_next_start(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir))
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").running)
    blue = spec(short_dir, env={"COLOUR": "blue"})
    assert services.differs(spec(short_dir)) is False
    assert services.differs(blue) is True
    assert services.install(blue) is True
    services.stop("sleeper")
    services.start("sleeper")
    eventually(lambda: "blue" in tail(short_dir / "log" / "sleeper.log"))


def test_a_service_that_is_as_before_runs_on_whatever_is_installed_beside_it(
    services: SupervisordServices, short_dir: Path
) -> None:
    late = spec(short_dir, "late", after=("sleeper",))
    services.install(late)
    services.start("late")
    eventually(lambda: services.status("late").running)
    first = pid_of(services, "late")
    services.install(spec(short_dir))
    assert services.install(late) is False
    services.start("sleeper")  # supervisord reads all its files again
    eventually(lambda: services.status("sleeper").running)
    assert pid_of(services, "late") == first


def test_children_of_a_stopped_service_live_on(services: SupervisordServices, short_dir: Path) -> None:
    code = (
        "import subprocess, time; child = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    services.install(spec(short_dir, code=code))
    services.start("sleeper")
    log = short_dir / "log" / "sleeper.log"
    eventually(lambda: log.exists() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    try:
        services.stop("sleeper")
        assert processes.is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_after_kill_9_of_supervisord_services_live_on_and_are_not_doubled(
    services: SupervisordServices, short_dir: Path
) -> None:
    services.install(spec(short_dir))
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").state == "RUNNING")
    orphan = pid_of(services)
    supervisor = services.supervisor_pid()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: services.supervisor_pid() is None)
    assert services.status("sleeper").state == "ORPHANED"
    assert services.status("sleeper").pid == orphan
    services.start("sleeper")
    eventually(lambda: services.status("sleeper").state == "RUNNING")
    assert pid_of(services) != orphan
    assert not processes.is_alive(orphan)


def test_orphans_are_ended_at_once_and_the_supervisor_recovers(services: SupervisordServices, short_dir: Path) -> None:
    for name in ("first", "second"):
        services.install(spec(short_dir, name))
        services.start(name)
        eventually(lambda name=name: services.status(name).state == "RUNNING")
    assert services.recover() == []
    supervisor = services.supervisor_pid()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: services.supervisor_pid() is None)
    pids = {name: pid_of(services, name) for name in ("first", "second")}

    begun = time.monotonic()
    services.stop("first")
    assert time.monotonic() - begun < 3  # the spec's patience of 5 s is for processes that don't end by themselves
    assert not processes.is_alive(pids["first"])

    assert services.recover() == ["second"]
    assert services.supervisor_pid() is not None
    assert not processes.is_alive(pids["second"])
    assert not services.status("second").running
    services.start("second")
    eventually(lambda: services.status("second").state == "RUNNING")


def test_outlives_the_process_that_started_it(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir))
    code = (
        "import sys; from pathlib import Path; from provision.services.supervisord import SupervisordServices;"
        "SupervisordServices(Path(sys.argv[1])).start('sleeper')"
    )
    subprocess.run([sys.executable, "-c", code, str(short_dir)], check=True, timeout=30)
    eventually(lambda: services.status("sleeper").state == "RUNNING")


def test_shutdown_leaves_no_process_and_no_file(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir, "first"))
    services.install(spec(short_dir, "second", after=("first",)))
    for name in services.names():
        services.start(name)
    assert services.names() == ["first", "second"]
    # A process is running from its fork on, before its shell has opened the log.
    eventually(lambda: all("hello" in tail(short_dir / "log" / f"{name}.log") for name in services.names()))
    pids = [pid_of(services, name) for name in services.names()] + [services.supervisor_pid() or 0]
    services.shutdown()
    services.shutdown()
    assert not any(processes.is_alive(pid) for pid in pids)
    assert sorted(path.name for path in short_dir.rglob("*") if path.is_file()) == [
        "first.log",
        "second.log",
        "supervisord.log",
    ]


def test_the_socket_is_for_its_owner_only(services: SupervisordServices, short_dir: Path) -> None:
    services.install(spec(short_dir))
    services.start("sleeper")
    assert stat.S_IMODE((short_dir / "run" / "supervisor.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((short_dir / "run").stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="too long"):
        SupervisordServices(tmp_path / ("x" * 100)).install(spec(tmp_path))


def test_run_script_is_the_whole_truth_of_a_start(tmp_path: Path) -> None:
    text = run_script(
        spec(Path("/d"), argv=("/bin/a b", "--flag", "$HOME"), limits=Limits(open_files=99)),
        run_dir=Path("/d/run"),
        mark="KTOOL_SERVICE=/d:sleeper",
    )
    assert "ulimit -n 99 " in text
    assert "export KTOOL_SERVICE=/d:sleeper\n" in text
    assert "export COLOUR='it'\"'\"'s %green'\n" in text
    assert text.endswith("exec '/bin/a b' --flag '$HOME' >> /d/log/sleeper.log 2>&1\n")


def test_notes_of_dead_processes_are_removed_before_a_start(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    zombie = subprocess.Popen(["true"])  # not waited for until the end
    pids = {"zombie": zombie.pid, "gone": 1 << 22, "alive": os.getpid()}
    for name, pid in pids.items():
        (tmp_path / name).write_text(str(pid))
    files = tuple(tmp_path / name for name in (*pids, "absent"))
    one = spec(tmp_path, argv=("/bin/true",), pid_files=files)
    try:
        eventually(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        text = run_script(one, run_dir=tmp_path, mark="KTOOL_SERVICE=x:y")
        subprocess.run(["sh", "-c", text], check=True, timeout=10)
    finally:
        zombie.wait()
    assert [file.name for file in files if file.exists()] == ["alive"]


def test_priority_follows_after(tmp_path: Path) -> None:
    specs = {
        "docker": spec(tmp_path, "docker"),
        "master": spec(tmp_path, "master"),
        "agent": spec(tmp_path, "agent", after=("docker", "master")),
        "late": spec(tmp_path, "late", after=("agent", "unknown")),
    }
    assert {name: priority(one, specs) for name, one in specs.items()} == {
        "docker": 100,
        "master": 100,
        "agent": 101,
        "late": 102,
    }
    specs["docker"] = spec(tmp_path, "docker", after=("late",))
    with pytest.raises(ValueError, match="after each other"):
        priority(specs["agent"], specs)
