"""The live view of steps on a terminal: a line per step, which changes while the step goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ktool.output.progress import MARKS

if TYPE_CHECKING:
    from provision.progress import Progress, StepEvent


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
def live() -> Iterator[Progress]:
    """The view on standard error, while the block runs."""
    board = _Board()
    with Live(board, console=Console(stderr=True, highlight=False), refresh_per_second=10):
        yield board.take
