"""What a built image is made of, as plain data, and the key under which its result is kept.

Two inventories that want the same get the same files: the key is a hash over everything that goes in. What Debian
publishes meanwhile is no part of it; `ktool lab image --refresh` builds anew.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.machine_image import guest_files
from provision.machine_image.guest_files import GuestFile, GuestLink
from provision.machine_image.purpose import Purpose

# To be raised with every change of the builder that changes its result for the same recipe.
BUILDER = 1

RELEASES = {"debian-12": "bookworm", "debian-13": "trixie"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# For a kernel that is started directly. AppArmor is off: Docker would want its parser, which wants its own start.
# Zeroing memory at each allocation guards against bugs, at a tenth of the boot's time.
KERNEL_ARGUMENTS = "root=/dev/vda rw net.ifnames=0 lsm=landlock,yama audit=0 init_on_alloc=0 quiet"
# And on an emulated processor: it has none of the faults that the mitigations are for, and reading its time stamp
# counter, which is the host's, takes a fraction of reading the timer that the kernel would trust more.
EMULATED_ARGUMENTS = "mitigations=off tsc=reliable"

PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "openssh-server", "sudo", "python3", "ca-certificates"),
    *("iproute2", "iputils-ping", "netbase", "iptables", "nftables", "conntrack", "procps", "zstd"),
    *("busybox-static", "docker.io"),
)

# Services that a package would start with its own settings, where ktool runs the same program with others.
REPLACED_SERVICES = {"etcd-server": "etcd.service"}

# What the initrd of a virtual machine loads: disk, network, entropy, what systemd would load; with what these need.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_rng", "autofs4")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A root to be built. `release` is Debian's code name, `architecture` Debian's name of it."""

    release: str
    architecture: str
    purpose: Purpose
    packages: tuple[str, ...]
    files: tuple[GuestFile, ...]
    links: tuple[GuestLink, ...]
    masked: tuple[str, ...]
    builder: int = BUILDER

    @property
    def key(self) -> str:
        """Names the result: 16 hex digits over everything in the recipe."""
        return content_key([msgspec.json.encode(self, order="deterministic")])


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which kernel package an image has; the rest of what it boots by."""

    package: str
    others: tuple[str, ...]


def is_built(image: ImageSettings) -> bool:
    """Whether the image is built here, rather than given as a file or URL."""
    return image.source in RELEASES


def machine_architecture(machine: str = "") -> str:
    """Debian's name of this machine's architecture (of `machine`, as uname says it). KtoolError for others."""
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise KtoolError(
            "no image can be built for this architecture",
            found=name,
            wanted=" or ".join(ARCHITECTURES),
            mend="give the machines an image with ktool_image",
        )
    return ARCHITECTURES[name]


def recipe_for(image: ImageSettings, *, architecture: str = "", purpose: Purpose = Purpose.VIRTUAL) -> Recipe:
    """The recipe of an image that is built; `architecture` (Debian's name) is this machine's unless it is given.

    KtoolError if the image's source is none that is built.
    """
    release = RELEASES.get(image.source)
    if release is None:
        raise KtoolError(
            "this image is not built here",
            found=f"ktool_image: {image.source}",
            wanted=" or ".join(RELEASES),
        )
    architecture = architecture or machine_architecture()
    kernel = _kernel(architecture, purpose)
    # Since Debian 13 the command is a package of its own.
    docker = ("docker-cli",) if release != "bookworm" else ()
    return Recipe(
        release=release,
        architecture=architecture,
        purpose=purpose,
        packages=tuple(
            dict.fromkeys((*PACKAGES, *docker, kernel.package, *kernel.others, *sorted(set(image.packages))))
        ),
        files=guest_files.files(purpose),
        links=guest_files.links(purpose),
        masked=(
            *guest_files.masked(purpose),
            *(REPLACED_SERVICES[p] for p in image.packages if p in REPLACED_SERVICES),
        ),
    )


def _kernel(architecture: str, purpose: Purpose) -> Kernel:
    if purpose is Purpose.VIRTUAL:
        return Kernel(f"linux-image-cloud-{architecture}", ("initramfs-tools",))
    loaders = ("grub-pc-bin", "grub-efi-amd64-bin") if architecture == "amd64" else ("grub-efi-arm64-bin",)
    return Kernel(f"linux-image-{architecture}", ("initramfs-tools", "grub2-common", *loaders))


def content_key(parts: Iterable[bytes]) -> str:
    """16 hex digits over the parts, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
