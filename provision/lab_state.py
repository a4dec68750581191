"""What ktool keeps of a lab on the machine from which it is made.

    id                     the lab's own identifier, by which what was made elsewhere is known to be this lab's
    source                 the inventory's path
    ssh/id_ed25519(.pub)   the lab's own key, which machines made by ktool let in
    ssh/known_hosts        host keys that were pinned when the machines were made, by machine name
    kubeconfig             the administrator's, with the master's own address
    journal.jsonl          machines being worked on; empty when nothing is under way
    runs/                  what Ansible said, a folder per run
    providers/             what a provider needs to remember, a folder per provider

The folder is under `$KTOOL_LABS`, else `/var/lib/ktool-labs` for root and `$XDG_DATA_HOME/ktool/labs` for others.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_secret
from provision import mounts

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

    @property
    def id_file(self) -> Path:
        """Where the lab's identifier is kept."""
        return self.path / "id"

    @property
    def id(self) -> str:
        """The lab's identifier, a UUID: labs of the same name differ in it. Empty before `create`."""
        try:
            return self.id_file.read_text().strip()
        except FileNotFoundError:
            return ""

    @property
    def source_file(self) -> Path:
        """Where the path of the lab's inventory is kept."""
        return self.path / "source"

    def create(self) -> None:
        """Make the folder, with an identifier; it holds keys, so it is its owner's only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if self.id:
            return
        # Several providers may get here at once: a link is made whole, and by one of them only.
        descriptor, fresh = tempfile.mkstemp(dir=self.path, prefix=".id-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{uuid.uuid4()}\n")
            with contextlib.suppress(FileExistsError):
                os.link(fresh, self.id_file)
        finally:
            Path(fresh).unlink()

    def claim(self, source: Path) -> None:
        """Note that the lab is this inventory's. KtoolError if it is another one's, which is still there."""
        self.require_source(source)
        wanted = str(source.resolve())
        if self._source != wanted:
            self.create()
            write_secret(self.source_file, f"{wanted}\n".encode())

    @property
    def _source(self) -> str:
        return self.source_file.read_text().strip() if self.source_file.exists() else ""

    def require_source(self, source: Path) -> None:
        """KtoolError if the lab is another inventory's, which is still there. One without a note is anybody's."""
        wanted, noted = source.resolve(), self._source
        if noted and Path(noted).exists() and not (wanted.exists() and Path(noted).samefile(wanted)):
            raise KtoolError(
                f"another inventory has a lab of the name {self.path.name}",
                found=noted,
                wanted=f"a name that no other inventory than {wanted} has",
                mend=f"name this one's otherwise (ktool_lab: another-name), or remove the other lab first: "
                f"ktool lab destroy -i {noted}. If both mean the same lab, remove {self.source_file}",
            )

    def remove(self) -> None:
        """Remove the folder and all in it. KtoolError, and nothing removed, while a provider has machines there."""
        if left := [path for path in sorted((self.path / "providers").glob("*")) if _holds_something(path)]:
            raise KtoolError(
                f"the lab's folder {self.path} cannot be removed",
                found=f"machines, or what they shared, are left: {', '.join(path.name for path in left)}",
                wanted="nothing of the lab's machines",
                mend="ktool lab destroy again",
            )
        try:
            mounts.remove_tree(self.path)
        except OSError as error:
            raise KtoolError(f"the lab's folder {self.path} cannot be removed", found=str(error)) from error


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or any(not one.is_dir() or one.is_symlink() for one in path.rglob("*"))
