"""What happens to a lab's machines, as a stream of events; whoever has the terminal draws them.

Each step of each machine is also journalled: an entry is on disk before the step begins and goes when it has ended
well. What an interrupted run left open, the next one tells and takes up again; every step looks before it acts, so
taking it up is doing it again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from provision.progress import Phase


class LabStep(StrEnum):
    """The steps of a machine, in their order."""

    IMAGE = "image"  # of the lab: images and networks
    CREATE = "create"
    REACH = "reach"
    CHECK = "check"
    INSTALL = "install"
    READY = "ready"
    DRAIN = "drain"
    RESET = "reset"
    REMOVE = "remove"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class LabEvent:
    """One event. `machine` is empty for what concerns the lab as a whole; `detail` is one line; seconds since the
    step's start."""

    machine: str
    step: LabStep
    phase: Phase
    detail: str = ""
    seconds: float = 0.0


LabProgress = Callable[[LabEvent], None]
"""Called from several threads; must be quick and must not raise."""


class OpenStep(msgspec.Struct, frozen=True):
    """A step that was begun and has not ended well."""

    machine: str
    step: str
    since: float


class LabJournal:
    """Steps under way, in one file of JSON lines; an empty or missing file means that nothing is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], OpenStep] = {}
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                entry = msgspec.json.decode(line, type=OpenStep)
            except msgspec.DecodeError:  # a crash while writing: the step had not begun
                continue
            self._open[entry.machine, entry.step] = entry

    @property
    def open_steps(self) -> list[OpenStep]:
        """What is (or was, before a crash) under way, oldest first."""
        with self._lock:
            return sorted(self._open.values(), key=lambda entry: entry.since)

    def begin(self, machine: str, step: str) -> None:
        """Note a step that is about to begin."""
        with self._lock:
            self._open[machine, step] = OpenStep(machine, step, time.time())
            self._write()

    def end(self, machine: str, step: str) -> None:
        """Note that a step has ended well."""
        with self._lock:
            if self._open.pop((machine, step), None) is not None:
                self._write()

    def forget(self, machine: str) -> None:
        """A machine that is gone has nothing under way."""
        with self._lock:
            gone = [key for key in self._open if key[0] == machine]
            for key in gone:
                del self._open[key]
            if gone:
                self._write()

    def _write(self) -> None:
        """Entries are few, so the file is written whole; a reader sees the old or the new one."""
        text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in self._open.values())
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(self.path)


@dataclass(slots=True)
class Doing:
    """A step being done: `report` lines on the way, set `result` and `changed` before it ends."""

    machine: str
    step: LabStep
    progress: LabProgress
    result: str = ""
    changed: bool = True
    started: float = field(default_factory=time.monotonic)

    def report(self, line: str) -> None:
        """Tell what goes on, in one line."""
        self._tell(Phase.DETAIL, line)

    def warning(self, line: str) -> None:
        """Tell what the user should know although the work goes on."""
        self._tell(Phase.WARNING, line)

    def unchanged(self, result: str = "") -> None:
        """There was nothing to do."""
        self.changed, self.result = False, result

    def _tell(self, phase: Phase, detail: str) -> None:
        self.progress(LabEvent(self.machine, self.step, phase, detail, time.monotonic() - self.started))


@contextmanager
def doing(
    progress: LabProgress, journal: LabJournal | None, machine: str, step: LabStep, *, result: str = ""
) -> Iterator[Doing]:
    """A step from its first event to its last. Without a journal it is one that only looks."""
    it = Doing(machine, step, progress, result)
    if journal is not None:
        journal.begin(machine, step)
    it._tell(Phase.STARTED, "")
    try:
        yield it
    except BaseException as error:
        what = str(error) if isinstance(error, Exception) else "interrupted"
        it._tell(Phase.FAILED, what or type(error).__name__)
        raise
    if journal is not None:
        journal.end(machine, step)
    it._tell(Phase.DONE if it.changed else Phase.UNCHANGED, it.result)
