"""Docker Engine on this machine: used as it is where it answers, started where it does not.

Three origins, and `down` treats them differently:

- *existing*: it answered before we came. It is never stopped; the agent takes away its own containers and networks.
- *systemd*: Debian's units were enabled and started by us; `down` puts them back (provision.docker_units).
- *supervised*: no systemd here, so dockerd runs as a service of ktool's supervisor.

What the machine looked like before the engine's first start is kept in the journal (`EngineBefore`), and `down` goes
back to that: files, bridges, firewall rules, empty cgroups. If somebody runs containers of his own on an engine that
we started, it is left running, and `down` says so.
"""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import socket as socket_module
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kube.errors import KtoolError
from provision import docker_leftovers, docker_units, mounts, processes
from provision.command import Runner, attempt, run
from provision.journal import Change, ChangeKind, Journal
from provision.services import systemd
from provision.services.service import ServiceSpec, ServiceSupervisor, tail

if TYPE_CHECKING:
    import docker

logger = logging.getLogger(__name__)

SERVICE = "docker"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# Of an engine that starts with its machine: an emulated one that has other work took more than three minutes.
BOOT_SECONDS = 300.0
DAEMON_CONFIG = Path("/etc/docker/daemon.json")
CGROUP_ROOT = Path("/sys/fs/cgroup")
_SAVES = ("iptables-save", "ip6tables-save")
# Where every containerd of a machine puts its shims' sockets and every dockerd looks for plugins, wherever its own
# files are; another one's may be there by the time we leave.
_SHARED = (Path("/run/containerd/s"), Path("/run/containerd"), Path("/run/docker/plugins"), Path("/run/docker"))


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Where an engine's socket and files are; the defaults are Docker's own."""

    socket: Path = Path("/var/run/docker.sock")
    data_root: Path = Path("/var/lib/docker")
    exec_root: Path = Path("/var/run/docker")
    pid_file: Path = Path("/var/run/docker.pid")

    @property
    def is_default(self) -> bool:
        """Whether plain `docker` on the command line talks to this engine."""
        return self == EnginePaths()

    @property
    def containerd_pid_file(self) -> Path:
        """Where dockerd notes the pid of the containerd that it starts."""
        return self.exec_root / "containerd" / "containerd.pid"


class EngineOrigin(StrEnum):
    """Who started the engine."""

    EXISTING = "existing"
    SYSTEMD = "systemd"
    SUPERVISED = "supervised"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers."""

    socket: Path
    version: str
    origin: EngineOrigin


class EngineBefore(msgspec.Struct, frozen=True):
    """The machine before we started the engine: its `origin`, which `paths` were absent, links, firewall, tables and
    cgroups (paths) that were there; `units` is their former state under systemd. `absent_directories` were absent too,
    but may hold things of others by now."""

    origin: EngineOrigin
    absent: tuple[str, ...] = ()
    absent_directories: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    firewall: dict[str, str] = {}
    tables: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    units: docker_units.UnitStates = docker_units.UnitStates()


class NotReachable(KtoolError):
    """No Docker Engine answers on the socket."""


def connect(socket: Path, *, timeout: int = 10) -> docker.DockerClient:
    """A client of the engine on a Unix socket; nothing is sent yet. Close it when done."""
    import docker  # 0.2 s

    return docker.DockerClient(base_url=f"unix://{socket}", timeout=timeout, version="1.41")


