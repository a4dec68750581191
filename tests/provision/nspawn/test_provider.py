"""The provider for real: machines that boot, answer SSH and run containers, and leave nothing behind.

Two machines serve the tests that only use them; what ends or breaks a machine has a lab of its own.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from kube.errors import KtoolError
from provision import host_snapshot, processes
from provision.inventory.lab import Lab, Machine, NetworkMode, NetworkSettings, ProviderName
from provision.lab_state import LabState
from provision.providers.nspawn import boot, cgroups, network, seed
from provision.providers.nspawn import folder as machine_folder
from provision.providers.nspawn.config import MachineConfig
from provision.providers.nspawn.provider import NspawnProvider
from provision.providers.provider import MachineState
from provision.services.supervisord import SupervisordServices
from provision.ssh import known_hosts
from tests import machines
from tests.machines import Host

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing()),
]

# Where a process that creates is killed: just before or after one of its functions.
Point = tuple[Any, str, Literal["before", "after"]]
POINTS: dict[str, Point] = {
    "network noted": (network, "ensure", "before"),
    "bridge without its tag": (network, "_require_free", "after"),
    "network made": (network, "ensure", "after"),
    "machine noted": (seed, "write", "before"),
    "seed written": (seed, "write", "after"),
    "copied aside": (machine_folder, "_copy", "after"),
    "files written": (known_hosts, "pin", "before"),
    "key pinned": (known_hosts, "pin", "after"),
    "service written": (SupervisordServices, "install", "after"),
    "service started": (SupervisordServices, "start", "after"),
}
REMOVAL_POINTS: dict[str, Point] = {
    "machine stopped": (SupervisordServices, "remove", "before"),
    "service removed": (SupervisordServices, "remove", "after"),
    "key forgotten": (known_hosts, "unpin", "after"),
    "files put aside": (shutil, "rmtree", "before"),
    "services gone": (SupervisordServices, "shutdown", "after"),
    "network gone": (network, "remove", "after"),
}


def lab_of(names: list[str], **fields: object) -> Lab:
    return Lab(
        name="test",
        source=Path("lab.yml"),
        network=NetworkSettings(mode=NetworkMode.ISOLATED, cidr="10.76.0.0/24"),
        machines=tuple(
            Machine(**{"name": name, "provider": ProviderName.NSPAWN, "roles": frozenset(), **fields})  # type: ignore[arg-type]
            for name in names
        ),
    )


def provider_of(lab: Lab, folder: Path) -> NspawnProvider:
    return NspawnProvider(lab, LabState(folder / "lab"))


def silent(line: str) -> None:
    pass


def in_another_process(work: Callable[[], object], *, fatal: Point | None = None) -> int:
    """Work of a process that ends with it, or in the middle of it; its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            if fatal is not None:
                die_in(*fatal)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def create(folder: Path) -> None:
    """What `ktool lab create` asks of the provider, for a lab of one machine."""
    lab = lab_of(["one"])
    provider_of(lab, folder).create(lab.machines[0], silent)


def destroy(folder: Path) -> None:
    """What `ktool lab destroy` asks of the provider."""
    provider = provider_of(lab_of(["one"]), folder)
    provider.remove("one", silent)
    provider.cleanup(silent)


def die_in(owner: Any, name: str, when: Literal["before", "after"]) -> None:
    """Let this process be killed by the next call of a function."""
    original = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> None:
        if when == "after":
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A lab's folder with a short path; whatever machines are in it end with the test."""
    path = Path(tempfile.mkdtemp(prefix="ktool-nspawn-", dir="/var/tmp"))
    yield path
    provider = provider_of(lab_of([]), path)
    for found in provider.find():
        provider.remove(found.name, silent)
    provider.cleanup(silent)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with machines.machines(["master", "worker"], user="admin", memory_mib=600, cpus=1) as started:
        yield started


