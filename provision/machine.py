"""Facts about this machine: gathered once, then only looked at (provision.preflight decides what they mean)."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from provision import docker_engine
from provision.command import CommandFailed, Runner, run
from provision.data_dir import StateFacts, read_state
from provision.services import systemd

COMMANDS = ("dockerd", "nft", "ip", "iptables", "conntrack", "modprobe", "sysctl", "mount", "nsenter", "busybox")
# Types of routes that refuse instead of leading somewhere.
NOWHERE = frozenset({"unreachable", "blackhole", "prohibit"})
# Who made a route: ktool's agent, to the pods of other nodes (agent/routes/plan.py).
AGENT_ROUTES = "108"
# Programs that make a machine a node of some Kubernetes already.
KUBERNETES_PROGRAMS = frozenset({"kubelet", "kube-apiserver", "kube-proxy", "k3s", "k0s", "rke2", "microk8s"})


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket; `pid` is None where the kernel does not tell."""

    port: int
    address: str
    pid: int | None
    program: str


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table: destination (CIDR, never `default`) and outgoing interface."""

    destination: str
    interface: str


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """Docker Engine as found: `version` if it answers, else `error` says why not; `installed`: dockerd is there."""

    socket: str
    version: str = ""
    error: str = ""
    installed: bool = False


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What preflight looks at. Memory and disk in bytes; `cgroup_version` 0 where nothing usable is mounted."""

    os_id: str
    os_version: str
    kernel: str
    hostname: str
    euid: int
    systemd: bool
    cpus: int
    memory_total: int
    memory_available: int
    disk_free: int
    cgroup_version: int
    commands: Mapping[str, str]
    listeners: tuple[Listener, ...]
    routes: tuple[Route, ...]
    kubernetes: tuple[str, ...]
    docker: DockerFacts
    state: StateFacts


def gather(data_dir: Path, *, docker_socket: Path, runner: Runner = run) -> MachineFacts:
    """Look at this machine. `data_dir` need not exist. Reads only."""
    release = os_release()
    memory = psutil.virtual_memory()
    with ThreadPoolExecutor(1) as beside:
        docker = beside.submit(_docker, docker_socket)  # waits for an answer, sometimes
        found_listeners = tuple(listeners())
        found_routes = tuple(routes(runner))
        kubernetes = tuple(sorted(_kubernetes_programs()))
    return MachineFacts(
        os_id=release.get("ID", "unknown"),
        os_version=release.get("VERSION_ID", ""),
        kernel=platform.release(),
        hostname=socket.gethostname(),
        euid=os.geteuid(),
        systemd=systemd.is_running(),
        cpus=len(os.sched_getaffinity(0)),
        memory_total=memory.total,
        memory_available=memory.available,
        disk_free=shutil.disk_usage(_existing(data_dir)).free,
        cgroup_version=cgroup_version(),
        commands={name: path for name in COMMANDS if (path := find_command(name))},
        listeners=found_listeners,
        routes=found_routes,
        kubernetes=kubernetes,
        docker=docker.result(),
        state=read_state(data_dir),
    )


def os_release() -> Mapping[str, str]:
    """The fields of os-release(5); empty where there is no such file."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def find_command(name: str) -> str:
    """Path of a command, looked for where root's commands are too; empty if there is none."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin") or ""


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> int:
    """2 where the unified hierarchy has controllers, 1 where version 1's memory controller is mounted, else 0."""
    unified = root / "cgroup.controllers"
    if unified.exists():
        return 2
    return 1 if (root / "memory" / "tasks").exists() else 0


def listeners() -> Iterable[Listener]:
    """Listening TCP sockets of this network namespace."""
    for found in psutil.net_connections(kind="tcp"):
        if found.status != psutil.CONN_LISTEN or not found.laddr:
            continue
        yield Listener(found.laddr.port, found.laddr.ip, found.pid, _program(found.pid))


def routes(runner: Runner = run) -> Iterable[Route]:
    """IPv4 routes of the main table, without default routes, those that lead nowhere (the agent makes one such for
    the Service range) and the agent's to the pods of other nodes."""
    if not find_command("ip"):
        return
    for found in json.loads(runner(["ip", "-json", "-4", "route", "show", "table", "main"]) or "[]"):
        destination = found.get("dst", "default")
        if found.get("protocol") == AGENT_ROUTES:
            continue
        if destination != "default" and found.get("type") not in NOWHERE:
            yield Route(destination if "/" in destination else f"{destination}/32", found.get("dev", ""))


def node_address(runner: Runner = run) -> str:
    """The IPv4 address by which other machines know this one; empty if it has none but loopback.

    That is the source address of the default route, or, without one, the first address of global scope that does not
    belong to a bridge of Docker's.
    """
    try:
        found = json.loads(runner(["ip", "-json", "-4", "route", "get", "198.51.100.1"]) or "[]")
    except CommandFailed:  # no default route
        found = []
    if found and found[0].get("prefsrc") and found[0].get("dev") != "lo":
        return str(found[0]["prefsrc"])
    for link in json.loads(runner(["ip", "-json", "-4", "address", "show", "scope", "global", "up"]) or "[]"):
        if link.get("ifname", "lo") == "lo" or link.get("ifname", "").startswith(("docker", "br-", "veth")):
            continue
        for address in link.get("addr_info", ()):
            return str(address["local"])
    return ""


def _docker(path: Path) -> DockerFacts:
    installed = bool(find_command("dockerd"))
    try:
        # One that systemd is still starting lets callers wait; to know that it is installed is enough.
        version = docker_engine.version(path, timeout=1 if installed else 5)
        return DockerFacts(str(path), version=version, installed=installed)
    except docker_engine.NotReachable as error:
        return DockerFacts(str(path), error=error.found, installed=installed)


def _kubernetes_programs() -> set[str]:
    """Programs of another Kubernetes that share this network: those of a container or a machine inside of this one
    (nspawn) have ports and firewall rules of their own, and are in nobody's way."""
    found = set()
    for process in psutil.process_iter(["name"]):
        name = process.info["name"] or ""
        if name in KUBERNETES_PROGRAMS and _network(process.pid) in (_network(os.getpid()), None):
            found.add(f"{name} (pid {process.pid})")
    return found


def _network(pid: int) -> str | None:
    """The network namespace of a process; None if the kernel does not tell."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _program(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        process = psutil.Process(pid)
        return " ".join(process.cmdline()[:3]) or process.name()
    except psutil.Error:
        return ""


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
