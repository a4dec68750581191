"""What an image is to run on."""

from __future__ import annotations

from enum import StrEnum


class Purpose(StrEnum):
    """What an image is to run on, which decides its kernel, its network and how it boots."""

    VIRTUAL = "virtual"  # virtio devices, kernel and initrd given from outside; systemd-nspawn too
    METAL = "metal"  # any hardware, with the packages of boot loaders for a disk of its own