def image() -> bytes:
    """A root with nothing but a shell, as `docker import` takes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "cat", "echo", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


# ---- two machines, as they are


def test_ssh_answers_with_the_pinned_key_and_the_user_may_sudo(hosts: list[Host]) -> None:
    for host in hosts:
        done = host.ssh("hostname; sudo -n id -u")
        assert done.stdout.split() == [host.name, "0"], done.stderr
    lines = hosts[0].endpoint.known_hosts[0].read_text().splitlines()
    assert sorted(lines) == sorted(f"{host.name} {host.host_key}" for host in hosts)
    assert hosts[0].host_key != hosts[1].host_key


def test_machines_are_whole_and_different(hosts: list[Host]) -> None:
    for host in hosts:
        assert host.output("systemctl is-system-running --wait") == "running"
        assert host.output("ps -o comm= -p 1") == "systemd"
    assert len({host.output("cat /etc/machine-id") for host in hosts}) == 2
    assert [host.output("ip -4 -o addr show eth0 | awk '{print $4}'") for host in hosts] == [
        f"{host.address}/24" for host in hosts
    ]
    hosts[0].run(f"ping -c 1 -W 5 {hosts[1].address}")
    assert hosts[0].run("ip route get 198.51.100.1", check=False).returncode, "there is no way out"


def test_containers_run_within_the_machines_memory(hosts: list[Host]) -> None:
    host = hosts[0]
    host.eventually("docker version")
    (host.root / "root/image.tar").write_bytes(image())
    host.run("docker import /root/image.tar box")
    inner = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
    assert host.output(f"docker run --rm --memory 64m --network none box sh -c '{inner}'") == str(64 * 1024 * 1024)
    assert host.output("docker info -f '{{.Driver}}'") == "overlay2"
    # /sys/fs/cgroup in the machine begins at the machine's own group.
    limit = host.output(f"cat {' '.join('/sys/fs/cgroup/' + name for name in LIMIT_FILES)} 2>/dev/null || true")
    assert str(600 * 1024 * 1024) in limit.split()


LIMIT_FILES = ("memory/memory.limit_in_bytes", "memory.max")


def test_a_machine_may_do_what_a_node_does(hosts: list[Host]) -> None:
    hosts[1].run(
        """
        sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
        nft add table ip probe && nft delete table ip probe
        ip link add probe0 type bridge && ip link add v0 type veth peer name v1 && ip link set v0 master probe0 up
        ip link delete v0; ip link delete probe0
        ip netns add probe && ip netns delete probe
        conntrack -C
        mkdir -p /var/lib/probe && mount -t tmpfs probe /var/lib/probe && umount /var/lib/probe
        """
    )


def test_a_reboot_keeps_address_and_identity(hosts: list[Host]) -> None:
    host = hosts[1]
    identity = host.output("cat /etc/machine-id; touch /root/kept; mkdir /var/lib/kept; ip link add gone type bridge")
    host.reboot()
    assert host.ssh("true").returncode == 0
    assert (
        host.output("cat /etc/machine-id; ls -d /root/kept /var/lib/kept") == f"{identity}\n/root/kept\n/var/lib/kept"
    )
    assert host.run("ip link show gone", check=False).returncode, "a reboot starts with a fresh network"


# ---- faults that other tests give to machines


def test_faults_can_be_made_and_mended(hosts: list[Host]) -> None:
    host, other = hosts
    host.unplug()
    assert other.run(f"ping -c 1 -W 1 {host.address}", check=False).returncode
    host.plug()
    assert host.ssh("true").returncode == 0

    clock = "python3 -I -S -c 'import time; print(time.time())'"
    host.wrong_clock(3600)
    assert float(host.ssh(clock).stdout) - time.time() == pytest.approx(3600, abs=30)
    assert int(host.ssh("date +%s").stdout) - time.time() == pytest.approx(3600, abs=30)
    host.wrong_clock(-90)
    assert float(host.ssh(clock).stdout) - time.time() == pytest.approx(-90, abs=30)
    host.right_clock()
    assert float(host.ssh(clock).stdout) - time.time() == pytest.approx(0, abs=30)

    for program in ("k3s", "kubelet"):
        host.foreign_cluster(program)
        assert host.ssh(f"pgrep -x {program}").returncode == 0
        host.no_foreign_cluster(program)
        assert host.ssh(f"pgrep -x {program}").returncode

    host.machine_id_of(other)
    assert host.output("cat /etc/machine-id") == other.output("cat /etc/machine-id")
    host.own_machine_id()
    assert host.output("cat /etc/machine-id") != other.output("cat /etc/machine-id")

    host.small_disk(64)
    assert int(host.output("df --output=avail -B1M /var/lib | tail -1")) <= 64
    host.large_disk()
    host.eventually("docker version")


# ---- the life of a lab


def test_a_machine_outlives_who_made_it_is_found_again_and_comes_back(folder: Path) -> None:
    lab = lab_of(["one"])
    assert in_another_process(lambda: create(folder)) == 0
    provider = provider_of(lab, folder)
    (found,) = provider.find()
    assert (found.state, found.address, found.differences) == (MachineState.RUNNING, "10.76.0.11", ())
    provider.endpoint(lab.machines[0], silent, timeout=30)
    first = provider.first_process("one")
    assert first is not None
    assert provider.create(lab.machines[0], silent) is False
    assert provider.first_process("one") == first
    assert "Permit User Sessions" in provider.diagnose(lab.machines[0])

    larger = lab_of(["one"], memory_mib=2048)
    provider = provider_of(larger, folder)
    assert provider.find()[0].differences == ("memory: 1024 MiB, wanted 2048 MiB",)
    assert provider.create(larger.machines[0], silent) is True
    assert provider.first_process("one") == first, "more memory takes no restart"
    assert provider.find()[0].differences == ()
    config = provider.config("one")
    assert isinstance(config, MachineConfig)
    limits = [group / name for group in cgroups.existing(config.identity) for name in LIMIT_NAMES]
    assert str(2048 * 1024 * 1024) in [path.read_text().strip() for path in limits if path.exists()]

    assert [(one.name, one.known) for one in provider_of(lab_of([]), folder).find()] == [("one", False)]

    os.kill(first, signal.SIGKILL)
    _eventually(lambda: provider.first_process("one") not in (None, first))
    supervisor = int((folder / "lab/providers/nspawn/run/supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert processes.wait_gone(supervisor, 5)
    assert provider.create(lab.machines[0], silent) is True, "a machine whose supervisor was killed gets a new one"
    assert provider.find()[0].state is MachineState.RUNNING
    provider.endpoint(lab.machines[0], silent, timeout=30)


LIMIT_NAMES = ("memory.limit_in_bytes", "memory.max")


def test_snapshots_bring_back_root_and_var_lib(folder: Path) -> None:
    lab = lab_of(["one"])
    provider, machine = provider_of(lab, folder), lab.machines[0]
    provider.create(machine, silent)
    host = Host(provider, machine, provider.endpoint(machine, silent, timeout=30))
    host.run("echo before > /root/file; echo before > /var/lib/file; rm /etc/fstab")
    provider.snapshot(machine, "early", silent)
    host.wait_ready()
    host.run("echo after > /root/file; rm /var/lib/file; touch /etc/fstab")
    provider.restore(machine, "early", silent)
    host.wait_ready()
    assert host.output("cat /root/file /var/lib/file; ls /etc/fstab 2>/dev/null || echo none").split() == [
        *("before", "before", "none")
    ]
    assert provider.snapshots(machine) == ["early"]
    with pytest.raises(KtoolError, match="no such snapshot") as caught:
        provider.restore(machine, "late", silent)
    assert caught.value.wanted == "early"
    assert provider.find()[0].state is MachineState.RUNNING, "a refusal leaves the machine as it was"

    assert provider.stop(machine, silent) is True
    assert provider.find()[0].state is MachineState.STOPPED
    assert provider.stop(machine, silent) is False


def test_powered_off_it_stays_off_and_one_that_cannot_start_says_why(folder: Path) -> None:
    lab = lab_of(["one"])
    provider, machine = provider_of(lab, folder), lab.machines[0]
    provider.create(machine, silent)
    host = Host(provider, machine, provider.endpoint(machine, silent, timeout=30))
    # A service that ends within its first second is one that could not start, and is started again.
    host.eventually("systemctl is-active docker")
    time.sleep(1.1)  # Docker may be quicker than that
    host.run("systemctl poweroff", check=False)
    _eventually(lambda: provider.find()[0].state is MachineState.STOPPED)
    with pytest.raises(KtoolError, match="does not answer") as caught:
        provider.endpoint(machine, silent, timeout=5)
    assert "console:" in caught.value.mend

    upper = folder / "lab/providers/nspawn/machines/one/upper"
    upper.rename(upper.with_name("elsewhere"))
    with pytest.raises(KtoolError, match="does not start") as caught:
        provider.create(machine, silent)
    assert "overlay" in caught.value.found, "what the start said"
    upper.with_name("elsewhere").rename(upper)
    assert provider.create(machine, silent) is True
    host.wait_ready()


def test_killed_at_every_step_the_next_create_completes_and_remove_leaves_nothing(folder: Path) -> None:
    before = picture(folder)
    for fatal, point in POINTS.items():  # each run gets one step further than the one before
        assert in_another_process(lambda: create(folder), fatal=point) == signal.SIGKILL, fatal
        assert provider_of(lab_of(["one"]), folder).find()[0].name == "one", "reads what is there"
    complete_and_remove(folder, before, killed_in_removal=True)


@pytest.mark.lab
@pytest.mark.parametrize("fatal", POINTS)
def test_killed_at_one_step_the_next_create_completes(folder: Path, fatal: str) -> None:
    before = picture(folder)
    assert in_another_process(lambda: create(folder), fatal=POINTS[fatal]) == signal.SIGKILL
    complete_and_remove(folder, before)


def complete_and_remove(folder: Path, before: host_snapshot.HostSnapshot, *, killed_in_removal: bool = False) -> None:
    lab = lab_of(["one"])
    provider = provider_of(lab, folder)
    provider.create(lab.machines[0], silent)
    assert provider.find()[0].state is MachineState.RUNNING
    endpoint = provider.endpoint(lab.machines[0], silent, timeout=30)
    assert known_hosts.pinned(LabState(folder / "lab").known_hosts, "one") == endpoint.host_keys
    config = provider.config("one")
    assert config is not None
    if killed_in_removal:
        for fatal, point in REMOVAL_POINTS.items():
            assert in_another_process(lambda: destroy(folder), fatal=point) == signal.SIGKILL, fatal
    destroy(folder)
    assert provider.remove("one", silent) is False
    nothing_left(folder, config, before)


def picture(folder: Path) -> host_snapshot.HostSnapshot:
    found = host_snapshot.take(extra=[folder])
    # Other tests of this run (and other runs beside it) have processes and groups of their own.
    return host_snapshot.HostSnapshot(
        {name: lines for name, lines in found.sections.items() if name not in ("processes", "cgroups", "files")}
    )


def nothing_left(folder: Path, config: MachineConfig, before: host_snapshot.HostSnapshot) -> None:
    assert [str(one) for one in host_snapshot.difference(before, picture(folder))] == []
    assert cgroups.existing(config.identity) == []
    marked = [pid for pid in processes.all_pids() if processes.has_mark_prefix(pid, f"KTOOL_SERVICE={folder}")]
    assert [processes.command_line(pid) for pid in marked if processes.is_alive(pid)] == []
    assert not (folder / "lab/providers/nspawn").exists()
    assert known_hosts.pinned(LabState(folder / "lab").known_hosts, config.name) == ()


def test_the_command_of_a_machine_is_what_it_should_be(tmp_path: Path) -> None:
    config = MachineConfig(
        lab="l", name="a", identity="0123456789", address="10.0.0.2", mac="02:00:00:00:00:01", memory_mib=512, cpus=1,
        user="root", image="x", layers=("/runtime", "/debian"),
    )  # fmt: skip
    machine = boot.MachineFolder(tmp_path)
    assert boot.overlay_options(machine, config) == (
        f"lowerdir={tmp_path}/seed:/runtime:/debian,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    )
    argv = boot.command(machine, config, "ktool-lab-0123456789")
    assert {"--register=no", "--keep-unit", "--hostname=a"} <= {*argv}


def _eventually(read: Callable[[], bool], *, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not read():
        assert time.monotonic() < deadline
        time.sleep(0.1)
