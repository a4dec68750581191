"""The provider with a real libvirtd and a real virtual machine of the image that ktool builds.

Most tests only start machines: what libvirt has of them is what counts. One boots, which emulated takes half a minute.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from kube.errors import KtoolError
from provision import host_snapshot
from provision.inventory.lab import ImageSettings, Lab, NetworkMode
from provision.lab_state import LabState, cache_dir
from provision.machine_image.prepare import is_ready
from provision.machine_image.recipe import recipe_for
from provision.machine_image.root import boot_files
from provision.providers.libvirt import acceleration, names, warm_starts
from provision.providers.libvirt.connection import Connection
from provision.providers.libvirt.definitions import read_domain
from provision.providers.libvirt.provider import LibvirtProvider
from provision.providers.provider import Found, MachineState
from provision.ssh import known_hosts
from provision.ssh.reach import reach
from tests import libvirtd
from tests.libvirtd import Libvirtd
from tests.provision.libvirt.labs import lab, machine, network

NO_IMAGE = "" if is_ready(ImageSettings(), cache_dir()) else "no image was built (python -m provision.machine_image)"
MISSING = libvirtd.missing() or NO_IMAGE
# A machine alone boots in a quarter of a minute; the rest is for machines that are busy with other tests.
BOOT_SECONDS = 240.0
# What the kernel draws, and reads from the firmware, once per boot.
ONE_BOOTS = "/proc/sys/kernel/random/boot_id /sys/class/dmi/id/product_uuid"

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    with libvirtd.private_libvirtd() as running:
        # The first network that libvirt starts makes it lay out its firewall chains, which stay.
        made = libvirt.open(running.uri)
        made.networkCreateXML("<network><name>first</name><bridge name='first'/></network>").destroy()
        made.close()
        yield running


@pytest.fixture
def connection(daemon: Libvirtd) -> Iterator[libvirt.virConnect]:
    """A connection of the test's own; nothing is left when it ends, or the test fails."""
    before = picture(daemon)
    made = libvirt.open(daemon.uri)
    yield made
    left = [*(one.name() for one in made.listAllDomains()), *(one.name() for one in made.listAllNetworks())]
    left += [one.name() for one in made.listAllStoragePools()]
    for domain in made.listAllDomains():
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    for handle in (*made.listAllNetworks(), *made.listAllStoragePools()):
        if handle.isActive():
            handle.destroy()
        handle.undefine()
    made.close()
    assert left == []
    assert [str(one) for one in host_snapshot.difference(before, picture(daemon))] == []
    assert list(Path("/var/lib/libvirt/images").iterdir()) == []


def picture(daemon: Libvirtd) -> host_snapshot.HostSnapshot:
    found = host_snapshot.take(extra=[daemon.directory / "var-lib-libvirt/images"])
    # Other tests of this run (and other runs beside it) have processes and groups of their own.
    ignored = ("processes", "cgroups", "files", "sysctls")
    return host_snapshot.HostSnapshot({name: lines for name, lines in found.sections.items() if name not in ignored})


def silent(_: str) -> None:
    """Progress that nobody reads."""


def small(*hosts: str, **fields: object) -> Lab:
    """A lab of machines that need not do anything."""
    return lab(*(machine(name, memory_mib=256) for name in hosts), **fields)


def provider_of(one: Lab, folder: Path) -> LibvirtProvider:
    return LibvirtProvider(one, LabState(folder / one.name))


def clean(provider: LibvirtProvider, *hosts: str) -> None:
    for name in hosts:
        assert provider.remove(name, silent)
        assert not provider.remove(name, silent)
    provider.cleanup(silent)
    assert provider.cleanup(silent) == []


def the_found(provider: LibvirtProvider) -> Found:
    (found,) = provider.find()
    return found


