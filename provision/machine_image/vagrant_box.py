"""A Vagrant box made from the same root as every other machine's image (Vagrant: "Box File Format", vagrant-libvirt).

A box is a tar: the disk, what Vagrant is to know of it, and settings that belong to it. Ours has the kernel and the
initrd beside the disk, and its settings have libvirt start those directly: no boot loader, which where each instruction
is emulated takes as long as all the rest of the boot.

What Vagrant wants of any box is a layer over the root: the user `vagrant` with the public key whose private half comes
with every Vagrant, who may use sudo. A box is therefore for networks that only its host reaches.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_atomic
from provision.command import run
from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.machine_image.cache import as_owner, digest_of, entry
from provision.machine_image.disk import DISK_BYTES, make_disk
from provision.machine_image.recipe import EMULATED_ARGUMENTS, KERNEL_ARGUMENTS, content_key, recipe_for
from provision.machine_image.root import BootFiles, boot_files, root
from provision.providers.provider import Report

NAME = "ktool/node"
# To be raised with every change here that makes another box of the same root.
FORMAT = 1

USER = "vagrant"
USER_ID = 1000
# Vagrant's insecure public key, which every Vagrant knows the other half of.
PUBLIC_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct"
    "1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUec"
    "p4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hruc"
    "XzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key"
)
# The plainest processor is emulated quickest: programs prefer what others offer besides, and that is emulated too. But
# compiled Python packages take what x86-64-v2 has (numpy ends at once without).
CPU_FEATURES = ("cx16", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3")
# Every file's time, in seconds since 1970 (2020-01-01), so that the same layer is the same file.
_TIME = 1_577_836_800


class Driver(StrEnum):
    """How libvirt runs the box's machines: `driver` of vagrant-libvirt."""

    KVM = "kvm"
    QEMU = "qemu"  # each instruction is emulated


@dataclass(frozen=True, slots=True)
class Accounts:
    """The root's files of users and groups, as text."""

    passwd: str
    group: str
    shadow: str

    def with_user(self, name: str, number: int) -> Accounts:
        """The same with one more user, who has a group of the same name and number, and no password."""
        return Accounts(
            passwd=f"{self.passwd}{name}:x:{number}:{number}::/home/{name}:/bin/bash\n",
            group=f"{self.group}{name}:x:{number}:\n",
            # A star: nothing is the password. (An exclamation mark would lock the account for keys as well.)
            shadow=f"{self.shadow}{name}:*:19000:0:99999:7:::\n",
        )


def box(
    cache: Path,
    report: Report,
    *,
    driver: Callable[[BootFiles], Driver],
    image: ImageSettings | None = None,
    disk_gib: int = 10,
    refresh: bool = False,
) -> Path:
    """The catalog of a box that is ready: a JSON file from which `vagrant box add` takes it (`config.vm.box_url`).

    `driver` says how machines with that kernel are run. Made at the first call, then kept; the box's version is the
    time at which it was made. KtoolError as of root().
    """
    recipe = recipe_for(image or ImageSettings())
    base = root(recipe, cache, report, refresh=refresh)
    boot = boot_files(recipe, cache, report)
    tar = layer(_accounts(base))
    settings = vagrantfile(driver(boot))
    key = content_key([recipe.key.encode(), tar, settings.encode(), f"{FORMAT} {disk_gib}".encode()])

    def make(folder: Path) -> None:
        accounts = folder / "accounts.tar"
        accounts.write_bytes(tar)
        full = folder / "disk.qcow2"
        make_disk(root(recipe, cache, report, layer=accounts), full)
        report("packing the box")
        _pack(folder / "node.box", full, boot=boot, settings=settings, disk_gib=disk_gib)
        accounts.unlink()
        full.unlink()
        place = cache / "vagrant-boxes" / key / "node.box"
        (folder / "box.json").write_text(catalog(place, version=version_at(time.time())))

    folder = entry(cache, "vagrant-boxes", key, make=make, need=DISK_BYTES, report=report, refresh=refresh)
    return folder / "box.json"


def version_at(now: float) -> str:
    """A box's version for a time in seconds since 1970: `YEAR.MONTHDAY.SECONDS`; later ones are greater."""
    t = time.gmtime(now)
    return f"{t.tm_year}.{t.tm_mon * 100 + t.tm_mday}.{t.tm_hour * 3600 + t.tm_min * 60 + t.tm_sec}"


def catalog(box_file: Path, *, version: str) -> str:
    """The box's metadata (Vagrant: "Box Metadata"), which gives it a version and names its file."""
    provider = {"name": "libvirt", "url": f"file://{box_file}"}
    return json.dumps(
        {
            "name": NAME,
            "description": "Debian 12 for a ktool node, booted without a boot loader",
            "versions": [{"version": version, "providers": [provider]}],
        },
        indent=1,
    )


