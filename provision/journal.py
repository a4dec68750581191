"""What ktool changed on this machine, so that `down` can undo exactly that.

An append-only file of JSON lines. A change is written (and synced) before it is made, with what was there before;
after its undoing a second line closes it. A crash between the two leaves an open change that was perhaps never made,
so undoing must bear that: remove what may be absent, restore what may be unchanged.

Asking for the same change twice keeps the first entry: on a second `up` the "before" of the first still holds.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from kube.errors import KtoolError


class ChangeKind(StrEnum):
    """What was changed; the comment says what `target` and `before` are."""

    DIRECTORY = "directory"  # path; before: null (it did not exist)
    SYSCTL = "sysctl"  # name; before: the value as text; after: the value that was set
    SERVICE = "service"  # name of the service; before: null
    DOCKER = "docker"  # the socket; before: provision.docker_engine.EngineBefore
    UNIT = "unit"  # a unit of systemd's that is not ours; before: provision.etcd.packaged_service.UnitState
    IMAGE = "image"  # reference of an image in the engine; before: the ID that it stood for, or null


class Change(msgspec.Struct, frozen=True):
    """One change. `id` counts from 1; `before` is what was there, plain JSON data of a shape that `kind` decides."""

    id: int
    kind: ChangeKind
    target: str
    before: Any = None
    after: Any = None


class _Undone(msgspec.Struct, frozen=True):
    undone: int


class Journal:
    """The journal in one file; a missing file is an empty journal."""

    def __init__(self, path: Path) -> None:
        """Reads the file. KtoolError if a line other than a torn last one is not understood."""
        self.path = path
        self._changes: dict[int, Change] = {}
        self._last = 0
        self._read()

    def record(self, kind: ChangeKind, target: str, *, before: Any = None, after: Any = None) -> Change:
        """Note a change that is about to be made; the entry is on disk when this returns.

        An open change of the same kind and target is given back as it is.
        """
        found = self.find(kind, target)
        if found is not None:
            return found
        change = Change(self._last + 1, kind, target, before, after)
        self._append(msgspec.json.encode(change))
        self._last = change.id
        self._changes[change.id] = change
        return change

    def find(self, kind: ChangeKind, target: str) -> Change | None:
        """The open change of this kind and target, if there is one."""
        return next((c for c in self._changes.values() if c.kind is kind and c.target == target), None)

    def open_changes(self) -> list[Change]:
        """Changes that have not been undone, the latest first: the order in which to undo them."""
        return [self._changes[number] for number in sorted(self._changes, reverse=True)]

    def close(self, change: Change) -> None:
        """Note that a change has been undone (or was found never made)."""
        if self._changes.pop(change.id, None) is not None:
            self._append(msgspec.json.encode(_Undone(change.id)))

    def _read(self) -> None:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        whole = text.endswith(b"\n")
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                entry = _decoder.decode(line)
                if isinstance(entry, dict) and "undone" in entry:
                    self._changes.pop(msgspec.convert(entry, _Undone).undone, None)
                    continue
                change = msgspec.convert(entry, Change)
            except msgspec.MsgspecError as error:
                if number == len(lines) and not whole:
                    # A crash while writing: the change that this line was to announce has not been made.
                    os.truncate(self.path, len(text) - len(line))
                    return
                raise KtoolError(
                    f"the journal {self.path} is damaged",
                    found=f"line {number}: {error}",
                    wanted="one JSON object a line",
                    mend="remove the line; what it spoke of stays on the machine after `ktool down`",
                ) from error
            self._last = max(self._last, change.id)
            self._changes[change.id] = change
        if lines and not whole:  # the last line lacks its end only
            self._append(b"")

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_decoder = msgspec.json.Decoder()
