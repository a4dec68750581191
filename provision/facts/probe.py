# Spelled for Python 3.6: typing's own generics, no walrus.
# ruff: noqa: UP006, UP035, UP045
"""The probe: runs on a machine by `python3 -` and prints what it sees as one JSON object. Reads only.

It is sent as text, so it may import the standard library only and must suit every Python from 3.6 on; ktool on this
side imports it for nothing but its source. Each group of facts is gathered for itself: what fails leaves its fields
out and a line in "problems", for half a picture is better than none. Files rather than commands wherever possible: on
a slow guest each process costs.
"""

import glob
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
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
NOWHERE = ("unreachable", "blackhole", "prohibit")
# Routes made by ktool's agent and proxy carry these protocol numbers.
OWN_PROTOCOLS = ("107", "108")
LISTEN = "0A"
COMMAND_SECONDS = 5


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
    json.dump(facts, sys.stdout)


def _attempt(problems: List[str], gather: Callable[[], Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    try:
        return gather()
    except Exception as error:  # noqa: BLE001 (told, and the other facts are still worth having)
        problems.append(f"{getattr(gather, '__name__', '').strip('_')}: {type(error).__name__}: {error}")
        return None


def _read(path: str, default: str = "") -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return default


def _run(argv: List[str]) -> str:
    env = dict(os.environ, PATH=PATHS)
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_SECONDS, env=env, check=False
    )
    return done.stdout.decode(errors="replace")


def _system() -> Dict[str, Any]:
    release: Dict[str, str] = {}
    for line in (_read("/etc/os-release") or _read("/usr/lib/os-release")).splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip("\"'")
    return {
        "os_id": release.get("ID", "unknown"),
        "os_like": release.get("ID_LIKE", "").split(),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "hostname": socket.gethostname(),
        "machine_id": _read("/etc/machine-id"),
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        "euid": os.geteuid(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "container": _read("/run/systemd/container"),
    }


def _python() -> Dict[str, Any]:
    found = [re.match(r"/usr/bin/python(3\.\d+)$", path) for path in glob.glob("/usr/bin/python3.*")]
    return {
        "python": platform.python_version(),
        "pythons": sorted(match.group(1) for match in found if match is not None),
    }


def _room() -> Dict[str, Any]:
    memory: Dict[str, str] = dict(re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo")))
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
    return shutil.disk_usage(path).free


def _cgroups() -> Dict[str, Any]:
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {"cgroup_version": 2 if unified else int(os.path.exists("/sys/fs/cgroup/memory/tasks"))}


def _commands() -> Dict[str, Any]:
    found = {name: shutil.which(name, path=PATHS) for name in COMMANDS}
    return {"commands": {name: path for name, path in found.items() if path}}


def _features() -> Dict[str, Any]:
    """True: there; False: not to be had; None: nobody can tell (a container without the kernel's modules)."""
    folder = "/lib/modules/" + platform.release()
    lists = [_read(folder + "/modules.builtin"), _read(folder + "/modules.dep")]
    filesystems = _read("/proc/filesystems").split()
    found: Dict[str, Optional[bool]] = {}
    for name in FEATURES:
        pattern = re.compile(r"/" + name.replace("_", "[_-]") + r"\.ko")
        if (
            os.path.isdir("/sys/module/" + name)
            or name in filesystems
            or (name == "br_netfilter" and os.path.isdir("/proc/sys/net/bridge"))
            or any(pattern.search(text) for text in lists)
        ):
            found[name] = True
        else:
            found[name] = False if any(lists) else None
    return {"features": found}


def _traces() -> Dict[str, Any]:
    return {"kubernetes_files": [path for path in KUBERNETES_FILES if os.path.exists(path)]}


def _processes() -> Dict[str, Any]:
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
            if service is not None:
                services[service] = True
                pids[service].append(pid)
    return {"services": services, "service_pids": pids, "kubernetes": sorted(kubernetes), "dockerd": services["docker"]}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _listeners() -> Dict[str, Any]:
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


def _owners(inodes: Set[str]) -> Dict[str, int]:
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


def _network() -> Dict[str, Any]:
    addresses = []
    macs = []
    node_address = ""
    for link in json.loads(_run(["ip", "-json", "address", "show"]) or "[]"):
        name = link.get("ifname", "lo")
        if name == "lo":
            continue
        made = name.startswith(("docker", "br-", "veth", "ktool", "cni", "flannel", "virbr"))
        if link.get("address") and link.get("link_type") == "ether" and not made:
            macs.append(link["address"])
        for one in link.get("addr_info", ()):
            if one.get("scope") == "global" and one.get("local"):
                addresses.append(one["local"])
                if not made and not node_address and one.get("family") == "inet":
                    node_address = one["local"]
    routes = []
    default = False
    for route in json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "main"]) or "[]"):
        destination = route.get("dst", "default")
        if destination == "default":
            default = True
            node_address = route.get("prefsrc") or node_address
        elif route.get("type") not in NOWHERE and str(route.get("protocol")) not in OWN_PROTOCOLS:
            whole = destination if "/" in destination else destination + "/32"
            routes.append({"destination": whole, "interface": route.get("dev", "")})
    if default:
        found = json.loads(_run(["ip", "-json", "-4", "route", "get", "198.51.100.1"]) or "[]")
        if found and found[0].get("prefsrc") and found[0].get("dev") != "lo":
            node_address = found[0]["prefsrc"]
    return {"addresses": addresses, "macs": macs, "routes": routes, "node_address": node_address}


def _docker(runs: bool) -> Dict[str, Any]:
    found: Dict[str, Any] = {"socket": DOCKER_SOCKET, "installed": bool(shutil.which("dockerd", path=PATHS))}
    if not runs:
        # Where systemd listens on its socket, asking would start it.
        return dict(found, error="dockerd does not run")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(COMMAND_SECONDS)
            client.connect(DOCKER_SOCKET)
            client.sendall(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n")
            answer = b""
            while True:
                part = client.recv(65536)
                if not part:
                    break
                answer += part
        info = json.loads(answer.partition(b"\r\n\r\n")[2].decode())
        return dict(
            found,
            version=info.get("ServerVersion", ""),
            swarm=(info.get("Swarm") or {}).get("LocalNodeState", "") == "active",
        )
    except (OSError, ValueError) as error:
        return dict(found, error=str(error))


def _state() -> Dict[str, Any]:
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
        "runtime": _json(RUNTIME + "/manifest.json"),
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


def _json(path: str) -> Dict[str, Any]:
    try:
        found = json.loads(_read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _packages() -> Dict[str, Any]:
    """Which program installs packages here, and whether it knows a place to take them from."""
    for manager, places in (
        ("apt-get", ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources")),
        ("dnf", ("/etc/yum.repos.d/*.repo",)),
        ("yum", ("/etc/yum.repos.d/*.repo",)),
        ("zypper", ("/etc/zypp/repos.d/*.repo",)),
    ):
        if shutil.which(manager, path=PATHS):
            texts = [_read(path) for place in places for path in glob.glob(place)]
            used = re.compile(r"^\s*(deb\b|URIs:|baseurl|metalink|mirrorlist)", re.M)
            return {"package_manager": manager, "package_sources": any(used.search(text) for text in texts)}
    return {"package_manager": "", "package_sources": False}


if __name__ == "__main__":
    main()
