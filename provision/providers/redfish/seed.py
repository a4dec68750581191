"""What the installer lays over a freshly written image: who the machine is and who may log in.

All of it is public: a host name, public keys, a network. The machine's private host key is made on the machine, and
the password of nobody is needed. So it does no harm that a network boot has no encryption.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

CLOUD_INIT = "var/lib/cloud/seed/nocloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedAddress:
    """An address that the machine keeps, where no DHCP server will be when it has been installed."""

    address: str  # with the prefix: 192.0.2.7/24
    mac: str
    gateway: str = ""
    name_servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """`keys` are lines of authorized_keys(5). `fixed` None: the network comes by DHCP. `cloud_init`: the image is one
    that was given and expects NoCloud data rather than being ktool's own."""

    name: str
    user: str
    keys: tuple[str, ...]
    fixed: FixedAddress | None = None
    cloud_init: bool = False


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file of the seed, root's; `path` has no leading slash."""

    path: str
    content: str
    mode: int = 0o644


def seed_files(seed: Seed) -> list[SeedFile]:
    """The files of a seed, in the order in which they are written."""
    home = "root" if seed.user == "root" else f"home/{seed.user}"
    files = [
        SeedFile("etc/hostname", f"{seed.name}\n"),
        SeedFile("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {seed.name}\n::1 localhost ip6-localhost\n"),
        SeedFile(f"{home}/.ssh/authorized_keys", "".join(f"{key.strip()}\n" for key in seed.keys), 0o600),
    ]
    if seed.user != "root":
        files.append(SeedFile("etc/sudoers.d/50-ktool", f"{seed.user} ALL=(ALL) NOPASSWD:ALL\n", 0o440))
    if seed.fixed is not None:
        files.append(SeedFile("etc/systemd/network/10-ktool.network", _network(seed.fixed)))
    if seed.cloud_init:
        files += [
            SeedFile(f"{CLOUD_INIT}/meta-data", f"instance-id: {seed.name}\nlocal-hostname: {seed.name}\n"),
            # The keys are in place already, and the host key that ktool knows must stay.
            SeedFile(f"{CLOUD_INIT}/user-data", "#cloud-config\nssh_deletekeys: false\ndisable_root: false\n"),
        ]
    return files


def archive(files: list[SeedFile]) -> bytes:
    """The files as a tar; folders that hold keys are their owner's only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in files:
            folder = file.path.rpartition("/")[0]
            if folder.endswith("/.ssh"):
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o700
                tar.addfile(info)
            info = tarfile.TarInfo(file.path)
            content = file.content.encode()
            info.size, info.mode = len(content), file.mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def plan_text(*, disk: str, size: int, piece_mib: int, user: str) -> str:
    """What the installer needs to know, in the shell's language. `size` in bytes, of the image on the disk."""
    values = {"DISK": disk, "SECTORS": str(-(-size // 512)), "PIECE_MIB": str(piece_mib), "USER_NAME": user}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def pieces_text(pieces: Iterable[tuple[str, str]]) -> str:
    """The image's pieces, a line each: name and SHA-256."""
    return "".join(f"{name} {sha256}\n" for name, sha256 in pieces)


def _network(fixed: FixedAddress) -> str:
    lines = [f"Address={fixed.address}", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    lines += [f"Gateway={fixed.gateway}"] if fixed.gateway else []
    lines += [f"DNS={server}" for server in fixed.name_servers]
    return f"[Match]\nMACAddress={fixed.mac}\n\n[Network]\n" + "\n".join(lines) + "\n"
