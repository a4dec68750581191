"""Machines for tests: real Debian with systemd, sshd and Docker, that are reached over SSH like any other.

They are nspawn machines of a lab of their own (provision/providers/nspawn, the very code that users run), on a bridge
without uplink in the namespace of the test run. The test sees plain SSH hosts: address, user, key, host key. Each can
be given a fault, and healed of it.

    with machines(5) as hosts:
        hosts[0].unplug()

They share this kernel. What that means is said where it matters: the clock of `wrong_clock`, and the memory that
programs in a machine see, which is the host's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provision.inventory.lab import (
    ImageSettings,
    Lab,
    Machine,
    NetworkMode,
    NetworkSettings,
    ProviderName,
    SSHSettings,
)
from provision.lab_state import LabState, cache_dir
from provision.machine_image.recipe import recipe_for
from provision.providers.nspawn import cgroups
from provision.providers.nspawn.provider import NspawnProvider
from provision.ssh.endpoint import Endpoint

CIDR = "10.77.0.0/24"
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
READY_SECONDS = 60.0
_CLOCK_LIBRARY = "/usr/local/lib/ktool-test-clock.so"
_PRELOAD = "/etc/ld.so.preload"

# Every program that is linked dynamically asks the time here first.
_CLOCK_SOURCE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(id, at);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += OFFSET;
    return result;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def missing() -> str:
    """Why no such machine can run here, or an empty string."""
    if os.environ.get("KTOOL_NETNS") != "1":
        return "runs in the namespace of `make test` (scripts/in-netns)"
    absent = [name for name in ("systemd-nspawn", "nft", "ip", "ssh") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    root = cache_dir() / "roots" / recipe_for(ImageSettings()).key
    return "" if root.is_dir() else "no image was built (python -m provision.machine_image)"


class Host:
    """One machine, as an SSH host: `name`, `address`, `port`, `user`, `key` (path of the private key that lets one
    in), `host_key` ("ssh-ed25519 AAAA...")."""

    def __init__(self, provider: NspawnProvider, machine: Machine, endpoint: Endpoint) -> None:
        self.name = machine.name
        self.address = endpoint.address
        self.port = endpoint.port
        self.user = endpoint.user
        self.key = endpoint.identity_files[0]
        self.host_key = endpoint.host_keys[0]
        self.endpoint = endpoint
        self._provider = provider
        self._machine = machine

    @property
    def variables(self) -> dict[str, object]:
        """What an inventory says of this host, for Ansible and ktool."""
        return {
            "ktool_provider": "ssh",
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.key),
            "ktool_ssh_host_key": self.host_key,
        }

    # ---- inside, not by SSH: also where that does not answer

    def run(self, script: str, *, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine as root; with `check`, exit status 0 is asserted."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
                *("--root", "env", "-i", "--chdir=/root", *(f"{name}={value}" for name, value in ENVIRONMENT.items())),
                *("bash", "-c", script),
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{script}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def output(self, script: str, *, timeout: float = 60) -> str:
        """What a script prints, which must succeed."""
        return self.run(script, timeout=timeout).stdout.strip()

    def ssh(self, command: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command by OpenSSH's client, which checks the host key."""
        known = ["-o", f"UserKnownHostsFile={self.endpoint.known_hosts[0]}", "-o", f"HostKeyAlias={self.name}"]
        options = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10", *known]
        argv = ["ssh", *options, "-i", str(self.key), "-p", str(self.port), f"{self.user}@{self.address}", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        """The machine's pid 1, as this side sees it; it must run."""
        pid = self._provider.first_process(self.name)
        assert pid is not None, f"{self.name} does not run: {self._provider.diagnose(self._machine)}"
        return pid

    @property
    def root(self) -> Path:
        """The files of the running machine, seen from here."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def var_lib(self) -> Path:
        """The machine's /var/lib, on this side's file system."""
        return self._provider.folder(self.name).var_lib

    def eventually(self, script: str, *, timeout: float = 60) -> None:
        """Wait until a script that only reads succeeds."""
        _eventually(lambda: self.run(script, check=False).returncode == 0, script, timeout=timeout)

    # ---- faults, and how to mend them

    def unplug(self) -> None:
        """Nothing reaches the machine any more, and it hears of nothing."""
        self._cable("down")

    def plug(self) -> None:
        """Put the cable back."""
        self._cable("up")

    def wrong_clock(self, seconds: int) -> None:
        """The machine's clock is `seconds` ahead (behind, if negative) for programs that start from now on.

        Machines share the kernel, and with it the real-time clock, for which there is no namespace. So a library is
        loaded into every dynamically linked program (/etc/ld.so.preload) that shifts what it is told: python, date,
        sshd. Programs that ask the kernel themselves (Go's, so Docker) and those that run already see the right time.
        """
        compiler = shutil.which("gcc") or shutil.which("cc")
        assert compiler, "a C compiler is needed for a wrong clock"
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "clock.so")
            source = Path(folder, "clock.c")
            source.write_text(_CLOCK_SOURCE)
            argv = [compiler, "-shared", "-fPIC", "-O1", f"-DOFFSET=({seconds})", "-o", str(library), str(source)]
            done = subprocess.run([*argv, "-ldl"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            # Under its name only when it is whole: programs start all the time.
            fresh = self._inside(_CLOCK_LIBRARY + ".new")
            fresh.write_bytes(library.read_bytes())
            fresh.chmod(0o755)
            fresh.rename(self._inside(_CLOCK_LIBRARY))
        self._inside(_PRELOAD).write_text(f"{_CLOCK_LIBRARY}\n")

    def right_clock(self) -> None:
        """As `chronyc makestep` would do."""
        self._inside(_PRELOAD).unlink(missing_ok=True)

    def foreign_cluster(self, program: str = "k3s") -> None:
        """Another Kubernetes runs here: `k3s` or `kubelet`, a process of that name and the files it would have."""
        files = {"k3s": "/etc/rancher/k3s/k3s.yaml", "kubelet": "/etc/kubernetes/kubelet.conf"}
        self.run(
            f"mkdir -p {Path(files[program]).parent} && echo 'apiVersion: v1' > {files[program]} && "
            f"cp /bin/sleep /usr/local/bin/{program} && "
            f"systemd-run --quiet --unit={program} /usr/local/bin/{program} infinity"
        )
        self.eventually(f"grep -qx {program} /proc/[0-9]*/comm")

    def no_foreign_cluster(self, program: str = "k3s") -> None:
        """As its uninstaller would do."""
        self.run(f"systemctl stop {program}; rm -rf /etc/rancher /etc/kubernetes /usr/local/bin/{program}")

    def machine_id_of(self, other: Host) -> None:
        """As if both were copies of one disk."""
        self._inside("/etc/machine-id").write_text(other._inside("/etc/machine-id").read_text())

    def own_machine_id(self) -> None:
        """Give the machine an identity of its own."""
        self.run("rm -f /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup")

    def small_disk(self, mib: int) -> None:
        """/var/lib is a (memory) disk with so much room, and nothing on it; Docker must not be running."""
        self.run(f"systemctl stop docker.socket docker containerd; mount -t tmpfs -o size={mib}m small /var/lib")

    def large_disk(self) -> None:
        """The disk that was there before."""
        self.run("umount /var/lib; systemctl start docker")

    def processor_share(self, cpus: float | None = None) -> None:
        """All its processes together get so many processors' time from now on (a quarter: 0.25); None: as before."""
        config = self._provider.config(self.name)
        assert config is not None
        cpus = config.cpus if cpus is None else cpus
        problems = cgroups.limit(config.identity, memory_bytes=config.memory_bytes, cpus=cpus, pid=self.pid)
        assert not problems, problems

    @property
    def processor_seconds(self) -> float:
        """The processor time that it has used since it started."""
        config = self._provider.config(self.name)
        assert config is not None
        return cgroups.processor_seconds(config.identity, pid=self.pid)

    def service(self, name: str, script: str) -> None:
        """Run a shell script for as long as the machine runs, as a unit (for example, to listen on a port)."""
        self.run(f"systemd-run --quiet --unit={name} bash -c {shlex.quote(script)}")

    # ---- power

    def reboot(self) -> None:
        """Reboot from inside, and wait until SSH answers again."""
        before = self.pid
        self.run("systemctl reboot", check=False)
        _eventually(lambda: self._provider.first_process(self.name) not in (None, before), "reboots")
        self.wait_ready()

    def stop(self) -> None:
        """Shut it down."""
        self._provider.stop(self._machine, _silent)

    def start(self) -> None:
        """Have it running and answering SSH."""
        self._provider.create(self._machine, _silent)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until SSH answers and users may log in."""
        self._provider.endpoint(self._machine, _silent, timeout=READY_SECONDS)

    def _cable(self, state: str) -> None:
        config = self._provider.config(self.name)
        assert config is not None
        subprocess.run(["ip", "link", "set", config.interface, state], check=True, timeout=10)

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")


@contextlib.contextmanager
def machines(
    count: int | Sequence[str],
    *,
    user: str = "root",
    cidr: str = CIDR,
    memory_mib: int = 1024,
    cpus: int = 2,
    layer: Path | None = None,
) -> Iterator[list[Host]]:
    """So many running machines (or those names), started side by side; nothing is left of them when the block ends.

    `user` who is not root may sudo without a password. Two sets at the same time need different `cidr`. `layer` is an
    archive laid over their root (the node runtime, so that it need not be copied).
    """
    names = [f"m{number}" for number in range(1, count + 1)] if isinstance(count, int) else list(count)
    # Short: the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ktool-machines-", dir="/var/tmp"))
    lab = Lab(
        name=folder.name,
        source=folder / "lab.yml",
        network=NetworkSettings(mode=NetworkMode.ISOLATED, cidr=cidr),
        machines=tuple(
            Machine(
                name=name,
                provider=ProviderName.NSPAWN,
                roles=frozenset(),
                cpus=cpus,
                memory_mib=memory_mib,
                ssh=SSHSettings(user=user),
            )
            for name in names
        ),
    )
    provider = NspawnProvider(lab, LabState(folder / "lab"), layer=layer)

    def start(machine: Machine) -> Host:
        provider.create(machine, _silent)
        return Host(provider, machine, provider.endpoint(machine, _silent, timeout=READY_SECONDS))

    try:
        provider.prepare(lab.machines, _silent)
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            started = list(pool.map(start, lab.machines))
        yield started
    finally:
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            list(pool.map(lambda name: provider.remove(name, _silent), names))
        provider.cleanup(_silent)
        shutil.rmtree(folder)


def inventory(groups: dict[str, Sequence[Host]], *, lab: str, **variables: object) -> str:
    """An inventory (YAML) of these hosts by group (`masters`, `workers`); `variables` hold for all."""
    children = {group: {"hosts": {host.name: host.variables for host in hosts}} for group, hosts in groups.items()}
    text = json.dumps({"all": {"vars": {"ktool_lab": lab, **variables}, "children": children}}, indent=2)
    return text + "\n"  # JSON is YAML


def _eventually(read: Callable[[], bool], what: str, *, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not read():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.1)


def _silent(line: str) -> None:
    pass
