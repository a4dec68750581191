# Spelled for Python 3.6: typing's own generics, no walrus.
# ruff: noqa: UP006, UP035, UP045, PTH
"""The probe: runs on a machine by `python3 -` and prints what it sees as one JSON object. Reads only.

It is sent as text, so it may import the standard library only and must suit every Python from 3.6 on; ktool on this
side imports it for nothing but its source. Each group of facts is gathered for itself: what fails leaves its fields
out and a line in "problems", for half a picture is better than none. Files rather than commands wherever possible, and
as few modules as possible: an emulated guest takes seconds for what a real machine imports in a twentieth of one. What
can be understood here as well goes as it is (gather.py): what `ip` says, the runtime's manifest.
"""

import os
import select
import sys
import time

try:  # both are in C, and what the modules around them import besides takes longer than all that is done here
    import _socket as socket
    from _json import encode_basestring_ascii as quoted
except ImportError:
    import socket  # type: ignore[no-redef]
    from json import dumps as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Set, Tuple

STATE = "/var/lib/ktool"
RUNTIME = "/opt/ktool/current"
COMMAND = "/usr/local/bin/ktool"
# Where `ktool lab create` notes the digest of the settings that it applied last.
APPLIED = STATE + "/applied"
# The same on a load balancer, which has nothing else of ktool.
APPLIED_BALANCER = "/opt/ktool/applied"
# Where a lab notes that the machine is its own.
LAB = "/opt/ktool/lab"
DOCKER_SOCKET = "/var/run/docker.sock"
COMMANDS = (
    *("dockerd", "nft", "ip", "iptables", "conntrack", "modprobe", "sysctl", "mount", "nsenter", "busybox", "sudo"),
)
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KUBERNETES_PROGRAMS = ("kubelet", "kube-apiserver", "kube-proxy", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2")
# Traces of other clusters that are there also while nothing of them runs.
KUBERNETES_FILES = (
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/admin.conf",
    "/var/lib/kubelet/config.yaml",
    "/etc/rancher/k3s",
    "/var/lib/rancher/k3s/server",
    "/var/lib/rancher/k3s/agent",
    "/etc/rancher/rke2",
    "/var/lib/rancher/rke2",
    "/var/lib/k0s",
    "/var/snap/microk8s",
)
HAPROXY = "/etc/haproxy/haproxy.cfg"
# What else runs on a cluster's machines.
OTHERS = ("dockerd", "haproxy", "etcd")
FEATURES = ("overlay", "br_netfilter", "nf_tables", "vxlan", "veth", "bridge")
LISTEN = "0A"
# How a line begins that names a place to take packages from.
SOURCES = ("deb ", "deb\t", "deb-src", "deb [", "URIs:", "baseurl", "metalink", "mirrorlist")
COMMAND_SECONDS = 5
# Which way goes out, and from which address: an address of the range for documentation.
ELSEWHERE = "198.51.100.1"


def main() -> None:
    """Gather everything, print it."""
    facts: Dict[str, Any] = {}
    problems: List[str] = []
    processes = _attempt(problems, _processes) or {"services": {}, "service_pids": {}, "kubernetes": []}
    facts.update(processes)
    for gather in (_system, _python, _room, _cgroups, _commands, _features, _traces, _state, _packages):
        facts.update(_attempt(problems, gather) or {})
    facts.update(_attempt(problems, _listeners) or {})
    facts.update(_attempt(problems, _network) or {})
    facts["docker"] = _attempt(problems, lambda: _docker(bool(processes.get("dockerd")))) or {"socket": DOCKER_SOCKET}
    facts.pop("dockerd", None)
    facts["problems"] = problems
    facts["time"] = time.time()
    sys.stdout.write(_encoded(facts) + "\n")


def _encoded(value: "Any") -> str:
    """As JSON."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join([quoted(key) + ":" + _encoded(one) for key, one in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_encoded(one) for one in value]) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _attempt(problems: "List[str]", gather: "Callable[[], Dict[str, Any]]") -> "Optional[Dict[str, Any]]":
    try:
        return gather()
    except Exception as error:  # noqa: BLE001 (told, and the other facts are still worth having)
        problems.append(f"{getattr(gather, '__name__', '').strip('_')}: {type(error).__name__}: {error}")
        return None


def _read(path: str, default: str = "") -> str:
    found = []
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while True:
                part = os.read(descriptor, 1048576)
                if not part:
                    break
                found.append(part)
        finally:
            os.close(descriptor)
    except OSError:
        return default
    return b"".join(found).decode("utf-8", "replace").strip()


def _run(argv: "List[str]", text: bytes) -> str:
    """What a command says that is given a short text."""
    given, said = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for mine, standard in ((given[0], 0), (said[1], 1), (os.open(os.devnull, os.O_WRONLY), 2)):
                os.dup2(mine, standard)
            os.execve(argv[0], argv, dict(os.environ, PATH=PATHS))  # noqa: S606 (no shell is wanted)
        finally:
            os._exit(127)
    os.close(given[0])
    os.close(said[1])
    try:
        os.write(given[1], text)
        os.close(given[1])
        if not select.select([said[0]], [], [], COMMAND_SECONDS)[0]:
            os.kill(pid, 9)
            raise OSError(argv[0] + " says nothing")
        with os.fdopen(said[0], "rb") as output:
            return output.read().decode("utf-8", "replace")
    finally:
        os.waitpid(pid, 0)


def _which(name: str) -> str:
    for folder in PATHS.split(":"):
        path = folder + "/" + name
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def _names(folder: str, *ends: str) -> "List[str]":
    """The paths in a folder whose names end so; none where there is no such folder."""
    try:
        return sorted(folder + "/" + name for name in os.listdir(folder) if name.endswith(ends) and name[0] != ".")
    except OSError:
        return []


def _system() -> "Dict[str, Any]":
    release: Dict[str, str] = {}
    for line in (_read("/etc/os-release") or _read("/usr/lib/os-release")).splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip("\"'")
    here = os.uname()
    return {
        "os_id": release.get("ID", "unknown"),
        "os_like": release.get("ID_LIKE", "").split(),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": here.release,
        "arch": here.machine,
        "hostname": here.nodename,
        "machine_id": _read("/etc/machine-id"),
        "euid": os.geteuid(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "container": _read("/run/systemd/container"),
    }


def _python() -> "Dict[str, Any]":
    found = [path[len("/usr/bin/python") :] for path in _names("/usr/bin", *"0123456789") if "/python3." in path]
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "pythons": sorted(version for version in found if version.replace(".", "", 1).isdigit()),
    }


def _room() -> "Dict[str, Any]":
    lines = [line.split() for line in _read("/proc/meminfo").splitlines()]
    memory = {words[0].rstrip(":"): words[1] for words in lines if words[2:] == ["kB"]}
    total = int(memory["MemTotal"]) * 1024
    available = int(memory.get("MemAvailable", memory.get("MemFree", "0"))) * 1024
    # A container sees the memory of its host; what it may have says its control group.
    limits = [_read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    for limit in (int(text) for text in limits if text.isdigit()):
        total, available = min(total, limit), min(available, limit)
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_total": total,
        "memory_available": available,
        "swap_total": int(memory.get("SwapTotal", "0")) * 1024,
        "disk_free": min(_free(path) for path in (STATE, "/var/lib/docker", "/opt/ktool")),
    }


def _free(path: str) -> int:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def _cgroups() -> "Dict[str, Any]":
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {"cgroup_version": 2 if unified else int(os.path.exists("/sys/fs/cgroup/memory/tasks"))}


def _commands() -> "Dict[str, Any]":
    found = {name: _which(name) for name in COMMANDS}
    return {"commands": {name: path for name, path in found.items() if path}}


def _features() -> "Dict[str, Any]":
    """True: there; False: not to be had; None: nobody can tell (a container without the kernel's modules)."""
    folder = "/lib/modules/" + os.uname().release
    lists = [_read(folder + "/modules.builtin"), _read(folder + "/modules.dep")]
    filesystems = _read("/proc/filesystems").split()
    found: Dict[str, Optional[bool]] = {}
    for name in FEATURES:
        files = ["/" + name + ".ko", "/" + name.replace("_", "-") + ".ko"]
        if (
            os.path.isdir("/sys/module/" + name)
            or name in filesystems
            or (name == "br_netfilter" and os.path.isdir("/proc/sys/net/bridge"))
            or any(file in text for text in lists for file in files)
        ):
            found[name] = True
        else:
            found[name] = False if any(lists) else None
    return {"features": found}


def _traces() -> "Dict[str, Any]":
    return {"kubernetes_files": [path for path in KUBERNETES_FILES if os.path.exists(path)]}


def _processes() -> "Dict[str, Any]":
    """Who runs here: ktool's own services, other clusters' programs, Docker. Not what runs in containers."""
    namespace = _link("/proc/self/ns/pid")
    services = {"master": False, "agent": False, "docker": False, "etcd": False, "haproxy": False}
    pids: Dict[str, List[int]] = {"master": [], "agent": [], "etcd": []}
    kubernetes = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        name = _read(f"/proc/{pid}/comm")
        interesting = name in KUBERNETES_PROGRAMS or name in OTHERS or name.startswith(("python", "ktool"))
        if not interesting or _link(f"/proc/{pid}/ns/pid") != namespace:
            continue
        argv = _read(f"/proc/{pid}/cmdline").split("\0")
        if name in KUBERNETES_PROGRAMS:
            kubernetes.append(f"{name} (pid {pid})")
        elif name == "dockerd":
            services["docker"] = True
        elif name == "haproxy":
            services["haproxy"] = _read(HAPROXY).startswith("# Written by ktool")
        elif name == "etcd":
            if STATE + "/etcd.yml" in argv:
                services["etcd"] = True
                pids["etcd"].append(pid)
        elif "--data-dir" in argv and argv[argv.index("--data-dir") + 1 :][:1] in ([STATE], [STATE + "/agent"]):
            service = {"control": "master", "agent": "agent"}.get(argv[argv.index("-m") + 1] if "-m" in argv else "")
            # One that was started ahead, and waits for its arguments, does nothing yet.
            told = all(os.path.exists(word[1:]) for word in argv if word.startswith("@"))
            if service is not None and told:
                services[service] = True
                pids[service].append(pid)
    return {"services": services, "service_pids": pids, "kubernetes": sorted(kubernetes), "dockerd": services["docker"]}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _listeners() -> "Dict[str, Any]":
    found: Dict[str, Tuple[str, int]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _read(table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                address, _, port = fields[1].partition(":")
                found[fields[9]] = (_address(address), int(port, 16))
    owners = _owners(set(found))
    listeners = []
    for inode, (address, number) in found.items():
        pid = owners.get(inode)
        argv = _read(f"/proc/{pid}/cmdline").split("\0") if pid is not None else []
        listeners.append({"port": number, "address": address, "pid": pid, "program": " ".join(argv[:3])})
    return {"listeners": sorted(listeners, key=lambda one: (one["port"], one["address"]))}


def _address(text: str) -> str:
    """An address of /proc/net/tcp: words of four bytes in the machine's order."""
    order = sys.byteorder
    data = b"".join(int(text[at : at + 8], 16).to_bytes(4, order) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def _owners(inodes: "Set[str]") -> "Dict[str, int]":
    owners: Dict[str, int] = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if len(owners) == len(inodes):
            break
        folder = f"/proc/{pid}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for descriptor in descriptors:
            target = _link(folder + "/" + descriptor)
            if target.startswith("socket:["):
                inode = target[8:-1]
                if inode in inodes:
                    owners.setdefault(inode, pid)
    return owners


def _network() -> "Dict[str, Any]":
    ip = _which("ip")
    if not ip:
        raise OSError("there is no command ip")
    asked = "address show\nroute show table main\nroute get " + ELSEWHERE + "\n"
    # One process for all; a machine without a default route refuses the last.
    return {"ip": _run([ip, "-json", "-force", "-batch", "-"], asked.encode())}


def _docker(runs: bool) -> "Dict[str, Any]":
    found: Dict[str, Any] = {"socket": DOCKER_SOCKET, "installed": bool(_which("dockerd"))}
    if not runs:
        # Where systemd listens on its socket, asking would start it.
        return dict(found, error="dockerd does not run")
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(COMMAND_SECONDS)
        client.connect(DOCKER_SOCKET)
        client.sendall(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n")
        answer = b""
        while True:
            part = client.recv(65536)
            if not part:
                break
            answer += part
        return dict(found, info=answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"))
    except OSError as error:
        return dict(found, error=str(error))
    finally:
        client.close()


def _state() -> "Dict[str, Any]":
    exists = os.path.exists(STATE)
    try:
        empty = not exists or all(name == "lost+found" for name in os.listdir(STATE))
    except OSError:  # only root may look
        empty = False
    version = _json(STATE + "/version.json")
    join = _json(STATE + "/agent/join.json")
    key = os.path.basename(_link(RUNTIME))
    return {
        "state": {
            "path": STATE,
            "exists": exists,
            "empty": empty,
            "version": version if isinstance(version.get("layout"), int) else None,
        },
        "manifest": _read(RUNTIME + "/manifest.json"),
        "runtime_key": key if key and os.path.exists(RUNTIME + "/manifest.json") else "",
        "runtime_linked": _link(COMMAND) == RUNTIME + "/bin/ktool",
        "member": all(os.path.exists(STATE + "/agent/" + name) for name in ("join.json", "pki/kubelet-client.crt")),
        "applied": _read(APPLIED) or _read(APPLIED_BALANCER),
        "has_master": os.path.exists(STATE + "/admin.kubeconfig"),
        "lab": _read(LAB),
        # the token in this file stays where it is
        "joined": {
            "server": str(join.get("server", "")),
            "pins": [str(pin) for pin in join.get("caCertHashes", ())],
            "node_name": str(join.get("nodeName", "")),
        },
        "ca": _read(STATE + "/pki/ca.crt") or _read(STATE + "/agent/pki/ca.crt"),
    }


def _json(path: str) -> "Dict[str, Any]":
    text = _read(path)
    if not text:
        return {}
    import json  # takes a while, and most machines have none of these files yet

    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _packages() -> "Dict[str, Any]":
    """Which program installs packages here, and whether it knows a place to take them from."""
    apt, yum = ("/etc/apt/sources.list.d", ".list", ".sources"), ("/etc/yum.repos.d", ".repo")
    for manager, file, places in (
        ("apt-get", ["/etc/apt/sources.list"], apt),
        ("dnf", [], yum),
        ("yum", [], yum),
        ("zypper", [], ("/etc/zypp/repos.d", ".repo")),
    ):
        if _which(manager):
            lines = [line.strip() for path in file + _names(*places) for line in _read(path).splitlines()]
            return {"package_manager": manager, "package_sources": any(line.startswith(SOURCES) for line in lines)}
    return {"package_manager": "", "package_sources": False}


if __name__ == "__main__":
    main()
