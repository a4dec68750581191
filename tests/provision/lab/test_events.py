"""Steps, their events and their journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.lab.events import LabEvent, LabJournal, LabStep, doing
from provision.progress import Phase


def names(journal: LabJournal) -> list[tuple[str, str]]:
    return [(entry.machine, entry.step) for entry in journal.open_steps]


def test_a_step_that_ended_well_leaves_nothing(tmp_path: Path) -> None:
    journal = LabJournal(tmp_path / "lab" / "journal.jsonl")
    events: list[LabEvent] = []
    with doing(events.append, journal, "w1", LabStep.CREATE) as step:
        assert names(LabJournal(journal.path)) == [("w1", "create")]
        step.report("booting")
        step.warning("no KVM")
        step.result = "made"
    assert journal.path.read_bytes() == b""
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert [(event.phase, event.detail) for event in events] == [
        (Phase.STARTED, ""),
        (Phase.DETAIL, "booting"),
        (Phase.WARNING, "no KVM"),
        (Phase.DONE, "made"),
    ]


def test_a_step_that_failed_stays_open_until_it_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events: list[LabEvent] = []
    with pytest.raises(OSError, match="no disk"), doing(events.append, LabJournal(path), "w1", LabStep.CREATE):
        raise OSError("no disk")
    assert (events[-1].phase, events[-1].detail) == (Phase.FAILED, "no disk")
    again = LabJournal(path)
    assert names(again) == [("w1", "create")]
    with doing(events.append, again, "w1", LabStep.CREATE) as step:
        step.unchanged("is there")
    assert events[-1].phase is Phase.UNCHANGED
    assert names(LabJournal(path)) == []


def test_a_torn_line_is_a_step_that_had_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = LabJournal(path)
    journal.begin("w1", "create")
    journal.begin("w2", "reach")
    path.write_bytes(path.read_bytes()[:-9])
    assert names(LabJournal(path)) == [("w1", "create")]
    again = LabJournal(path)
    again.forget("w1")
    assert path.read_bytes() == b""
