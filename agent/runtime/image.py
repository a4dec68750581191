"""Images on the node (CRI: ImageService)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import Struct, field


class Image(Struct, frozen=True):
    """An image on the node (CRI: Image). `references` are `name:tag`, `digests` are `name@sha256:...`."""

    id: str
    references: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Credentials for one registry (CRI: AuthConfig); none of the secrets is shown by repr."""

    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    server_address: str = ""
    identity_token: str = dataclasses.field(default="", repr=False)
    registry_token: str = dataclasses.field(default="", repr=False)


class FilesystemUsage(Struct, frozen=True):
    """The file system that holds images and containers' layers (CRI: FilesystemUsage); inodes 0: it has no limit."""

    mountpoint: str
    capacity_bytes: int
    used_bytes: int
    available_bytes: int
    inodes: int
    inodes_free: int
