"""Units and systemctl calls of SystemdServices, with a recorder in the place of systemctl."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.command import CommandFailed
from provision.services.service import LOG_ROTATION_BYTES, Limits, RestartPolicy, ServiceSpec
from provision.services.systemd import SystemdServices, parse_show, quote, rotation, unit_text

SPEC = ServiceSpec(
    name="agent",
    description="ktool agent 100%",
    argv=("/opt/ktool/bin/python", "-m", "agent", "--label", "a b=$c"),
    env={"COLOUR": "light blue"},
    after=("master",),
    log_path=Path("/var/lib/ktool/log/agent.log"),
    stop_timeout=20,
    limits=Limits(open_files=1000),
)

UNIT = """\
# Written by ktool; `ktool down` removes it.
[Unit]
Description=ktool agent 100%%
After=network-online.target docker.service ktool-master.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStartPre=/bin/sh -c "if [ $$(stat -c %%s /var/lib/ktool/log/agent.log) -gt 33554432 ]; then mv -f \
/var/lib/ktool/log/agent.log /var/lib/ktool/log/agent.log.1; fi"
ExecStart=/opt/ktool/bin/python -m agent --label "a b=$$c"
Environment="COLOUR=light blue"
Environment=KTOOL_SERVICE=/var/lib/ktool:agent
StandardOutput=append:/var/lib/ktool/log/agent.log
StandardError=append:/var/lib/ktool/log/agent.log
Restart=always
RestartSec=500ms
TimeoutStopSec=20
KillMode=process
Delegate=yes
LimitNOFILE=1000

