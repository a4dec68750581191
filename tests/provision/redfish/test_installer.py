from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.machine_image.bootable import MIB, grub_cfg, partition_table, patched_loader, root_mib
from provision.providers.redfish.installer import SCRIPT, kernel_of, make_installer, needed_modules

DEPENDENCIES = """\
kernel/drivers/net/ethernet/intel/e1000/e1000.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
kernel/sound/soundcore.ko:
"""


def test_modules_come_with_what_they_need() -> None:
    assert needed_modules(DEPENDENCIES, folders=["fs/ext4"], names=["virtio-net", "crc32c_intel"]) == [
        "kernel/drivers/net/virtio_net.ko",
        "kernel/drivers/net/net_failover.ko",
        "kernel/net/core/failover.ko",
        "kernel/fs/ext4/ext4.ko",
        "kernel/fs/mbcache.ko",
        "kernel/lib/crc16.ko",
        "kernel/arch/x86/crypto/crc32c-intel.ko.xz",
    ]


def test_cards_and_disks_come_and_sound_does_not() -> None:
    needed = needed_modules(DEPENDENCIES)
    assert "kernel/drivers/net/ethernet/intel/e1000/e1000.ko" in needed
    assert "kernel/sound/soundcore.ko" not in needed


def test_one_kernel(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(KtoolError, match="no kernel"):
        kernel_of(tmp_path)
    (tmp_path / "boot/vmlinuz-6.1").touch()
    assert kernel_of(tmp_path) == (tmp_path / "boot/vmlinuz-6.1", "6.1")
    (tmp_path / "boot/vmlinuz-6.2").touch()
    with pytest.raises(KtoolError, match="no kernel"):
        kernel_of(tmp_path)


@pytest.mark.skipif(not shutil.which("busybox") or not shutil.which("depmod"), reason="no busybox or depmod")
def test_the_initrd_is_complete(tmp_path: Path) -> None:
    modules = tmp_path / "root/usr/lib/modules/6.1"
    for line in DEPENDENCIES.splitlines():
        path = modules / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (modules / "modules.dep").write_text(DEPENDENCIES)
    (modules / "modules.order").touch()
    (modules / "modules.builtin").touch()
    (tmp_path / "root/boot").mkdir()
    (tmp_path / "root/boot/vmlinuz-6.1").write_bytes(b"kernel")
    out = tmp_path / "out"
    out.mkdir()
    make_installer(tmp_path / "root", out, lambda line: None, programs=())
    assert sorted(path.name for path in out.iterdir()) == ["installer.img", "vmlinuz"]
    archive = gzip.decompress((out / "installer.img").read_bytes())
    listed = subprocess.run(["busybox", "cpio", "-t"], input=archive, capture_output=True, check=True, timeout=30)
    names = listed.stdout.decode().splitlines()
    assert {"init", "dhcp", "bin/busybox", "bin/sh", "bin/wget", "bin/udhcpc"} <= set(names)
    assert "lib/modules/6.1/kernel/drivers/net/virtio_net.ko" in names
    assert "lib/modules/6.1/kernel/sound/soundcore.ko" not in names


@pytest.mark.skipif(not shutil.which("busybox"), reason="no busybox")
def test_the_script_is_understood_by_its_shell() -> None:
    subprocess.run(["busybox", "sh", "-n", str(SCRIPT)], check=True, timeout=10)


def test_the_boot_sector_finds_the_core() -> None:
    boot, core = bytearray(512), bytearray(4096)
    first, rest = patched_loader(bytes(boot), bytes(core), sector=2048)
    assert len(first) == 440  # the table's own bytes follow
    assert struct.unpack_from("<Q", first, 0x5C) == (2048,)
    assert struct.unpack_from("<Q", rest, 0x1F4) == (2049,)
    assert len(rest) == 4096
    with pytest.raises(KtoolError, match="does not fit"):
        patched_loader(bytes(boot), bytes(2 * MIB), sector=2048)


def test_a_disk_has_room_for_its_root() -> None:
    assert root_mib(1000 * MIB) == 1100 + 32 + 96
    assert "start=135168, size=1228MiB, type=X, name=root" in partition_table(1228, root_type="X")


def test_the_kernel_finds_its_root_by_name() -> None:
    text = grub_cfg("1234-abcd")
    assert "linux /vmlinuz root=UUID=1234-abcd rw " in text
    assert "sda" not in text
    assert "vda" not in text
