"""What this host must have for nspawn machines, told before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path

from kube.errors import KtoolError
from provision.machine import cgroup_version, find_command

PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "mount": "mount",
    "unshare": "util-linux",
}
# File systems that cannot be what overlayfs writes to.
NO_UPPER = frozenset({"overlay", "aufs", "nfs", "nfs4", "cifs", "9p", "vfat"})


def require(folder: Path) -> None:
    """KtoolError for the first thing that is missing; `folder` is where machines will be, and need not exist."""
    if os.geteuid() != 0:
        raise KtoolError(
            "nspawn machines need root",
            found=f"user id {os.geteuid()}",
            wanted="root, for mounts and network namespaces",
            mend="run it with sudo, or set ktool_provider: libvirt with ktool_libvirt_uri: qemu:///session",
        )
    missing = [name for name in PACKAGES if not find_command(name)]
    if missing:
        raise KtoolError(
            "commands that nspawn machines need are missing",
            found=f"no {', '.join(missing)}",
            wanted=", ".join(PACKAGES),
            mend=f"apt-get install {' '.join(sorted({PACKAGES[name] for name in missing}))}",
        )
    if not _has_overlay():
        raise KtoolError(
            "this kernel has no overlayfs",
            found="no overlay in /proc/filesystems",
            wanted="overlayfs, by which machines share their root",
            mend="modprobe overlay",
        )
    if cgroup_version() == 0:
        raise KtoolError(
            "no control groups are mounted, so machines cannot be limited",
            found="neither a version 2 hierarchy with controllers nor version 1's memory controller",
            wanted="cgroup version 2 (or 1) at /sys/fs/cgroup",
            mend="mount -t cgroup2 none /sys/fs/cgroup",
        )
    _require_folder(folder)


def _require_folder(folder: Path) -> None:
    text = str(folder)
    if any(character in text for character in ":,\\") or folder.is_relative_to("/run"):
        raise KtoolError(
            "machines cannot be kept in this folder",
            found=text,
            wanted="a path without ':', ',' and '\\' that is not below /run, which is emptied when the host starts",
            mend="set KTOOL_LABS to another folder",
        )
    kind = file_system(folder, Path("/proc/self/mountinfo").read_text())
    if kind in NO_UPPER:
        raise KtoolError(
            "machines cannot be kept on this file system",
            found=f"{text} is on {kind}",
            wanted="one of the machine's own, such as ext4, xfs or btrfs",
            mend="set KTOOL_LABS to a folder on such a file system",
        )


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system on which `path` is, from the text of /proc/self/mountinfo."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _has_overlay() -> bool:
    from provision.command import attempt, run

    listed = Path("/proc/filesystems")
    if "\toverlay\n" not in listed.read_text():
        attempt(run, ["modprobe", "overlay"])
    return "\toverlay\n" in listed.read_text()