def vagrantfile(driver: Driver) -> str:
    """The settings that go with the box; a user's Vagrantfile is read after them and wins."""
    processor = {
        Driver.QEMU: "\n    ".join(
            ['libvirt.cpu_mode = "custom"', 'libvirt.cpu_model = "qemu64"']
            + [f'libvirt.cpu_feature name: "{name}", policy: "require"' for name in CPU_FEATURES]
        ),
        Driver.KVM: 'libvirt.cpu_mode = "host-passthrough"',
    }[driver]
    more = f" {EMULATED_ARGUMENTS}" if driver is Driver.QEMU else ""
    return f"""\
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "{driver}"
    {processor}
    libvirt.machine_type = "q35"
    libvirt.kernel = File.expand_path("vmlinuz", __dir__)
    libvirt.initrd = File.expand_path("initrd", __dir__)
    libvirt.cmd_line = "{KERNEL_ARGUMENTS}{more} console=ttyS0"
  end
end
"""


def layer(accounts: Accounts) -> bytes:
    """A tar to be laid over a root with these accounts: the user `vagrant`, its key, and that it may use sudo."""
    wanted = accounts.with_user(USER, USER_ID)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(path: str, mode: int, content: str | None = None, *, owner: int = 0, group: int = 0) -> None:
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid, info.mtime = mode, owner, group, _TIME
            data = (content or "").encode()
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add("etc/passwd", 0o644, wanted.passwd)
        add("etc/group", 0o644, wanted.group)
        add("etc/shadow", 0o640, wanted.shadow, group=_number(wanted.group, "shadow"))
        add("etc/sudoers.d/vagrant", 0o440, f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        home = f"home/{USER}"
        for folder, mode in ((home, 0o755), (f"{home}/.ssh", 0o700)):
            add(folder, mode, owner=USER_ID, group=USER_ID)
        add(f"{home}/.ssh/authorized_keys", 0o600, PUBLIC_KEY + "\n", owner=USER_ID, group=USER_ID)
    return buffer.getvalue()


def _number(groups: str, name: str) -> int:
    return next(int(line.split(":")[2]) for line in groups.splitlines() if line.startswith(f"{name}:"))


def _accounts(base: Path) -> Accounts:
    # The passwords' file is for its owner only.
    texts = [run(as_owner(["cat", "--", str(base / "etc" / name)])) for name in ("passwd", "group", "shadow")]
    return Accounts(*texts)


def _pack(target: Path, image: Path, *, boot: BootFiles, settings: str, disk_gib: int) -> None:
    smaller = target.with_name("box.img")
    # Each copy that Vagrant makes of it (fetch, unpack, upload) is a third of the size; reading costs next to nothing.
    packed = ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]
    run(["qemu-img", "convert", "-m", "4", "-W", *packed, str(image), str(smaller)], timeout=600)
    metadata = json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": disk_gib})
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in (("metadata.json", metadata), ("Vagrantfile", settings)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(text.encode()), _TIME
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, path in (("vmlinuz", boot.kernel), ("initrd", boot.initrd), ("box.img", smaller)):
            tar.add(path, name)
    smaller.unlink()


def found_driver(boot: BootFiles, uri: str, report: Report) -> Driver:
    """How that libvirt runs machines here: KVM if a kernel boots under it. KtoolError if libvirt does not answer."""
    from provision.providers.libvirt.acceleration import domain_type
    from provision.providers.libvirt.connection import Connection

    connection = Connection(uri)
    try:
        kernel = str(boot.kernel) if connection.place.is_local else ""
        found = domain_type(
            connection,
            arch=platform.machine(),
            chipset="q35",
            kernel=kernel,
            digest=digest_of(boot.kernel, cache_dir()) if kernel else "",
            cache=cache_dir(),
            report=report,
        )
    finally:
        connection.close()
    return Driver(found)


def main() -> None:
    """`scripts/vagrant-box`: have a box ready, and its catalog where the Vagrantfile looks for it."""
    checkout = Path(__file__).parents[2]
    kept = checkout / os.environ.get("VAGRANT_DOTFILE_PATH", ".vagrant")
    uri = os.environ.get("KTOOL_VAGRANT_LIBVIRT_URI") or "qemu:///system"
    parser = argparse.ArgumentParser(prog="scripts/vagrant-box", description="Have the box of the Vagrantfile ready.")
    parser.add_argument("--catalog", type=Path, default=kept / "ktool/box.json", help="where Vagrant finds it")
    parser.add_argument("--driver", choices=list(Driver), help="how libvirt runs machines; found out if not given")
    parser.add_argument("--refresh", action="store_true", help="build anew from Debian's present packages")
    wanted = parser.parse_args()

    def report(line: str) -> None:
        print(line, flush=True)

    def driver(boot: BootFiles) -> Driver:
        return Driver(wanted.driver) if wanted.driver else found_driver(boot, uri, report)

    try:
        made = box(cache_dir(), report, driver=driver, refresh=wanted.refresh)
        write_atomic(wanted.catalog, made.read_bytes(), mode=0o644)
    except KtoolError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
