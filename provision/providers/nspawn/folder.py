"""A machine's folder: its notes and its files.

    machine.json   how it was made; says `made` once all the rest is there
    seed/          what makes it itself, over the shared root (seed.py)
    upper/, work/  what it has written, and overlayfs' own
    var-lib/       its /var/lib: a plain folder, for Docker cannot keep layers on an overlay
    root/          where the whole is mounted, in the mount namespace of the machine's start only
    console.log    what it said on its console
    snapshots/     earlier states of upper and var-lib

A folder is made, replaced and removed so that a crash in between leaves what the next call understands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from kube.files import SECRET, write_atomic
from provision import mounts
from provision.command import Runner, run
from provision.providers.nspawn import seed
from provision.providers.nspawn.config import MachineConfig
from provision.providers.nspawn.seed import SeedFile

COPY_SECONDS = 600.0
_STATE = ("upper", "var-lib")
# Made here, once: machines are handled side by side, and msgspec crashes where several threads are the first that
# make it learn a type.
_MACHINE = msgspec.json.Decoder(MachineConfig)


@dataclass(frozen=True, slots=True)
class MachineFolder:
    """The folder of one machine; it need not exist."""

    path: Path

    @property
    def console(self) -> Path:
        """What the machine said on its console."""
        return self.path / "console.log"

    @property
    def root(self) -> Path:
        """Where the machine's files are mounted when it starts."""
        return self.path / "root"

    @property
    def var_lib(self) -> Path:
        """The machine's /var/lib."""
        return self.path / "var-lib"

    @property
    def seed(self) -> Path:
        """The machine's own layer."""
        return self.path / "seed"

    @property
    def unfinished_restore(self) -> str:
        """The snapshot that was being restored when we were killed; empty if none was."""
        note = self.path / "restoring"
        return note.read_text() if note.exists() else ""

    def config(self) -> MachineConfig | None:
        """How the machine was (or is being) made; None if there are no notes of it. KtoolError if they are damaged."""
        try:
            text = (self.path / "machine.json").read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _MACHINE.decode(text)
        except msgspec.MsgspecError as error:
            raise KtoolError(
                "the notes of a machine are damaged",
                found=f"{self.path / 'machine.json'}: {error}",
                wanted="what ktool wrote",
                mend=f"remove {self.path}, then create the machine again",
            ) from error

    def save(self, config: MachineConfig) -> None:
        """Write the notes."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(config))
        write_atomic(self.path / "machine.json", text, mode=SECRET)

    def make(self, config: MachineConfig, files: Mapping[str, SeedFile], *, runner: Runner = run) -> str:
        """Have all files of a machine that is down; its public host key. What the machine has written stays."""
        self.save(config)
        key = seed.write(self.seed, files, name=config.name)
        for name in ("upper", "work", "root"):
            (self.path / name).mkdir(mode=0o755, exist_ok=True)
        if not self.var_lib.exists():
            below = next((Path(layer, "var/lib") for layer in config.layers if Path(layer, "var/lib").is_dir()), None)
            fresh = self.path / "var-lib.new"
            mounts.remove_tree(fresh)
            if below is None:
                fresh.mkdir(mode=0o755)
            else:
                _copy(below, fresh, runner)
            fresh.rename(self.var_lib)
        return key

    def remove(self) -> bool:
        """Remove the folder of a machine that is down; True if there was one.

        It is put aside first: a half removed machine is none any more.
        """
        aside = self.path.with_name(f".{self.path.name}.removed")
        mounts.remove_tree(aside)
        if not self.path.exists():
            return False
        if mounted := mounts.mounted_below(self.path):
            raise KtoolError(
                f"{self.path} cannot be removed",
                found=f"mounted below it: {', '.join(mounted)}",
                wanted="no mounts",
                mend=f"umount {mounted[0]}",
            )
        self.path.rename(aside)
        mounts.remove_tree(aside)
        return True

    # ---- snapshots

    def snapshots(self) -> list[str]:
        """Names of the machine's snapshots, the oldest first."""
        found = [path for path in (self.path / "snapshots").glob("*") if not path.name.startswith(".")]
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]

    def keep(self, name: str, *, runner: Runner = run) -> None:
        """Copy the state of the machine, which is down; a snapshot of that name is replaced."""
        _require_name(name)
        folder = self.path / "snapshots"
        fresh = folder / f".{name}.new"
        mounts.remove_tree(fresh)
        fresh.mkdir(mode=0o700, parents=True)
        for part in _STATE:
            _copy(self.path / part, fresh / part, runner)
        mounts.remove_tree(folder / name)
        fresh.rename(folder / name)

    def require_snapshot(self, name: str) -> None:
        """KtoolError unless there is a snapshot of that name."""
        if name not in self.snapshots():
            raise KtoolError(
                f"the machine {self.path.name} has no such snapshot",
                found=name,
                wanted=" or ".join(self.snapshots()) or "a snapshot, but there is none",
                mend="ktool lab snapshot makes one",
            )

    def bring_back(self, name: str, *, runner: Runner = run) -> None:
        """Put a snapshot's state in place of the machine's, which is down. KtoolError if there is none."""
        self.require_snapshot(name)
        snapshot = self.path / "snapshots" / name
        note = self.path / "restoring"
        write_atomic(note, name.encode(), mode=SECRET)
        for part in _STATE:
            fresh = self.path / f"{part}.new"
            mounts.remove_tree(fresh)
            _copy(snapshot / part, fresh, runner)
            mounts.remove_tree(self.path / part)
            fresh.rename(self.path / part)
        # overlayfs keeps notes about the upper folder in its work folder: of another upper folder they are wrong.
        mounts.remove_tree(self.path / "work")
        (self.path / "work").mkdir(mode=0o755)
        note.unlink()


def all_folders(machines: Path) -> list[MachineFolder]:
    """The folders of machines, by name."""
    return [MachineFolder(path) for path in sorted(machines.glob("*")) if path.is_dir() and path.name[0] != "."]


def sweep(machines: Path) -> None:
    """Finish removals that were interrupted."""
    for aside in machines.glob(".*.removed"):
        mounts.remove_tree(aside)


def _copy(source: Path, target: Path, runner: Runner) -> None:
    # With all attributes: overlayfs keeps its own in them. Blocks are shared where the file system can.
    runner(["cp", "-a", "--reflink=auto", str(source), str(target)], timeout=COPY_SECONDS)


def _require_name(name: str) -> None:
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise KtoolError(
            "this is no name for a snapshot",
            found=name or "nothing",
            wanted="letters, digits, '-', '_' and '.', not beginning with '.'",
        )
