"""What `up`, `join` and `down` did, as one JSON object on standard output: for Ansible and other programs.

    {"changed": true, "steps": [{"step": "docker", "phase": "done", "detail": "...", "seconds": 1.2}], "node": "one"}

`changed` is whether anything on the machine is other than before. A run that failed has `error` with the fields of a
KtoolError, and exits with a status other than 0 as always. Progress for people goes to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from provision.progress import Progress, StepEvent

F = TypeVar("F", bound=Callable[..., Any])

# Steps that look and change nothing, even when they fail.
_LOOKING = frozenset({"preflight", "cluster"})
# Phases that end a step, and what people should know of.
_TOLD = ("done", "unchanged", "failed", "warning")


def output_option(function: F) -> F:
    """`-o/--output json`"""
    option = click.option(
        "-o", "--output", type=click.Choice(("json",)), help="Print what was done as one JSON object."
    )
    return option(function)


class Report:
    """Collects the steps of a run; `fields` are added to the object."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self._events: list[StepEvent] = []

    def take(self, event: StepEvent) -> None:
        """Remember an event."""
        if event.phase in _TOLD:
            self._events.append(event)

    @property
    def changed(self) -> bool:
        """Whether a step changed something, or may have before it failed."""
        return any(event.phase in ("done", "failed") for event in self._events if event.step not in _LOOKING)

    def object(self) -> dict[str, Any]:
        """The whole report."""
        steps = [
            {"step": e.step, "phase": str(e.phase), "detail": e.detail, "seconds": round(e.seconds, 3)}
            for e in self._events
        ]
        return {"changed": self.changed, "steps": steps, **self.fields}


@contextmanager
def reporting(output: str | None) -> Iterator[tuple[Progress, Report]]:
    """A place for step events, shown to people; with `output`, the report is printed at the end, failed or not."""
    from ktool.output.progress import shown
    from kube.errors import KtoolError
    from kube.status import ApiError

    report = Report()
    try:
        with shown() as show:

            def take(event: StepEvent) -> None:
                report.take(event)
                show(event)

            yield take, report
    except KtoolError as error:
        report.fields["error"] = {
            "what": error.what,
            "found": error.found,
            "wanted": error.wanted,
            "mend": error.mend,
        }
        raise
    except ApiError as error:
        report.fields["error"] = {"what": f"the server refused: {error.message}", "found": error.reason}
        raise
    finally:
        if output:
            click.echo(json.dumps(report.object(), ensure_ascii=False))
