"""Which machines `lab create` has their provider make."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab.create import CreateOptions, _Creation
from provision.lab.events import LabEvent, LabJournal, LabStep, Phase
from provision.lab.open_lab import OpenLab
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState, Report


class Provider:
    """Makes nothing, and notes what it was asked for."""

    def __init__(self, *, changes: bool) -> None:
        self.asked: list[str] = []
        self._changes = changes

    def create(self, machine: Machine, report: Report) -> bool:
        self.asked.append(machine.name)
        return self._changes


@pytest.mark.parametrize(
    ("state", "left", "changes", "told"),
    [
        (MachineState.ABSENT, None, True, (Phase.DONE, "made and started")),
        (MachineState.STOPPED, None, True, (Phase.DONE, "started")),
        (MachineState.RUNNING, None, True, None),
        (MachineState.RUNNING, LabStep.REACH, True, None),
        # left half made by a run that was killed
        (MachineState.RUNNING, LabStep.CREATE, True, (Phase.DONE, "finished what was half made")),
        (MachineState.RUNNING, LabStep.CREATE, False, (Phase.UNCHANGED, "runs")),
    ],
)
def test_who_is_made(
    tmp_path: Path, state: MachineState, left: LabStep | None, changes: bool, told: tuple[Phase, str] | None
) -> None:
    machine = Machine(name="m1", provider=ProviderName.LOCAL, roles=frozenset({Role.WORKER}))
    opened = OpenLab(Lab(name="lab", source=Path("lab.yml"), machines=(machine,)), LabState(tmp_path))
    provider: Any = Provider(changes=changes)
    opened.providers = {ProviderName.LOCAL: provider}
    if left is not None:
        LabJournal(opened.state.journal).begin("m1", left)
    events: list[LabEvent] = []
    creation = _Creation(opened, {}, events.append, CreateOptions())
    asyncio.run(creation._make(machine, Found(name="m1", state=state), creation._results["m1"]))
    assert provider.asked == (["m1"] if told else [])
    assert [(event.phase, event.detail) for event in events if event.phase is not Phase.STARTED] == (
        [told] if told else []
    )
    assert creation._results["m1"].did == ([told[1]] if told and changes else [])
    # What was taken up is no longer under way.
    assert LabStep.CREATE not in {one.step for one in LabJournal(opened.state.journal).open_steps}
