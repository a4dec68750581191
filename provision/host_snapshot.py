"""A picture of what a cluster may leave on a machine, and the difference of two pictures.

Taken before `up` and after `down`, the two must be equal: nothing left, and nothing of others taken away. Only things
that last are in it; counters, handles, pids and times are not, for they differ between any two moments.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from provision import docker_engine, mounts, processes
from provision.command import CommandFailed, Runner, run

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.conf.all.rp_filter",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.netfilter.nf_conntrack_max",
    "vm.overcommit_memory",
    "kernel.panic",
)
# How deep directories are listed: below these levels everything belongs to what is named by the upper ones.
DIRECTORIES: Mapping[str, int] = {
    "/etc": 3,
    "/run": 3,
    "/var/lib": 2,
    "/var/run": 2,
    "/var/log": 1,
    "/opt": 1,
    "/tmp": 1,  # noqa: S108 (only listed)
}
_COUNTERS = re.compile(r"\[\d+:\d+\]")


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """The picture: for each section (`mounts`, `links`, `nftables`, ...) a set of lines."""

    sections: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """For keeping it in a file between `up` and `down`."""
        return msgspec.json.encode({name: sorted(lines) for name, lines in self.sections.items()})

    @classmethod
    def from_json(cls, text: bytes) -> HostSnapshot:
        """What `to_json` gave; msgspec.DecodeError for anything else."""
        found = msgspec.json.decode(text, type=dict[str, list[str]])
        return cls({name: frozenset(lines) for name, lines in found.items()})


@dataclass(frozen=True, slots=True)
class Difference:
    """What one section gained and lost."""

    section: str
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"+ {line}" for line in self.added] + [f"- {line}" for line in self.removed]
        return "\n  ".join([f"{self.section}:", *lines])


def difference(before: HostSnapshot, after: HostSnapshot, *, ignore: Iterable[str] = ()) -> list[Difference]:
    """What changed between two pictures, by section; lines that match a regular expression of `ignore` do not count.

    A section that only one of them has is not compared: the machine could not tell at the other time.
    """
    patterns = [re.compile(pattern) for pattern in ignore]

    def counts(line: str) -> bool:
        return not any(pattern.search(line) for pattern in patterns)

    found = []
    for section in sorted(before.sections.keys() & after.sections.keys()):
        old, new = before.sections[section], after.sections[section]
        added = tuple(sorted(filter(counts, new - old)))
        removed = tuple(sorted(filter(counts, old - new)))
        if added or removed:
            found.append(Difference(section, added, removed))
    return found


def take(*, docker_socket: Path | None = None, extra: Iterable[Path] = (), runner: Runner = run) -> HostSnapshot:
    """A picture of this machine now. Reads only.

    `docker_socket`: also an engine's containers, networks and volumes, if it answers. `extra`: further directories
    that are listed (their first level).
    """
    sections: dict[str, frozenset[str]] = {
        "processes": frozenset(_processes()),
        "mounts": frozenset(mounts.mount_points(Path("/proc/self/mountinfo").read_text())),
        "sysctls": frozenset(_sysctls()),
        "files": frozenset(_files({**DIRECTORIES, **{str(path): 1 for path in extra}})),
        "cgroups": frozenset(_cgroups()),
    }
    for name, argv in {
        "links": ["ip", "-json", "link", "show"],
        "addresses": ["ip", "-json", "address", "show"],
        "routes": ["ip", "-json", "route", "show", "table", "all"],
        "rules": ["ip", "-json", "rule", "show"],
        "nftables": ["nft", "-s", "list", "ruleset"],
        "iptables": ["iptables-save"],
        "ip6tables": ["ip6tables-save"],
    }.items():
        try:
            text = runner(argv)
        except CommandFailed:  # not on this machine, or not in this kernel: the section is not compared
            continue
        sections[name] = frozenset(_READERS.get(name, firewall_lines)(text))
    if docker_socket is not None:
        sections |= _docker(docker_socket)
    return HostSnapshot(sections)


def firewall_lines(text: str) -> list[str]:
    """Rules with the table and chain they stand in, without comments and counters.

    A table without content is no difference, so headers and braces alone give no line.
    """
    found: list[str] = []
    where: list[str] = []
    for raw in text.splitlines():
        line = _COUNTERS.sub("", raw).strip()
        if not line or line.startswith("#") or line == "COMMIT":
            continue
        if line.startswith("*"):
            where = [line]
        elif line.endswith("{"):
            where.append(line[:-1].strip())
        elif line == "}":
            where.pop()
        elif not (line.startswith(":") and line.split()[1] == "ACCEPT") and not line.endswith("policy accept;"):
            found.append(" / ".join([*where, line]))
    return found


def _links(text: str) -> list[str]:
    return [str(link["ifname"]) for link in json.loads(text or "[]")]


def _addresses(text: str) -> list[str]:
    return [
        f"{link['ifname']} {address['local']}/{address['prefixlen']}"
        for link in json.loads(text or "[]")
        for address in link.get("addr_info", ())
        if address.get("scope") != "link"
    ]


def _routes(text: str) -> list[str]:
    keys = ("type", "dst", "gateway", "dev", "table", "src")
    # IPv6's own routes (link-local, multicast) come and go with the links, which are compared themselves.
    return [
        " ".join(f"{key} {route[key]}" for key in keys if key in route)
        for route in json.loads(text or "[]")
        if not str(route.get("dst", "")).startswith(("fe80", "ff00"))
    ]


def _rules(text: str) -> list[str]:
    return [json.dumps(rule, sort_keys=True) for rule in json.loads(text or "[]")]


_READERS = {"links": _links, "addresses": _addresses, "routes": _routes, "rules": _rules}


def _processes() -> Iterable[str]:
    """Command lines of the processes in this network namespace: a container's or another test's do not count."""
    ours = _network_namespace("self")
    for pid in processes.all_pids():
        line = processes.command_line(pid).replace("\0", " ").strip()
        if line and processes.is_alive(pid) and _network_namespace(str(pid)) == ours:
            yield line


def _network_namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has just ended
        return ""


def _sysctls() -> Iterable[str]:
    for name in SYSCTLS:
        try:
            value = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:  # this kernel does not have it
            continue
        yield f"{name} = {value}"


def _files(directories: Mapping[str, int]) -> Iterable[str]:
    for name, depth in directories.items():
        yield from _list(Path(name), depth)


def _list(directory: Path, depth: int) -> Iterable[str]:
    try:
        entries = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in entries:
        yield str(entry)
        if depth > 1 and entry.is_dir() and not entry.is_symlink():
            yield from _list(entry, depth - 1)


def _cgroups(root: Path = Path("/sys/fs/cgroup")) -> Iterable[str]:
    # Two levels: version 1 has a tree per controller, version 2 its groups at once.
    for path in (*root.glob("*/"), *root.glob("*/*/")):
        yield str(path)


def _docker(socket: Path) -> Mapping[str, frozenset[str]]:
    try:
        docker_engine.version(socket)
    except docker_engine.NotReachable:
        return {}
    client = docker_engine.connect(socket, timeout=30)
    try:
        volumes = client.api.volumes()["Volumes"] or ()
        return {
            "docker containers": frozenset(str(one["Names"]) for one in client.api.containers(all=True)),
            "docker networks": frozenset(str(one["Name"]) for one in client.api.networks()),
            "docker volumes": frozenset(str(one["Name"]) for one in volumes),
        }
    finally:
        client.close()
