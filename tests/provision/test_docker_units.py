"""What becomes of Debian's Docker units, with a recorder in the place of systemctl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision import docker_units
from provision.command import CommandFailed, Runner
from provision.docker_units import CONTAINERD, ENGINE, SOCKET, UnitStates

DISTURBED = UnitStates(active=(ENGINE, SOCKET, CONTAINERD), enabled=(ENGINE,))


class Systemd:
    """Answers `systemctl` as systemd does, for the three units."""

    def __init__(self, states: UnitStates) -> None:
        self.active, self.enabled = set(states.active), set(states.enabled)
        self.calls: list[str] = []

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        assert argv[0] == "systemctl"
        match [word for word in argv[1:] if word not in ("--value", "--quiet")]:
            case ["show", "--property=ActiveState", unit]:
                return "active\n" if unit in self.active else "inactive\n"
            case ["show", "--property=UnitFileState", unit]:
                return "enabled\n" if unit in self.enabled else "disabled\n"
            case ["enable", "--now", unit]:
                self.enabled.add(unit)
                self.active |= {SOCKET, CONTAINERD, unit}
            case ["stop", *units]:
                self.active -= set(units)
            case ["start", *units]:
                self.active |= set(units)
            case ["disable", *units]:
                self.enabled -= set(units)
            case ["cat", _]:
                raise CommandFailed(argv, 1, "No files found for docker.service.")
            case other:
                raise AssertionError(other)
        self.calls.append(" ".join(argv[1:]))
        return ""


def saying(failed: CommandFailed) -> Runner:
    def run(argv: Sequence[str], **how: object) -> str:
        raise failed

    return run


@pytest.mark.parametrize(
    ("status", "output"), [(1, "Failed to get LoadState: Connection timed out"), (None, "no end within 30 s")]
)
def test_no_answer_is_not_a_no(status: int | None, output: str) -> None:
    with pytest.raises(KtoolError, match="systemd does not say") as raised:
        docker_units.exist(saying(CommandFailed(["systemctl", "cat", ENGINE], status, output)))
    assert output in raised.value.found
    assert "again" in raised.value.mend
    assert not docker_units.exist(Systemd(UnitStates()))


@pytest.mark.parametrize(("active", "expected"), [((ENGINE, SOCKET), True), ((SOCKET,), False)])
def test_an_engine_that_somebody_has_started(active: tuple[str, ...], expected: bool) -> None:
    assert docker_units.is_coming_up(Systemd(UnitStates(active=active))) is expected


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = [tmp_path / "run", tmp_path / "lib"]
    monkeypatch.setattr(docker_units, "CONTAINERD_DIRECTORIES", tuple(found))
    monkeypatch.setattr("provision.docker_units.processes.all_pids", list)
    return found


@pytest.mark.parametrize(
    "before",
    [
        UnitStates(),
        UnitStates(active=(SOCKET,)),
        UnitStates(active=(CONTAINERD,), enabled=(CONTAINERD,)),
        UnitStates(active=(SOCKET, CONTAINERD), enabled=(ENGINE, SOCKET, CONTAINERD)),
    ],
)
def test_all_three_are_put_back(before: UnitStates) -> None:
    systemctl = Systemd(before)
    found = docker_units.look(systemctl)
    assert (set(found.active), set(found.enabled)) == (set(before.active), set(before.enabled))
    docker_units.start(systemctl, timeout=1)
    assert docker_units.look(systemctl).active == DISTURBED.active
    docker_units.restore(found, systemctl, timeout=1)
    after = docker_units.look(systemctl)
    assert (set(after.active), set(after.enabled)) == (set(before.active), set(before.enabled))


def test_containerd_leaves_no_directory_that_was_not_there(directories: list[Path]) -> None:
    run, lib = directories
    lib.mkdir()
    systemctl = Systemd(UnitStates())
    before = docker_units.look(systemctl)
    assert before.absent == (str(run),)
    docker_units.start(systemctl, timeout=1)
    (run / "io.containerd").mkdir(parents=True)
    docker_units.restore(before, systemctl, timeout=1)
    assert (run.exists(), lib.exists()) == (False, True)


def test_containerd_that_others_use_goes_on(directories: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shim = f"/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-address\0{docker_units.CONTAINERD_SOCKET}\0"
    monkeypatch.setattr("provision.docker_units.processes.all_pids", lambda: [1])
    monkeypatch.setattr("provision.docker_units.processes.command_line", lambda pid: shim)
    systemctl = Systemd(DISTURBED)
    directories[0].mkdir()
    done = docker_units.restore(UnitStates(absent=(str(directories[0]),)), systemctl, timeout=1)
    assert systemctl.active == {CONTAINERD}
    assert "others use it" in done[-1]
    assert directories[0].exists()


def test_no_unit() -> None:
    assert not docker_units.exist(Systemd(UnitStates()))


@pytest.mark.parametrize(
    ("line", "serves"),
    [
        ("/usr/bin/containerd-shim-runc-v2\0-address\0/run/containerd/containerd.sock\0", True),
        ("/usr/bin/containerd-shim-runc-v2\0-address\0/run/docker/containerd/containerd.sock\0", False),
        ("/usr/bin/dockerd\0--containerd=/run/containerd/containerd.sock\0", False),
        ("", False),
    ],
)
def test_shims(line: str, serves: bool) -> None:
    assert docker_units.serves_containers([line]) is serves
