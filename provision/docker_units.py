"""Docker Engine as Debian's units: docker.service, which brings docker.socket and containerd.service along.

Starting the first starts the others; stopping it does not stop them. So the state of all three is noted before the
start, and put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from provision import mounts, processes
from provision.command import CommandFailed, Runner, attempt

ENGINE = "docker.service"
SOCKET = "docker.socket"
CONTAINERD = "containerd.service"
UNITS = (ENGINE, SOCKET, CONTAINERD)
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
# What containerd makes at its first start and nobody removes.
CONTAINERD_DIRECTORIES = (Path("/run/containerd"), Path("/var/lib/containerd"))


class UnitStates(msgspec.Struct, frozen=True):
    """Units that are `active` (systemd's word for running or listening), units that are `enabled` (start at boot), and
    containerd's directories that are `absent`."""

    active: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def exist(runner: Runner) -> bool:
    """Whether systemd knows docker.service. KtoolError if it does not say, as on a machine that is busy starting: who
    takes that for a no starts a second engine over the first one's files."""
    try:
        runner(["systemctl", "cat", ENGINE])
    except CommandFailed as failed:
        if failed.status is not None and "No files found" in failed.output:
            return False
        raise KtoolError(
            "systemd does not say whether Docker Engine is one of its services",
            found=failed.found,
            wanted=f"an answer to systemctl cat {ENGINE}",
            mend="if this machine has just been started, run the same command again in a minute",
        ) from failed
    return True


def is_coming_up(runner: Runner) -> bool:
    """Whether the engine was started already, by whomever: it may just not have got so far as to answer."""
    return _says(runner, "ActiveState", ENGINE) in ("active", "activating", "reloading")


def look(runner: Runner) -> UnitStates:
    """The states now; a unit that does not exist is neither active nor enabled."""
    return UnitStates(
        active=tuple(unit for unit in UNITS if _says(runner, "ActiveState", unit) in ("active", "activating")),
        enabled=tuple(unit for unit in UNITS if _says(runner, "UnitFileState", unit) == "enabled"),
        absent=tuple(str(directory) for directory in CONTAINERD_DIRECTORIES if not directory.exists()),
    )


def start(runner: Runner, *, timeout: float) -> None:
    """Start the engine, now and at boot. CommandFailed if systemd cannot."""
    runner(["systemctl", "enable", "--quiet", "--now", ENGINE], timeout=timeout)


def restore(before: UnitStates, runner: Runner, *, timeout: float) -> list[str]:
    """Put the units back to what they were `before` the engine's start; gives what was done, in words.

    containerd goes on if somebody else's containers run on it by now.
    """
    done = ["Docker Engine stopped (systemd)"]
    runner(["systemctl", "stop", ENGINE, SOCKET], timeout=timeout)
    if SOCKET in before.active:
        runner(["systemctl", "start", SOCKET], timeout=timeout)
    if CONTAINERD not in before.active and CONTAINERD in look(runner).active:
        if serves_containers(map(processes.command_line, processes.all_pids())):
            done.append("containerd left running: others use it by now")
        else:
            runner(["systemctl", "stop", CONTAINERD], timeout=timeout)
            done.append("containerd stopped (systemd)")
            for directory in map(Path, before.absent):
                mounts.unmount_below(directory, runner=runner)
                mounts.remove_tree(directory)
    if ENGINE not in before.enabled:
        runner(["systemctl", "disable", "--quiet", ENGINE])
    return done


def serves_containers(command_lines: Iterable[str]) -> bool:
    """Whether one of the processes (arguments separated by NUL) is a shim of Debian's containerd."""
    words = (line.split("\0") for line in command_lines)
    return any("containerd-shim" in line[0] and CONTAINERD_SOCKET in line for line in words)


def _says(runner: Runner, property_: str, unit: str) -> str:
    return (attempt(runner, ["systemctl", "show", "--value", f"--property={property_}", unit]) or "").strip()
