"""Labs: a virtual machine against the same image booted by hand; five SSH hosts against one (bench.ssh_hosts).

The machines are emulated or share this kernel, and all of them these cores: the ratios say more than the seconds.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from bench import ktool_lab, ssh_hosts
from bench.figure import Figure
from provision.bundle.archive import ArchiveRole, archives
from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.machine_image.prepare import virtual_image
from provision.machine_image.recipe import EMULATED_ARGUMENTS, KERNEL_ARGUMENTS
from provision.machine_image.vagrant_box import CPU_FEATURES
from provision.providers.libvirt.seed import oem_strings
from provision.ssh.keys import ensure_key

SSH_SECONDS = 300.0


def run(*, hosts: int = 5, rounds: int = 3) -> list[Figure]:
    """All figures of labs; needs root, the namespace of `make bench`, and a built image."""
    from tests import libvirtd, machines

    if why := libvirtd.missing() or machines.missing():
        raise RuntimeError(why)
    with tempfile.TemporaryDirectory(prefix="ktbench-", dir="/var/tmp") as folder:
        virtual = _virtual(Path(folder))
        return [*virtual, *ssh_hosts.run(Path(folder), hosts=hosts, rounds=rounds)]


def _virtual(folder: Path) -> list[Figure]:
    from tests import libvirtd

    group = "one virtual machine (libvirt, emulated)"
    lab, booting = (_one_machine(folder, name, warm) for name, warm in (("bench-vm", True), ("bench-boot", False)))
    with libvirtd.private_libvirtd():
        # The image, and the memory that machines of it go on from, are made once for a version of ktool.
        ktool_lab.ktool(folder, "lab", "image", "-i", str(lab))
        floor = _by_hand(folder)
        try:
            made = ktool_lab.create(folder, lab)
            again = ktool_lab.create(folder, lab)
        finally:
            ktool_lab.destroy(folder, lab)
        try:
            booted = ktool_lab.create(folder, booting).seconds
        finally:
            ktool_lab.destroy(folder, booting)
    total = made.seconds
    return [
        Figure(group, "floor: the image by hand with QEMU, until SSH answers", floor, "s"),
        Figure(
            group, "`ktool lab create` to a Ready node", total, "s", 1.5 * floor + 20, note="target: 1.5 × floor + 20 s"
        ),
        *(Figure(group, f"of it: {name}", seconds, "s") for name, seconds in made.phases.items()),
        Figure(group, "run again, nothing to do", again.seconds, "s"),
        Figure(group, "the same without kept memory (`ktool_warm_start: false`)", booted, "s"),
    ]


def _one_machine(folder: Path, name: str, warm: bool) -> Path:
    """The inventory of a lab of one virtual machine."""
    variables = {
        "ktool_lab": name,
        "ktool_provider": "libvirt",
        "ktool_warm_start": warm,
        "ktool_network": {"mode": "isolated", "cidr": "10.82.0.0/24"},
    }
    lab = folder / f"{name}.yml"
    lab.write_text(yaml.safe_dump({"all": {"vars": variables, "children": {"masters": {"hosts": {"b1": {}}}}}}))
    return lab


def _by_hand(folder: Path) -> float:
    """Seconds from the start of QEMU until a command over SSH has ended, with the image that the lab has too."""
    layer = archives(cache_dir())[ArchiveRole.CONTROL].path
    image = virtual_image(ImageSettings(), cache_dir(), lambda line: None, layer=layer)
    assert image.boot is not None
    key = folder / "key"
    public = ensure_key(key)
    disk = folder / "floor.qcow2"
    backing = ["-o", f"backing_file={image.disk},backing_fmt=qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk)], check=True, timeout=30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-m", "1024", "-display", "none"]
    argv += ["-smp", "2"]  # as the lab's machine
    argv += ["-cpu", ",".join(["qemu64", *(f"+{feature}" for feature in CPU_FEATURES)]), "-no-reboot"]
    argv += [
        "-kernel",
        str(image.boot.kernel),
        "-initrd",
        str(image.boot.initrd),
        "-append",
        f"{KERNEL_ARGUMENTS} {EMULATED_ARGUMENTS} console=ttyS0",
    ]
    argv += ["-drive", f"file={disk},if=virtio,format=qcow2", "-serial", f"file:{folder / 'floor.console'}"]
    argv += ["-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-rng-pci"]
    for text in oem_strings("floor", public):
        argv += ["-smbios", f"type=11,value={text}"]
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
    ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "true"]
    # QEMU's user network takes a connection before anything listens in the machine: such a one is given up soon, or
    # the time that ssh waits for it would be what is measured.
    began = time.monotonic()
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while subprocess.run(ssh, capture_output=True, timeout=60, check=False).returncode:
            if time.monotonic() - began > SSH_SECONDS or machine.poll() is not None:
                raise RuntimeError("the image does not boot by hand")
            time.sleep(0.2)
        return time.monotonic() - began
    finally:
        machine.kill()
        machine.wait(10)
        disk.unlink()
