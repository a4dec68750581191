"""Live progress of steps: a line per step that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from provision.progress import Progress, StepEvent

MARKS = {"done": ("✓", "green"), "unchanged": ("·", "dim"), "failed": ("✗", "red"), "warning": ("!", "yellow")}


@dataclass(slots=True)
class _Line:
    title: str
    phase: str
    detail: str
    started: float
    seconds: float = 0.0


class _Board:
    """Steps as they stand, drawn again for each refresh."""

    def __init__(self) -> None:
        self.lines: dict[str, _Line] = {}
        self.warnings: list[str] = []
        self._spinner = Spinner("dots")

    def take(self, event: StepEvent) -> None:
        if event.phase == "warning":
            self.warnings.append(event.detail)
            return
        line = self.lines.get(event.step)
        if line is None:
            line = self.lines[event.step] = _Line(event.title, "", "", time.monotonic())
        line.phase = event.phase
        line.detail = event.detail or ("" if event.phase in ("done", "unchanged") else line.detail)
        line.seconds = event.seconds

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", style="dim")
        table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
        for line in self.lines.values():
            mark = MARKS.get(line.phase)
            sign: RenderableType = Text(mark[0], mark[1]) if mark else self._spinner
            seconds = line.seconds if mark else time.monotonic() - line.started
            table.add_row(sign, line.title, f"{seconds:.1f} s", line.detail)
        return Group(table, *(Text(f"! {text}", "yellow") for text in self.warnings))


@contextmanager
def shown() -> Iterator[Progress]:
    """A place for step events: live on a terminal, one line per finished step elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain
        return
    board = _Board()
    with Live(board, console=console, refresh_per_second=10):
        yield board.take


def _plain(event: StepEvent) -> None:
    if event.phase in ("done", "unchanged", "failed", "warning"):
        mark = MARKS[event.phase][0]
        detail = f": {event.detail}" if event.detail else ""
        click.echo(f"{mark} {event.title} ({event.seconds:.1f} s){detail}", err=True)
