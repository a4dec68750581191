"""What the files in a lab's storage pool are called."""

from __future__ import annotations

import re

# The last is what virtlogd makes of a long log.
_OURS = re.compile(
    r"base-[0-9A-Za-z]+\.(disk|vmlinuz|initrd)|[0-9a-z][0-9a-z.-]*\.(qcow2|seed\.iso|identity|console\.log(\.\d+)?)"
    r"|\.[0-9a-z][0-9a-z.-]*\.qcow2\.part"
)


def is_ours(name: str) -> bool:
    """Whether ktool calls a file so."""
    return _OURS.fullmatch(name) is not None


def disk(machine: str) -> str:
    """A machine's own disk, a linked clone of a base."""
    return f"{machine}.qcow2"


def part(name: str) -> str:
    """A disk that is still being copied, or that a killed ktool has not copied to its end."""
    return f".{name}.part"


def seed(machine: str) -> str:
    """The small disk that tells cloud-init who the machine is."""
    return f"{machine}.seed.iso"


def identity(machine: str) -> str:
    """The small disk that tells a machine that was started from kept memory who it is."""
    return f"{machine}.identity"


def log(machine: str) -> str:
    """What the machine said on its console."""
    return f"{machine}.console.log"


def of_machine(machine: str) -> tuple[str, ...]:
    """All files of a machine; the last is what virtlogd makes of a long log."""
    return disk(machine), part(disk(machine)), seed(machine), identity(machine), log(machine), f"{log(machine)}.0"


def base(key: str) -> str:
    """The disk of an image with that key."""
    return f"base-{key}.disk"


def kernel(key: str) -> str:
    """The kernel that belongs to an image."""
    return f"base-{key}.vmlinuz"


def initrd(key: str) -> str:
    """The initrd that belongs to an image."""
    return f"base-{key}.initrd"


def key_of(base_path: str) -> str:
    """The image's key, from the path of its disk."""
    return base_path.rpartition("/")[2].removeprefix("base-").partition(".")[0]
