"""Progress of steps: live on a terminal (ktool.output.board), one line per finished step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from provision.progress import Progress, StepEvent

MARKS = {"done": ("✓", "green"), "unchanged": ("·", "dim"), "failed": ("✗", "red"), "warning": ("!", "yellow")}


@contextmanager
def shown() -> Iterator[Progress]:
    """A place for step events. What draws on a terminal is imported only for one."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from ktool.output.board import live

    with live() as take:
        yield take


def _plain(event: StepEvent) -> None:
    if event.phase in ("done", "unchanged", "failed", "warning"):
        mark = MARKS[event.phase][0]
        detail = f": {event.detail}" if event.detail else ""
        click.echo(f"{mark} {event.title} ({event.seconds:.1f} s){detail}", err=True)
