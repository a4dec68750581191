"""A lab's machines at work: a live table with a row per machine on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ktool.output.progress import MARKS

if TYPE_CHECKING:
    from provision.lab.events import LabEvent, LabProgress

# The row of what concerns the lab as a whole.
LAB = "(lab)"


@dataclass(slots=True)
class _Row:
    step: str = ""
    phase: str = ""
    detail: str = ""
    started: float = 0.0
    step_started: float = 0.0
    ended: float = 0.0


class _Board:
    """Machines as they stand, drawn again for each refresh."""

    def __init__(self, machines: Sequence[str]) -> None:
        self._rows: dict[str, _Row] = {name: _Row() for name in machines}
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        self._spinner = Spinner("dots")

    def take(self, event: LabEvent) -> None:
        with self._lock:
            if event.phase == "warning":
                self._warnings.append(f"{event.machine}: {event.detail}" if event.machine else event.detail)
                return
            now = time.monotonic()
            row = self._rows.setdefault(event.machine or LAB, _Row())
            if not row.started:
                row.started = now
            if event.phase == "started":
                row.step, row.step_started, row.detail = event.step, now, ""
            row.phase, row.step = event.phase, event.step
            row.detail = event.detail or row.detail
            row.ended = 0.0 if event.phase in ("started", "detail") else now

    def __rich__(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
        table.add_column("", width=1)
        table.add_column("MACHINE", no_wrap=True)
        table.add_column("STEP", no_wrap=True)
        table.add_column("TIME", justify="right", style="dim")
        table.add_column("", style="dim", overflow="ellipsis", no_wrap=True)
        with self._lock:
            for name, row in self._rows.items():
                if not row.started:
                    table.add_row("", name, "", "", "waits")
                    continue
                mark = MARKS.get(row.phase)
                sign: RenderableType = Text(mark[0], mark[1]) if mark else self._spinner
                seconds = (row.ended or time.monotonic()) - row.started
                table.add_row(
                    sign, name, row.step, f"{seconds:.0f} s", row.detail.splitlines()[0] if row.detail else ""
                )
            return Group(table, *(Text(f"! {text}", "yellow") for text in self._warnings))


@contextmanager
def shown(machines: Sequence[str]) -> Iterator[LabProgress]:
    """A place for a lab's events: live on a terminal, plain lines elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain
        return
    board = _Board(machines)
    with Live(board, console=console, refresh_per_second=8):
        yield board.take


def _plain(event: LabEvent) -> None:
    if event.phase in ("done", "unchanged", "failed", "warning"):
        mark = MARKS[event.phase][0]
        detail = f": {event.detail}" if event.detail else ""
        click.echo(f"{mark} {event.machine or LAB} {event.step} ({event.seconds:.1f} s){detail}", err=True)