def test_a_machine_from_nothing_to_nothing(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = lab("m1")
    (wanted,) = one.machines
    provider = provider_of(one, tmp_path)
    assert provider.find() == [Found(name="m1", state=MachineState.ABSENT)]
    said: list[str] = []
    assert provider.create(wanted, said.append)
    assert any("KVM" in line for line in said) or connection.lookupByName("lab-m1").OSType() == "hvm"

    endpoint = provider.endpoint(wanted, silent, timeout=BOOT_SECONDS)
    assert (endpoint.address, endpoint.user, endpoint.agent) == ("192.168.150.10", "root", False)
    assert known_hosts.pinned(LabState(tmp_path / "lab").known_hosts, "m1") == endpoint.host_keys
    with reach(endpoint, timeout=BOOT_SECONDS) as shell:
        told = shell.run(["sh", "-c", "hostname; cat /etc/hostname; grep -c m1 /etc/hosts; cat /etc/resolv.conf"])
        assert told.stdout.split() == ["m1", "m1", "1", "nameserver", "192.168.150.1"]
        machine_id = shell.run(["cat", "/etc/machine-id"]).stdout.strip()
        assert len(machine_id) == 32

        # Nothing to do, by the same provider and by one of a later run.
        for again in (provider, provider_of(one, tmp_path)):
            assert not again.create(wanted, silent)
            assert not again.prepare([wanted], silent)
            assert the_found(again) == Found(name="m1", state=MachineState.RUNNING, address="192.168.150.10")
        assert "192.168.150.10" in provider.diagnose(wanted)
        assert "ktool-host-key" in provider.diagnose(wanted)

        shell.run(["sh", "-c", "echo before >/root/mark; sync"])
        provider.snapshot(wanted, "clean", silent)
        shell.run(["sh", "-c", "echo after >/root/mark"])
    assert provider.snapshots(wanted) == ["clean"]
    with pytest.raises(KtoolError, match="has a snapshot of that name"):
        provider.snapshot(wanted, "clean", silent)
    with pytest.raises(KtoolError, match="no snapshot of that name") as error:
        provider.restore(wanted, "dirty", silent)
    assert "clean" in error.value.wanted
    provider.restore(wanted, "clean", silent)
    with reach(endpoint, timeout=BOOT_SECONDS) as shell:
        assert shell.run(["cat", "/root/mark"]).stdout == "before\n"

    assert provider.stop(wanted, silent)
    assert not provider.stop(wanted, silent)
    assert the_found(provider).state is MachineState.STOPPED
    clean(provider, "m1")
    assert known_hosts.pinned(LabState(tmp_path / "lab").known_hosts, "m1") == ()
    assert the_found(provider).state is MachineState.ABSENT


def test_machines_go_on_from_kept_memory(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = lab(*(machine(name, warm_start=True) for name in ("m1", "m2")))
    provider = provider_of(one, tmp_path)
    told: dict[str, list[str]] = {}
    keys: dict[str, tuple[str, ...]] = {}
    said: list[str] = []
    for wanted in one.machines:
        assert provider.create(wanted, said.append)
    assert said.count("going on from kept memory") == 2
    assert not any("so it boots" in line for line in said), said
    for wanted in one.machines:
        endpoint = provider.endpoint(wanted, silent, timeout=BOOT_SECONDS)
        keys[wanted.name] = endpoint.host_keys
        with reach(endpoint, timeout=BOOT_SECONDS) as shell:
            # What every machine has to itself, then what they have alike.
            own = "hostname; cat /etc/machine-id /sys/class/net/eth0/address /etc/ssh/ssh_host_ed25519_key.pub; "
            own += "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | sha256sum | cut -c1-64; "
            state = "systemctl is-active docker ssh; docker ps -q; date +%s; df --output=size -BG / | tail -1; "
            state += f"journalctl -q -b -u ssh -o cat | wc -l; cat {ONE_BOOTS}"
            told[wanted.name] = shell.run(["sh", "-c", own + state]).stdout.splitlines()
    for name, number in (("m1", 10), ("m2", 11)):
        hostname, machine_id, mac, host_key, _, _, docker, ssh, now, size, entries, *_ = told[name]
        assert (hostname, mac, docker, ssh) == (name, names.mac_for("lab", name), "active", "active")
        assert machine_id == names.domain_uuid("lab", name).replace("-", "")
        assert " ".join(host_key.split()[:2]) in keys[name]
        assert abs(int(now) - time.time()) < 90, "its clock does not go on from the memory's time"
        assert size.strip() == "10G"
        assert int(entries) > 0, "its journal is found by the machine-id that it has now"
        assert Found(name=name, state=MachineState.RUNNING, address=f"192.168.150.{number}") in provider.find()
    assert not set(told["m1"][:6]) & set(told["m2"][:6]), told
    assert told["m1"][-2:] == told["m2"][-2:], "docs/libvirt.md says that they have these from one boot"
    # Nothing is left of the memory, and a machine that starts again is the same as before.
    assert provider.snapshots(one.machines[0]) == []
    assert connection.lookupByName("lab-m1").snapshotNum() == 0
    connection.lookupByName("lab-m1").destroy()
    assert provider.create(one.machines[0], said.append)
    assert said[-1] == "starting"
    endpoint = provider.endpoint(one.machines[0], silent, timeout=BOOT_SECONDS)
    with reach(endpoint, timeout=BOOT_SECONDS) as shell:
        again = "hostname; cat /etc/machine-id /sys/class/net/eth0/address /etc/ssh/ssh_host_ed25519_key.pub"
        assert shell.run(["sh", "-c", again]).stdout.splitlines() == told["m1"][:4]
        assert "ktool.warm" not in shell.run(["cat", "/proc/cmdline"]).stdout
        boot_id, system_uuid = shell.run(["sh", "-c", f"cat {ONE_BOOTS}"]).stdout.split()
        assert boot_id != told["m1"][-2]
        assert system_uuid == names.domain_uuid("lab", "m1")
    clean(provider, "m1", "m2")


def test_memory_that_cannot_be_read_costs_only_time(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = lab(machine("m1", warm_start=True))
    (wanted,) = one.machines
    provider = provider_of(one, tmp_path)
    provider.prepare(one.machines, silent)
    spoilt = tmp_path / "spoilt.qcow2"
    (base,) = Path("/var/lib/libvirt/images/ktool-lab").glob("base-*.disk")
    asked = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base.name, "-F", "qcow2", str(spoilt), "10G"]
    subprocess.run(asked, check=True, timeout=60)
    provider._warm._disks = dict.fromkeys(provider._warm._disks, spoilt)
    said: list[str] = []
    assert provider.create(wanted, said.append)
    assert any("cannot go on from kept memory, so it boots" in line for line in said), said
    assert the_found(provider).state is MachineState.RUNNING
    assert connection.lookupByName("lab-m1").snapshotNum() == 0
    clean(provider, "m1")


def test_memory_for_which_there_is_no_room_costs_only_time(
    connection: libvirt.virConnect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = small("m1")
    wanted = replace(one.machines[0], warm_start=True)
    provider = provider_of(one, tmp_path)
    provider.prepare(one.machines, silent)
    monkeypatch.setattr(provider._warm, "disk", lambda *_, **__: tmp_path / "warm.qcow2")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    said: list[str] = []
    assert provider.create(wanted, said.append)
    assert any("so it boots: [Errno 28]" in line for line in said), said
    assert the_found(provider).state is MachineState.RUNNING
    assert "m1.identity" not in connection.lookupByName("lab-m1").XMLDesc()
    clean(provider, "m1")


def test_half_made_machines_are_completed(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = small("m1")
    (wanted,) = one.machines
    provider = provider_of(one, tmp_path)
    provider.create(wanted, silent)
    domain = connection.lookupByName("lab-m1")
    pool = connection.storagePoolLookupByName("ktool-lab")

    # Defined and not started.
    domain.destroy()
    assert the_found(provider).state is MachineState.STOPPED
    assert provider.create(wanted, silent)
    # Stopped by somebody on the way.
    domain.suspend()
    assert the_found(provider).state is MachineState.BROKEN
    assert provider.create(wanted, silent)
    assert the_found(provider).state is MachineState.RUNNING
    # A disk without a machine.
    domain.destroy()
    domain.undefine()
    assert the_found(provider).state is MachineState.BROKEN
    assert provider.create(wanted, silent)
    assert the_found(provider).state is MachineState.RUNNING
    # A machine without its disk: the new one has another host key.
    known_hosts.pin(LabState(tmp_path / "lab").known_hosts, "m1", ["ssh-ed25519 " + "AAAAC3NzaC1lZDI1NTE5" + "A" * 48])
    connection.lookupByName("lab-m1").destroy()
    pool.storageVolLookupByName("m1.qcow2").delete()
    assert the_found(provider).state is MachineState.BROKEN
    assert provider.create(wanted, silent)
    assert known_hosts.pinned(LabState(tmp_path / "lab").known_hosts, "m1") == ()
    # An upload that was broken off, and a network that lost its lease and does not run.
    connection.lookupByName("lab-m1").destroy()
    (base,) = [one for one in pool.listAllVolumes() if one.name().endswith(".vmlinuz")]
    os.truncate(base.path(), 1000)
    made = connection.networkLookupByName("lab")
    made.update(
        libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE,
        libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
        -1,
        f"<host mac='{names.mac_for('lab', 'm1')}'/>",
        libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG,
    )
    made.destroy()
    assert provider.create(wanted, silent)
    assert os.stat(base.path()).st_size > 1 << 20
    assert the_found(provider) == Found(name="m1", state=MachineState.RUNNING, address="192.168.150.10")
    assert not provider.create(wanted, silent)
    clean(provider, "m1")


def test_what_the_inventory_changes(connection: libvirt.virConnect, tmp_path: Path) -> None:
    before = small("m1")
    provider = provider_of(before, tmp_path)
    provider.create(before.machines[0], silent)
    after = lab(machine("m0", memory_mib=256), machine("m1", memory_mib=320, cpus=3, disk_gib=12, autostart=False))
    changed = provider_of(after, tmp_path)
    m0, m1 = after.machines
    assert changed.find()[1].differences == (
        "memory: 256 MiB, wanted 320 MiB (from its next start)",
        "processors: 2, wanted 3 (from its next start)",
        "disk: 10 GiB, wanted 12 GiB (from its next start)",
    )
    # A machine is added: the network goes on, and who was there keeps the address.
    assert changed.create(m0, silent)
    assert [one.address for one in changed.find()] == ["192.168.150.11", "192.168.150.10"]
    assert changed.create(m1, silent)
    assert len(changed.find()[1].differences) == 3
    connection.lookupByName("lab-m1").destroy()
    assert changed.create(m1, silent)
    assert changed.find()[1].differences == ()
    facts = read_domain(connection.lookupByName("lab-m1").XMLDesc())
    assert (facts.memory_mib, facts.cpus) == (320, 3)
    assert not connection.lookupByName("lab-m1").autostart()
    assert not changed.create(m1, silent)
    # A machine leaves the inventory.
    assert [(one.name, one.known) for one in provider.find()] == [("m1", True), ("m0", False)]
    assert provider.cleanup(silent) == []
    assert provider.remove("m0", silent)
    clean(provider, "m1")


def test_what_others_have_made_stays(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = small("m1", network=network(NetworkMode.ISOLATED))
    provider = provider_of(one, tmp_path)
    theirs = connection.defineXML(
        "<domain type='qemu'><name>lab-m1</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )
    with pytest.raises(KtoolError, match="this lab has not made"):
        provider.create(one.machines[0], silent)
    assert not provider.remove("m1", silent)
    assert the_found(provider).state is MachineState.ABSENT
    assert len(provider.cleanup(silent)) == 2
    assert theirs.name() == "lab-m1"
    theirs.undefine()

    net = connection.networkDefineXML("<network><name>lab</name><bridge name='theirs'/></network>")
    with pytest.raises(KtoolError, match="network lab that ktool has not made"):
        provider.prepare(one.machines, silent)
    provider.cleanup(silent)
    assert net.name() == "lab"
    net.undefine()


def test_addresses_that_are_in_use(connection: libvirt.virConnect, tmp_path: Path) -> None:
    # The bridge of the tests' namespace.
    taken = small("m1", network=network(cidr="192.0.2.0/24"))
    with pytest.raises(KtoolError, match="in use on the host") as error:
        provider_of(taken, tmp_path).prepare(taken.machines, silent)
    assert "lan" in error.value.found
    first, second = small("m1", name="first"), small("m1", name="second")
    provider = provider_of(first, tmp_path)
    provider.prepare((), silent)
    with pytest.raises(KtoolError, match="in use on the host") as error:
        provider_of(second, tmp_path).prepare((), silent)
    assert "first" in error.value.found
    provider.cleanup(silent)


def test_networks_that_are_there(connection: libvirt.virConnect, tmp_path: Path) -> None:
    nowhere = small("m1", network=network(NetworkMode.EXISTING, name="office"))
    with pytest.raises(KtoolError, match="network office is not there"):
        provider_of(nowhere, tmp_path).prepare(nowhere.machines, silent)
    bridged = small("m1", network=network(NetworkMode.EXISTING, bridge="lan"))
    provider = provider_of(bridged, tmp_path)
    assert provider.create(bridged.machines[0], silent)
    assert read_domain(connection.lookupByName("lab-m1").XMLDesc()).network == "lan"
    assert not provider.create(bridged.machines[0], silent)
    clean(provider, "m1")


def test_no_privileges_on_the_network(connection: libvirt.virConnect, tmp_path: Path) -> None:
    alone = small("m1", network=network(NetworkMode.USER))
    provider = provider_of(alone, tmp_path)
    assert provider.create(alone.machines[0], silent)
    found = the_found(provider)
    assert (found.state, found.address, found.differences) == (MachineState.RUNNING, "127.0.0.1", ())
    assert read_domain(connection.lookupByName("lab-m1").XMLDesc()).port > 0
    assert not provider.create(alone.machines[0], silent)
    assert connection.listAllNetworks() == []
    clean(provider, "m1")


def test_a_machine_that_does_not_come_up(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = small("m1")
    (wanted,) = one.machines
    provider = provider_of(one, tmp_path)
    with pytest.raises(KtoolError, match="does not exist"):
        provider.endpoint(wanted, silent, timeout=1)
    provider.create(wanted, silent)
    connection.lookupByName("lab-m1").suspend()
    with pytest.raises(KtoolError, match="does not come up") as error:
        provider.endpoint(wanted, silent, timeout=1)
    assert "domain lab-m1: paused (by somebody)" in error.value.found
    connection.lookupByName("lab-m1").destroy()
    with pytest.raises(KtoolError, match="has stopped"):
        provider.endpoint(wanted, silent, timeout=1)
    clean(provider, "m1")


def test_a_disk_must_hold_its_image(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = lab(machine("m1", disk_gib=2))
    provider = provider_of(one, tmp_path)
    with pytest.raises(KtoolError, match="too small for its image"):
        provider.prepare(one.machines, silent)
    provider.cleanup(silent)


@pytest.mark.parametrize(
    ("call", "warm"),
    [
        ("virConnect.storagePoolDefineXML", False),
        ("virConnect.networkDefineXML", False),
        ("virConnect.defineXML", False),
        ("virConnect.defineXML", True),
        ("virDomain.snapshotCreateXML", True),
        ("virDomain.revertToSnapshot", True),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_on_the_way(connection: libvirt.virConnect, tmp_path: Path, call: str, warm: bool, when: str) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
import libvirt
from tests.provision.libvirt.test_provider import provider_of, silent, the_killed

original = libvirt.{call}
def dying(*arguments):
    if {when!r} == "after":
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
libvirt.{call} = dying
one = the_killed(warm={warm})
provider_of(one, Path(sys.argv[1])).create(one.machines[0], silent)
"""
    checkout = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=checkout, check=False, timeout=120, capture_output=True
    )
    assert done.returncode == -9, done.stderr.decode()
    one = the_killed(warm=warm)
    disk = "/var/lib/libvirt/images/ktool-lab/m1.qcow2"
    assert warm_starts.keeps_memory(disk) is warm
    provider = provider_of(one, tmp_path)
    said: list[str] = []
    assert provider.create(one.machines[0], said.append)
    assert ("removing the memory that an interrupted run has left in its disk" in said) is warm
    assert the_found(provider).state is MachineState.RUNNING
    assert connection.lookupByName("lab-m1").snapshotNum() == 0
    assert not warm_starts.keeps_memory(disk)
    assert not provider.create(one.machines[0], silent)
    clean(provider, "m1")


def test_a_copy_that_was_broken_off_goes(connection: libvirt.virConnect, tmp_path: Path) -> None:
    one = small("m1")
    provider = provider_of(one, tmp_path)
    provider.prepare(one.machines, silent)
    Path("/var/lib/libvirt/images/ktool-lab/.m1.qcow2.part").write_bytes(b"half of a disk")
    clean(provider, "m1")


def the_killed(*, warm: bool) -> Lab:
    """A lab of one machine, which boots or goes on from kept memory."""
    return lab(machine("m1", warm_start=True)) if warm else small("m1")


def test_the_try_itself(connection: libvirt.virConnect, tmp_path: Path, daemon: Libvirtd) -> None:
    """What is tried under KVM is something that works: emulated it does."""
    kernel = boot_files(recipe_for(ImageSettings()), cache_dir(), silent).kernel
    shared = Connection(daemon.uri)
    for path in (str(kernel), ""):
        assert acceleration.boots(shared, "qemu", arch="x86_64", chipset="q35", kernel=path, seconds=90)
    nothing = tmp_path / "no-kernel"
    nothing.write_bytes(bytes(4096))
    assert not acceleration.boots(shared, "qemu", arch="x86_64", chipset="q35", kernel=str(nothing), seconds=2)
    shared.close()


def test_what_was_found_out_is_kept(connection: libvirt.virConnect, tmp_path: Path, daemon: Libvirtd) -> None:
    shared = Connection(daemon.uri)
    said: list[str] = []
    found = [
        acceleration.domain_type(shared, arch="x86_64", chipset="q35", kernel="", cache=tmp_path, report=said.append)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert len([line for line in said if line.startswith("trying")]) <= 1
    assert (
        acceleration.domain_type(shared, arch="sparc", chipset="none", kernel="", cache=tmp_path, report=said.append)
        == "qemu"
    )
    assert "does not offer" in said[-1]
    shared.close()


def test_a_given_image_gets_a_seed(connection: libvirt.virConnect, tmp_path: Path) -> None:
    disk = tmp_path / "cloud.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True, timeout=30)
    one = lab(machine("m1", memory_mib=256, image=ImageSettings(source=str(disk))))
    given = replace(one, machines=(replace(one.machines[0], ssh=replace(one.machines[0].ssh, user="ops")),))
    provider = provider_of(given, tmp_path)
    assert provider.create(given.machines[0], silent)
    text = connection.lookupByName("lab-m1").XMLDesc()
    assert "<kernel>" not in text
    assert "m1.seed.iso" in text
    assert not provider.create(given.machines[0], silent)
    clean(provider, "m1")
