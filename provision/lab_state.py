"""What ktool keeps of a lab on the machine from which it is made.

    ssh/id_ed25519(.pub)   the lab's own key, which machines made by ktool let in
    ssh/known_hosts        host keys that were pinned when the machines were made, by machine name
    kubeconfig             the administrator's, with the master's own address
    journal.jsonl          machines being worked on; empty when nothing is under way
    runs/                  what Ansible said, a folder per run
    providers/             what a provider needs to remember, a folder per provider

The folder is under `$KTOOL_LABS`, else `/var/lib/ktool-labs` for root and `$XDG_DATA_HOME/ktool/labs` for others.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

LABS_VARIABLE = "KTOOL_LABS"
CACHE_VARIABLE = "KTOOL_CACHE"


def labs_dir() -> Path:
    """Where all labs' folders are."""
    if named := os.environ.get(LABS_VARIABLE):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/ktool-labs")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "ktool/labs"


def cache_dir() -> Path:
    """Where images are kept, by content, for all labs: `$KTOOL_CACHE`, else `/var/cache/ktool` for root."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/ktool")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktool"


@dataclass(frozen=True, slots=True)
class LabState:
    """One lab's folder. It need not exist yet."""

    path: Path

    @classmethod
    def of(cls, lab_name: str) -> LabState:
        """The folder of the lab of that name."""
        return cls(labs_dir() / lab_name)

    @property
    def identity(self) -> Path:
        """The lab's private SSH key."""
        return self.path / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """Pinned host keys, one line a machine: `NAME KEYTYPE KEY`."""
        return self.path / "ssh" / "known_hosts"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.path / "kubeconfig"

    @property
    def journal(self) -> Path:
        """The journal of work under way."""
        return self.path / "journal.jsonl"

    @property
    def runs(self) -> Path:
        """Logs of Ansible's runs."""
        return self.path / "runs"

    def provider(self, name: str) -> Path:
        """A provider's own folder."""
        return self.path / "providers" / name

    def create(self) -> None:
        """Make the folder; it holds keys, so it is its owner's only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
