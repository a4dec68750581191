"""Progress as a stream of events: whoever does the work reports, whoever has the terminal renders.

Work is a sequence of named steps, some at the same time. Each step starts, may tell details, and ends as done,
unchanged (there was nothing to do) or failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """What an event says about its step."""

    STARTED = "started"
    DETAIL = "detail"
    WARNING = "warning"
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One event. `step` is the step's stable name, `title` what people read, `detail` one line about this event,
    `seconds` the time since the step started."""

    step: str
    title: str
    phase: Phase
    detail: str = ""
    seconds: float = 0.0


Progress = Callable[[StepEvent], None]
"""Called for each event, in the thread of the event loop or of a worker; must be quick and must not raise."""


@dataclass(slots=True)
class Step:
    """A step being done: call `detail` and `warning` on the way, set `result` and `changed` before it ends."""

    name: str
    title: str
    progress: Progress
    result: str = ""
    changed: bool = True
    started: float = field(default_factory=time.monotonic)

    def detail(self, text: str) -> None:
        """Tell what is going on."""
        self._tell(Phase.DETAIL, text)

    def warning(self, text: str) -> None:
        """Tell what the user should know although the work goes on."""
        self._tell(Phase.WARNING, text)

    def unchanged(self, result: str) -> None:
        """There was nothing to do."""
        self.changed = False
        self.result = result

    def _tell(self, phase: Phase, text: str) -> None:
        self.progress(StepEvent(self.name, self.title, phase, text, time.monotonic() - self.started))


@asynccontextmanager
async def step(progress: Progress, name: str, title: str) -> AsyncIterator[Step]:
    """A step from its first event to its last; an exception in the block is told as FAILED and goes on its way."""
    doing = Step(name, title, progress)
    doing._tell(Phase.STARTED, "")
    try:
        yield doing
    except BaseException as error:
        interrupted = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        doing._tell(Phase.FAILED, "interrupted" if interrupted else str(error) or type(error).__name__)
        raise
    doing._tell(Phase.DONE if doing.changed else Phase.UNCHANGED, doing.result)
