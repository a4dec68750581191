"""What makes a machine itself: the files that are laid over the root which all machines share.

They are a layer of their own, between the shared root and what the machine writes: name, keys, addresses of name
servers. The host key is made here, so it is known before the machine starts; its private half is in the machine's
folder and nowhere else.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kube.files import SECRET, write_atomic
from provision.ssh import keys

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
UNITS = "etc/systemd/system"
FIRST_USER_ID = 1000

# systemd-nspawn mounts version 1's controllers read-only; Docker in the machine wants to limit its containers.
_CGROUPS_UNIT = """\
[Unit]
Description=Control groups that this machine may change
DefaultDependencies=no
After=local-fs.target
Before=docker.service docker.socket containerd.service
ConditionPathIsMountPoint=/sys/fs/cgroup

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for tree in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$${tree%%/}" || true; done'
"""

# The host gives the machine's interface its address; nobody inside is to take it away.
_NETWORK = "[Match]\nName=eth0\n\n[Link]\nUnmanaged=yes\n"

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 50
"""


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file: its text, or the target of a link; mode and owner."""

    text: str = ""
    target: str = ""
    mode: int = 0o644
    owner: int = 0


def files(
    *, name: str, address: str, user: str, authorized_key: str, resolv_conf: str, accounts: Mapping[str, str]
) -> dict[str, SeedFile]:
    """The seed's files by path without leading slash; machine-id and host key are none of them, for they are random.

    `resolv_conf` is the host's; `accounts` has the root's `etc/passwd`, `etc/shadow` and `etc/group`, to which a `user`
    that is not there yet is added, who may become root without a password.
    """
    made = {
        "etc/hostname": SeedFile(f"{name}\n"),
        "etc/hosts": SeedFile(f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {name}\n"),
        "etc/resolv.conf": SeedFile(name_servers(resolv_conf)),
        "etc/ssh/sshd_config.d/10-ktool.conf": SeedFile(_SSHD),
        "etc/systemd/network/10-ktool-nspawn.network": SeedFile(_NETWORK),
        f"{UNITS}/systemd-networkd-wait-online.service": SeedFile(target="/dev/null"),
        f"{UNITS}/ktool-cgroups.service": SeedFile(_CGROUPS_UNIT),
        f"{UNITS}/sysinit.target.wants/ktool-cgroups.service": SeedFile(target=f"/{UNITS}/ktool-cgroups.service"),
        "etc/cloud/cloud-init.disabled": SeedFile(),
        "root/.ssh/authorized_keys": SeedFile(f"{authorized_key}\n", mode=SECRET),
    }
    if user == "root":
        return made
    changed, number = with_user(accounts, user)
    made |= {
        path: SeedFile(text, mode=0o640 if path == "etc/shadow" else 0o644)
        for path, text in changed.items()
        if text != accounts[path]
    }
    made[f"home/{user}/.ssh/authorized_keys"] = SeedFile(f"{authorized_key}\n", mode=SECRET, owner=number)
    made["etc/sudoers.d/90-ktool"] = SeedFile(f"{user} ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
    return made


def with_user(accounts: Mapping[str, str], user: str) -> tuple[dict[str, str], int]:
    """passwd, shadow and group with a user who has no password, and the user's id."""
    lines = [line.split(":") for line in accounts["etc/passwd"].splitlines()]
    there = {fields[0]: int(fields[2]) for fields in lines if len(fields) > 3}
    if user in there:
        return dict(accounts), there[user]
    number = FIRST_USER_ID
    while number in there.values():
        number += 1
    added = {
        "etc/passwd": f"{user}:x:{number}:{number}::/home/{user}:/bin/bash\n",
        "etc/shadow": f"{user}:*:19000:0:99999:7:::\n",
        "etc/group": f"{user}:x:{number}:\n",
    }
    return {path: text + added[path] for path, text in accounts.items()}, number


def name_servers(resolv_conf: str) -> str:
    """Name servers of a resolv.conf that a machine can reach: those on the host's loopback it cannot."""
    lines = [line.split() for line in resolv_conf.splitlines()]
    servers = [fields[1] for fields in lines if len(fields) > 1 and fields[0] == "nameserver"]
    return "".join(f"nameserver {one}\n" for one in servers if not one.startswith(("127.", "::1")))


def write(folder: Path, wanted: Mapping[str, SeedFile], *, name: str) -> str:
    """Have the seed in `folder`, the machine being down; gives the public host key ("ssh-ed25519 AAAA...").

    A machine-id and a host key that are there stay: they are what the machine is known by.
    """
    for path in [*wanted, HOST_KEY]:
        _folders(folder, Path(path).parent, owner=wanted[path].owner if path in wanted else 0)
    for path, file in wanted.items():
        target = folder / path
        if file.target:
            if not target.is_symlink():
                target.symlink_to(file.target)
            continue
        write_atomic(target, file.text.encode(), mode=file.mode)
        os.chown(target, file.owner, file.owner)
    machine_id = folder / "etc/machine-id"
    if not machine_id.exists():
        write_atomic(machine_id, f"{uuid.uuid4().hex}\n".encode(), mode=0o444)
    return " ".join(keys.ensure_key(folder / HOST_KEY, comment=f"root@{name}").split()[:2])


def host_key(folder: Path) -> str:
    """The public host key of a seed that was written; empty if it was not."""
    try:
        return " ".join((folder / f"{HOST_KEY}.pub").read_text().split()[:2])
    except FileNotFoundError:
        return ""


def accounts(layers: Iterable[str]) -> dict[str, str]:
    """passwd, shadow and group of the uppermost layer that has them."""
    found = {}
    for path in ("etc/passwd", "etc/shadow", "etc/group"):
        candidates = [Path(layer, path) for layer in layers]
        found[path] = next((file.read_text() for file in candidates if file.is_file()), "")
    return found


def _folders(root: Path, relative: Path, *, owner: int) -> None:
    """A layer's folders count with their modes and owners: as Debian has them, homes only for their owners."""
    at = root
    at.mkdir(mode=0o755, parents=True, exist_ok=True)
    for index, part in enumerate(relative.parts):
        at /= part
        private = relative.parts[0] == "root" or (relative.parts[0] == "home" and index >= 1)
        at.mkdir(exist_ok=True)
        at.chmod(0o700 if private else 0o755)
        if private:
            os.chown(at, owner, owner)