def version(socket: Path, *, timeout: float = 5) -> str:
    """The engine's version. NotReachable (`found` says why) if none answers.

    Asked without Docker's own library, which takes an emulated machine four seconds to import.
    """
    if not socket.exists():
        raise NotReachable("Docker Engine does not answer", found=f"no socket {socket}", wanted="a running dockerd")
    connection = _UnixConnection(socket, timeout=timeout)
    try:
        connection.request("GET", "/version")
        return str(json.loads(connection.getresponse().read())["Version"])
    except (http.client.HTTPException, OSError, ValueError, KeyError, TypeError) as error:
        raise NotReachable("Docker Engine does not answer", found=f"{socket}: {error}", wanted="an answer") from error
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket_module.socket(socket_module.AF_UNIX, socket_module.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ensure(
    paths: EnginePaths,
    *,
    supervisor: ServiceSupervisor,
    journal: Journal,
    log_path: Path,
    dockerd: str,
    runner: Runner = run,
    report: Callable[[str], None] = lambda detail: None,
) -> Engine:
    """Have an engine answering on `paths.socket`, starting one if need be.

    `dockerd` is the program's path. Raises KtoolError with the end of dockerd's log if it does not answer in time.
    """
    change = journal.find(ChangeKind.DOCKER, str(paths.socket))
    origin = _before(change).origin if change else EngineOrigin.EXISTING
    try:
        return Engine(paths.socket, version(paths.socket), origin)
    except NotReachable as error:
        unanswered = error.found
    by_systemd = paths.is_default and systemd.is_running() and docker_units.exist(runner)
    if by_systemd and docker_units.is_coming_up(runner):
        report("it is starting: waiting for it")
        return Engine(paths.socket, _wait(paths.socket, seconds=BOOT_SECONDS), origin)
    report(f"{unanswered}: starting it")
    if by_systemd:
        origin = EngineOrigin.SYSTEMD
        units = docker_units.look(runner)
        journal.record(ChangeKind.DOCKER, str(paths.socket), before=_look(paths, origin, runner, units=units))
        docker_units.start(runner, timeout=START_SECONDS)
        return Engine(paths.socket, _wait(paths.socket), origin)
    if not dockerd:
        raise KtoolError(
            "Docker Engine is not installed",
            found="no dockerd",
            wanted="Docker Engine",
            mend="apt-get install docker.io",
        )
    origin = EngineOrigin.SUPERVISED
    journal.record(ChangeKind.DOCKER, str(paths.socket), before=_look(paths, origin, runner))
    supervisor.install(service(paths, dockerd=dockerd, log_path=log_path, configured=configured_keys(DAEMON_CONFIG)))
    _remove_stale_pid_files(paths)
    supervisor.start(SERVICE)
    return Engine(paths.socket, _wait(paths.socket, supervisor=supervisor, log_path=log_path), origin)


def service(paths: EnginePaths, *, dockerd: str, log_path: Path, configured: frozenset[str]) -> ServiceSpec:
    """dockerd as a service. Flags that daemon.json already sets (`configured`) are left out: dockerd refuses both."""
    defaults = EnginePaths()
    flags = {
        "data-root": () if paths.data_root == defaults.data_root else (f"--data-root={paths.data_root}",),
        "exec-root": () if paths.exec_root == defaults.exec_root else (f"--exec-root={paths.exec_root}",),
        "hosts": (f"--host=unix://{paths.socket}",),
        "pidfile": () if paths.pid_file == defaults.pid_file else (f"--pidfile={paths.pid_file}",),
        # Containers outlive a crash or restart of dockerd.
        "live-restore": ("--live-restore",),
    }
    arguments = (flag for key, values in flags.items() if key not in configured for flag in values)
    return ServiceSpec(
        name=SERVICE,
        description="Docker Engine (started by ktool)",
        argv=(dockerd, *arguments),
        log_path=log_path,
        stop_timeout=STOP_SECONDS,
        pid_files=(paths.containerd_pid_file,),
    )


def configured_keys(path: Path) -> frozenset[str]:
    """The keys that Docker's own configuration file sets; KtoolError if it is not a JSON object."""
    try:
        found = json.loads(path.read_text())
        return frozenset(found)
    except FileNotFoundError:
        return frozenset()
    except (ValueError, TypeError) as error:
        raise KtoolError(
            "Docker's configuration is malformed", found=f"{path}: {error}", wanted="a JSON object", mend=f"edit {path}"
        ) from error


def foreign_containers(socket: Path) -> list[str]:
    """Names of all containers on the engine. After the agent's reset these are other people's."""
    client = connect(socket, timeout=30)
    try:
        return sorted(str(container["Names"][0]).lstrip("/") for container in client.api.containers(all=True))
    finally:
        client.close()


def release(
    paths: EnginePaths,
    *,
    supervisor: ServiceSupervisor,
    journal: Journal,
    keep_data: bool = False,
    runner: Runner = run,
) -> list[str]:
    """Stop an engine that we started and take away what it left; gives what was done, in words.

    An engine that we did not start is left alone. `keep_data` leaves images and volumes (the data root) in place.
    Raises KtoolError, with the engine running on, if containers of others are on it.
    """
    change = journal.find(ChangeKind.DOCKER, str(paths.socket))
    if change is None:
        return []
    before = _before(change)
    try:
        containers = foreign_containers(paths.socket) if _answers(paths.socket) else []
    except OSError as error:
        raise NotReachable("Docker Engine does not answer", found=str(error), mend="ktool down again") from error
    if containers:
        raise KtoolError(
            "Docker Engine, which ktool started, is left running",
            found=f"containers that ktool did not make: {', '.join(containers)}",
            wanted="none",
            mend=f"docker rm -f {' '.join(containers)}, then ktool down again",
        )
    done = []
    if before.origin is EngineOrigin.SYSTEMD:
        done += docker_units.restore(before.units, runner, timeout=STOP_SECONDS + 30)
    else:
        supervisor.remove(SERVICE)
        if _answers(paths.socket):
            journal.close(change)
            return [*done, "Docker Engine left alone: somebody else runs it by now"]
        _end_container_processes(paths)
        done.append("Docker Engine stopped")
    done += _clean(paths, before, keep_data=keep_data, runner=runner)
    if not keep_data:  # else the data root is still ours to remove one day
        journal.close(change)
    return done


def _answers(socket: Path) -> bool:
    try:
        version(socket)
    except NotReachable:
        return False
    return True


def _before(change: Change) -> EngineBefore:
    return msgspec.convert(change.before, EngineBefore)


def _wait(
    socket: Path,
    *,
    supervisor: ServiceSupervisor | None = None,
    log_path: Path | None = None,
    seconds: float = START_SECONDS,
) -> str:
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return version(socket)
        except NotReachable as error:
            restarts = supervisor.status(SERVICE).restarts if supervisor else 0
            if time.monotonic() > deadline or restarts >= 3:
                lines = [line for line in tail(log_path, lines=40).splitlines() if "level=info" not in line]
                raise KtoolError(
                    "Docker Engine does not start",
                    found="; ".join(lines[-3:]) or error.found,
                    wanted=f"an answer on {socket} within {seconds:g} s",
                    mend=f"see {log_path}" if log_path else "see `journalctl -u docker`",
                ) from error
        time.sleep(pause)
        pause = min(0.2, pause * 2)


def _look(
    paths: EnginePaths, origin: EngineOrigin, runner: Runner, *, units: docker_units.UnitStates | None = None
) -> Any:
    ours = (paths.data_root, paths.exec_root, paths.socket, paths.pid_file, Path("/etc/docker/key.json"))
    directories = (*_SHARED, *(() if paths.is_default else (paths.data_root.parent,)))
    return msgspec.to_builtins(
        EngineBefore(
            origin=origin,
            absent=tuple(str(path) for path in ours if not path.exists()),
            absent_directories=tuple(str(path) for path in directories if not path.exists()),
            links=tuple(_links(runner)),
            firewall={command: saved for command in _SAVES if (saved := attempt(runner, [command])) is not None},
            tables=tuple(_tables(runner)),
            cgroups=tuple(str(path) for path in _cgroups()),
            units=units or docker_units.UnitStates(),
        )
    )


def _clean(paths: EnginePaths, before: EngineBefore, *, keep_data: bool, runner: Runner) -> list[str]:
    done = []
    for command, saved in before.firewall.items():
        script = docker_leftovers.undo_script(saved, attempt(runner, [command]) or "")
        if script:
            runner([command.replace("-save", "-restore"), "--noflush"], stdin=script)
            done.append(f"Docker's firewall rules removed ({command.removesuffix('-save')})")
    ruleset = attempt(runner, ["nft", "-j", "list", "ruleset"])
    for table in docker_leftovers.empty_tables(before.tables, ruleset) if ruleset else ():
        runner(["nft", "delete", "table", *table.split(" ")])
    for link in docker_leftovers.leftover_links(before.links, _links(runner)):
        runner(["ip", "link", "delete", link])
        done.append(f"bridge {link} removed")
    for name in before.absent:
        path = Path(name)
        if path == paths.data_root and keep_data:
            continue
        mounts.unmount_below(path, runner=runner)
        if path.exists() or path.is_symlink():
            mounts.remove_tree(path)
            done.append(f"{path} removed")
    for name in before.absent_directories:
        _remove_if_empty(Path(name))
    for path in set(_cgroups()) - {Path(name) for name in before.cgroups}:
        _remove_cgroup(path)
    return done


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        logger.info("%s stays: %s", directory, error)


def _links(runner: Runner) -> list[str]:
    return [str(link["ifname"]) for link in json.loads(runner(["ip", "-json", "link", "show"]) or "[]")]


def _tables(runner: Runner) -> list[str]:
    ruleset = attempt(runner, ["nft", "-j", "list", "ruleset"])
    return docker_leftovers.nft_tables(ruleset) if ruleset else []


def _cgroups() -> list[Path]:
    # Version 1 has a tree per controller, version 2 one tree.
    return [path for path in (CGROUP_ROOT / "docker", *CGROUP_ROOT.glob("*/docker")) if path.is_dir()]


def _remove_cgroup(path: Path) -> None:
    for inner in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        inner.rmdir()
    try:
        path.rmdir()
    except OSError as error:  # busy: another engine runs containers in it
        logger.info("cgroup %s stays: %s", path, error)


def _remove_stale_pid_files(paths: EnginePaths) -> None:
    """dockerd refuses to start beside a pid file whose number is in use, even if by another program."""
    for path, program in ((paths.pid_file, "dockerd"), (paths.containerd_pid_file, "containerd")):
        try:
            pid = int(path.read_text())
        except (FileNotFoundError, ValueError):
            continue
        if program not in processes.command_line(pid):
            path.unlink(missing_ok=True)


def _end_container_processes(paths: EnginePaths) -> None:
    """End what outlives a dockerd that died: its containerd, the shims, and the processes of their containers."""
    everything = {pid: processes.command_line(pid) for pid in processes.all_pids()}
    ours = {pid: line for pid, line in everything.items() if f"{paths.exec_root}/containerd" in line}
    words = (line.split("\0") for line in ours.values())
    ids = {following for line in words for word, following in itertools.pairwise(line) if word == "-id"}
    contained = {pid for pid in everything if ids and any(one in processes.cgroups(pid) for one in ids)}
    for pid in [*ours, *(contained - ours.keys())]:
        if not processes.end(pid, timeout=2.0):
            logger.warning("process %d of a container does not end", pid)
