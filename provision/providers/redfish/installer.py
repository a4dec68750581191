"""The installer that machines are booted into: a kernel and an initrd, made of an image's root folder.

The initrd is a static busybox, zstd, the script `installer.sh`, and the kernel's modules for what stands between a bare
machine and its installation: network cards, disks and their controllers, ext4. Kernel and modules come from the root of
the image for bare metal, so they fit each other, and a machine that can be installed can also run the result.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command
from provision.machine_image.cache import as_owner
from provision.providers.provider import Report

SCRIPT = Path(__file__).with_name("installer.sh")

# Raised with every change here that changes the result for the same root; the script counts by itself.
BUILDER = 2

# Folders under the modules' `kernel/`, all of whose modules come along.
DRIVERS = (
    *("drivers/net/ethernet", "drivers/net/phy", "drivers/net/mdio", "drivers/net/pcs", "drivers/net/hyperv"),
    *("drivers/net/vmxnet3", "drivers/virtio", "drivers/block", "drivers/nvme/host", "drivers/ata", "drivers/scsi"),
    *("drivers/message/fusion", "drivers/mmc", "drivers/usb/host", "fs/ext4"),
)
# Single modules, by name, wherever they are.
MODULES = ("virtio_net", "crc32c_generic", "crc32c-intel", "libcrc32c", "sd_mod", "usbhid", "hid-generic", "vmd")

# What busybox has of this kind (gunzip) takes six times as long.
PROGRAMS = ("/usr/bin/zstd",)

# udhcpc calls it with what the server said (busybox: udhcpc).
_DHCP = """\
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
/bin/ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || /bin/ip route add default via "${router%% *}"
"""


def kernel_of(root: Path) -> tuple[Path, str]:
    """The root's kernel and its version. KtoolError if there is none, or several."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise KtoolError(
            "the image for bare metal has no kernel that can be told apart",
            found=", ".join(path.name for path in kernels) or "none in /boot",
            wanted="one",
            mend="leave kernels out of `ktool_image_packages`",
        )
    return kernels[0], kernels[0].name.removeprefix("vmlinuz-")


def needed_modules(dependencies: str, *, folders: Iterable[str] = DRIVERS, names: Iterable[str] = MODULES) -> list[str]:
    """From the text of a modules.dep (depmod(8)): the modules of these folders and names with all that they need, in
    the file's order."""
    needs: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        module, _, needed = line.partition(":")
        needs[module] = needed.split()
    starts = tuple(f"kernel/{folder}/" for folder in folders)
    wanted_names = {name.replace("-", "_") for name in names}
    queue = [module for module in needs if module.startswith(starts) or _name(module) in wanted_names]
    taken: set[str] = set()
    while queue:
        module = queue.pop()
        if module not in taken:
            taken.add(module)
            queue += needs.get(module, [])
    return [module for module in needs if module in taken]


def _name(module: str) -> str:
    return module.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def make_installer(root: Path, folder: Path, report: Report, *, programs: Iterable[str] = PROGRAMS) -> None:
    """Put `vmlinuz` and `installer.img` into an empty folder; `programs` of the root come along.

    KtoolError if the machine lacks a static busybox or depmod.
    """
    report("making the installer")
    kernel, version = kernel_of(root)
    shutil.copyfile(kernel, folder / "vmlinuz")
    tree = folder / "tree"
    _fill(tree, root, version, programs)
    (folder / "installer.img").write_bytes(gzip.compress(_cpio(tree), compresslevel=6, mtime=0))
    shutil.rmtree(tree)


def _fill(tree: Path, root: Path, version: str, programs: Iterable[str]) -> None:
    busybox = _busybox()
    for name in ("bin", "proc", "sys", "dev", "lib"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    for applet in run([str(busybox), "--list"]).split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    for name, text in (("init", SCRIPT.read_text(encoding="utf-8")), ("dhcp", _DHCP)):
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    for program in programs:
        for path in _program_files(root, program):
            target_file = tree / path.lstrip("/")
            target_file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path.lstrip("/"), target_file)
            target_file.chmod(0o755)
        (tree / "bin" / Path(program).name).symlink_to(program)
    source = root / "usr/lib/modules" / version
    target = tree / "lib/modules" / version
    for module in needed_modules((source / "modules.dep").read_text()):
        (target / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / module, target / module)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    run(["depmod", "-b", str(tree), version], timeout=120, env=_PATH)


def _program_files(root: Path, program: str) -> list[str]:
    """A program of the root with the libraries that it needs."""
    needed = run(as_owner(["chroot", str(root), "ldd", program]))
    return [program, *re.findall(r"(/\S+) \(0x", needed)]


_PATH: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _cpio(tree: Path) -> bytes:
    """The folder as a cpio archive, all of it root's (the kernel's Documentation: early userspace)."""
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    done = subprocess.run(
        [str(_busybox()), "cpio", "-o", "-H", "newc", "-R", "0:0"],
        cwd=tree,
        input=names.encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise KtoolError("the installer's archive cannot be made", found=done.stderr.decode(errors="replace"))
    return done.stdout


def _busybox() -> Path:
    found = find_command("busybox")
    # A static program has no loader named in its first page.
    if not found or b"ld-linux" in Path(found).read_bytes()[:4096]:
        raise KtoolError(
            "the installer for bare metal needs a static busybox",
            found=f"{found or 'no busybox'}{', linked dynamically' if found else ''}",
            wanted="a static one",
            mend="apt-get install busybox-static",
        )
    return Path(found)