[Install]
WantedBy=multi-user.target
"""


class Systemctl:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: dict[str, str | CommandFailed] = {}

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        assert argv[0] == "systemctl"
        self.calls.append(" ".join(argv[1:]))
        answer = self.answers.get(argv[1], "")
        if isinstance(answer, CommandFailed):
            raise answer
        return answer


@pytest.fixture
def systemctl() -> Systemctl:
    return Systemctl()


@pytest.fixture
def services(tmp_path: Path, systemctl: Systemctl) -> SystemdServices:
    return SystemdServices(tmp_path / "data", unit_directory=tmp_path, runner=systemctl)


def local(tmp_path: Path, name: str, *after: str) -> ServiceSpec:
    log = tmp_path / "log" / f"{name}.log"
    return ServiceSpec(name=name, description=name, argv=("/bin/true",), log_path=log, after=after)


def test_unit() -> None:
    assert unit_text(SPEC, prefix="ktool-", data_dir=Path("/var/lib/ktool")) == UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    spec = ServiceSpec(
        name="probe",
        description="50% of $it",
        argv=("/bin/sh", "-c", "echo \"a\" 'b' $c 100%"),
        log_path=tmp_path / "l",
    )
    unit = tmp_path / "ktool-probe.service"
    unit.write_text(unit_text(spec, prefix="ktool-", data_dir=tmp_path))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "ktool-probe" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ("50%", "50%%"),
        ("$HOME", '"$$HOME"'),
        ('say "x"', '"say \\"x\\""'),
    ],
)
def test_quote(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_install_is_idempotent(services: SystemdServices, systemctl: Systemctl, tmp_path: Path) -> None:
    assert services.differs(local(tmp_path, "master")) is True
    assert services.install(local(tmp_path, "master")) is True
    assert services.install(local(tmp_path, "master")) is False
    assert services.differs(local(tmp_path, "master")) is False
    assert systemctl.calls == []
    changed = dataclasses.replace(local(tmp_path, "master"), argv=("/bin/false",))
    assert services.differs(changed) is True
    assert services.install(changed) is True
    assert systemctl.calls == ["daemon-reload", "enable --quiet --no-reload ktool-master.service"]
    assert services.log_path("master") == tmp_path / "log" / "master.log"


def test_a_new_unit_is_started_without_reading_all_others_again(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    services.install(local(tmp_path, "master"))
    systemctl.calls.clear()
    services.start("master")
    services.start("master")
    unit = "ktool-master.service"
    start = f"enable --quiet --no-reload --now {unit}"
    assert systemctl.calls == [start, f"show {unit} --property=NeedDaemonReload", f"reset-failed {unit}", start]


def test_a_unit_that_does_not_start_with_the_machine(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    spec = local(tmp_path, "master")
    services.install(spec)
    services.install(dataclasses.replace(spec, autostart=False))
    systemctl_calls = ["daemon-reload", "disable --quiet --no-reload ktool-master.service"]
    assert systemctl.calls == systemctl_calls
    services.start("master")
    assert systemctl.calls[-1] == "start ktool-master.service"


def test_a_unit_that_systemd_remembers_as_missing(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    services.install(local(tmp_path, "master"))
    systemctl.calls.clear()
    systemctl.answers["enable"] = CommandFailed(["systemctl", "enable"], 5, "Unit ktool-master.service not found.")
    with pytest.raises(KtoolError, match="cannot be started"):
        services.start("master")
    start = "enable --quiet --no-reload --now ktool-master.service"
    assert systemctl.calls == [start, "daemon-reload", start]


def test_what_another_run_wrote_before_it_was_killed(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    """systemd has not heard of it, whether the unit was new or another one before."""
    services.install(local(tmp_path, "master"))
    again = SystemdServices(tmp_path / "data", unit_directory=tmp_path, runner=systemctl)
    assert again.differs(local(tmp_path, "master")) is False
    systemctl.answers["show"] = "NeedDaemonReload=yes\n"
    again.start("master")
    unit = "ktool-master.service"
    start = f"enable --quiet --no-reload --now {unit}"
    assert systemctl.calls[1:] == ["daemon-reload", f"reset-failed {unit}", start]
    systemctl.calls.clear()
    systemctl.answers["show"] = "NeedDaemonReload=no\n"
    systemctl.answers["enable"] = CommandFailed(["systemctl", "enable"], 5, f"Unit {unit} not found.")
    with pytest.raises(KtoolError, match="cannot be started"):
        again.start("master")
    assert systemctl.calls[-3:] == [start, "daemon-reload", start]


def test_names_in_starting_order_and_removal_in_reverse(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    (tmp_path / "other.service").write_text("[Unit]\n")
    for name, after in (("agent", "master"), ("master", "store"), ("store", "nothing")):
        services.install(local(tmp_path, name, after))
    assert services.names() == ["store", "master", "agent"]
    systemctl.calls.clear()
    services.shutdown()
    stops = [call for call in systemctl.calls if call.startswith("stop")]
    assert stops == ["stop ktool-agent.service", "stop ktool-master.service", "stop ktool-store.service"]
    assert [path.name for path in tmp_path.glob("*.service")] == ["other.service"]
    systemctl.calls.clear()
    services.shutdown()
    assert systemctl.calls == []


def test_stop_with_a_timeout_kills_the_main_process_only(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    services.install(local(tmp_path, "agent"))
    systemctl.calls.clear()
    systemctl.answers["stop"] = CommandFailed(["systemctl", "stop"], None, "no end")
    with pytest.raises(CommandFailed):
        services.stop("agent", timeout=1)
    assert systemctl.calls[1] == "kill --signal=SIGKILL --kill-who=main ktool-agent.service"


def test_status() -> None:
    text = "ActiveState=active\nSubState=running\nMainPID=77\nNRestarts=2\nActiveEnterTimestampMonotonic=5000000\n"
    status = parse_show("agent", text, now=65.0)
    assert (status.running, status.pid, status.restarts, status.uptime) == (True, 77, 2, 60.0)
    assert status.state == "active (running)"
    assert parse_show("agent", "ActiveState=failed\nMainPID=0\n", now=1.0).running is False


def test_unknown_service(services: SystemdServices) -> None:
    assert services.status("x").running is False
    services.stop("x")
    services.remove("x")
    assert services.log_path("x") is None


def test_restart_policies() -> None:
    assert [policy.value for policy in RestartPolicy] == ["always", "on-failure", "no"]


def test_units_of_another_data_directory_are_left_alone(
    services: SystemdServices, systemctl: Systemctl, tmp_path: Path
) -> None:
    services.install(local(tmp_path, "master"))
    unit = (tmp_path / "ktool-master.service").read_text()
    systemctl.calls.clear()
    other = SystemdServices(tmp_path / "other", unit_directory=tmp_path, runner=systemctl)
    assert other.names() == []
    assert not other.status("master").running
    assert other.log_path("master") is None
    other.stop("master")
    other.remove("master")
    other.shutdown()
    with pytest.raises(KtoolError) as raised:
        other.install(local(tmp_path, "master"))
    assert "ktool-master.service" in raised.value.what
    assert systemctl.calls == []
    assert (tmp_path / "ktool-master.service").read_text() == unit


def test_a_long_log_is_put_aside_before_a_start(tmp_path: Path) -> None:
    log = tmp_path / "a log"
    for size, left in ((LOG_ROTATION_BYTES, ["a log"]), (LOG_ROTATION_BYTES + 1, ["a log.1"])):
        with log.open("wb") as file:
            file.truncate(size)
        subprocess.run(["/bin/sh", "-c", rotation(log)], check=True, timeout=10)
        assert [path.name for path in tmp_path.iterdir()] == left
