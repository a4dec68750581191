"""The data directory: everything that ktool keeps on a machine, and the version of its layout.

`version.json` says who wrote it. A directory with another layout, or one that is not ktool's at all, is never
touched: preflight reports it.

    version.json  journal.jsonl  admin.kubeconfig   master.args, agent.args  what their processes are told
    pki/   the cluster's keys and certificates      store/    the database
    etcd/  a member's data, its settings beside it in etcd.yml
    agent/ the agent's certificate and volumes      log/      one file a service
    run/   sockets and pid notes                    services/ supervisord's configuration
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from kube.files import write_atomic

DEFAULT = Path("/var/lib/ktool")
# Raised when a newer ktool cannot use what an older one wrote.
LAYOUT = 1
VERSION_FILE = "version.json"
# What --keep-data keeps: enough to bring the same cluster up again.
KEPT = ("version.json", "pki", "store", "etcd", "etcd.yml", "admin.kubeconfig")

# What a file system has of its own: a data directory may be one.
NOBODYS = frozenset({"lost+found"})


class Version(msgspec.Struct, frozen=True):
    """Content of version.json: the layout's number and the ktool that wrote it."""

    layout: int
    ktool: str


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What a data directory holds: `exists`, whether it is `empty`, its `version` (None: no readable version.json)."""

    path: str
    exists: bool = False
    empty: bool = True
    version: Version | None = None


def read_state(data_dir: Path) -> StateFacts:
    """Look at a data directory that may be missing, empty, ours or somebody else's."""
    if not data_dir.exists():
        return StateFacts(str(data_dir))
    empty = data_dir.is_dir() and all(path.name in NOBODYS for path in data_dir.iterdir())
    return StateFacts(str(data_dir), exists=True, empty=empty, version=_read_version(data_dir / VERSION_FILE))


def create(data_dir: Path, *, ktool_version: str) -> None:
    """Make the directory and its version file; others may enter it (pods read their volumes) but not list it."""
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    write_version(data_dir, ktool_version=ktool_version)


def write_version(data_dir: Path, *, ktool_version: str) -> None:
    """Note the ktool that uses the directory now."""
    wanted = Version(LAYOUT, ktool_version)
    if _read_version(data_dir / VERSION_FILE) != wanted:
        write_atomic(data_dir / VERSION_FILE, msgspec.json.encode(wanted) + b"\n")


def _read_version(path: Path) -> Version | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Version)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None
