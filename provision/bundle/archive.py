"""A runtime archive: what it is for, where it lies, and how to get one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

Report = Callable[[str], None]


class ArchiveRole(StrEnum):
    """What a machine can do with a runtime: a node's agent; or a control plane, and an agent as well."""

    AGENT = "agent"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a runtime is; as manifest.json beside it on the machine.

    `key` stands for the whole content. `python_tag` as in `cp311`, `arch` as `uname -m` says it. `compiled` is False
    where the machine has to compile.
    """

    key: str
    role: ArchiveRole
    version: str
    python_tag: str
    arch: str
    compiled: bool = True

    @property
    def python(self) -> str:
        """The interpreter's name: `python3.11`."""
        return f"python{self.python_tag[2]}.{self.python_tag[3:]}"

    @property
    def file_name(self) -> str:
        """The archive's name in the cache and in a bundle."""
        return f"{self.prefix}{self.key}.tar.gz"

    @property
    def prefix(self) -> str:
        """What the names of all archives of this kind begin with."""
        return f"runtime-{self.role}-{self.python_tag}-{self.arch}-"

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Manifest:
        """From decoded JSON; unknown fields are ignored. ValueError, KeyError if it is none."""
        known = {name: fields[name] for name in ("key", "version", "python_tag", "arch")}
        return cls(role=ArchiveRole(fields["role"]), compiled=bool(fields.get("compiled", True)), **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A runtime archive that is there, at `path`."""

    path: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        """The content's key."""
        return self.manifest.key

    @property
    def python_tag(self) -> str:
        """The version of Python that it is for: `cp311`."""
        return self.manifest.python_tag

    @property
    def arch(self) -> str:
        """The architecture that it is for, as `uname -m` says it."""
        return self.manifest.arch

    def described(self) -> dict[str, Any]:
        """As plain data, as the Ansible roles' variable `ktool_archives` has it."""
        fields = ("key", "python_tag", "arch", "compiled")
        known = {name: getattr(self.manifest, name) for name in fields}
        return {"path": str(self.path), "role": self.manifest.role.value, **known}


def archives(
    cache: Path, *, bundle: Path | None = None, report: Report = lambda line: None
) -> dict[ArchiveRole, Archive]:
    """The archives of all roles: from a file made by `ktool bundle create`, or made of this very ktool.

    `cache` is the folder where they are kept (provision.lab_state.cache_dir()). KtoolError if this environment lacks
    something, or the file is damaged.
    """
    if bundle is not None:
        from provision.bundle.bundle_file import unpack_archives

        return unpack_archives(bundle, cache, report)
    from provision.bundle.runtime import build

    return {role: build(role, cache, report) for role in ArchiveRole}
