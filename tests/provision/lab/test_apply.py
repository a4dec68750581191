"""Which machines Ansible's roles run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.bundle.archive import Archive, ArchiveRole
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab import apply
from provision.lab.events import LabJournal
from provision.lab.open_lab import OpenLab
from provision.lab_state import LabState


async def test_where_no_machine_is_left_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible without a limit would go over every machine: also those that could not be claimed."""
    started: list[Any] = []
    monkeypatch.setattr(apply, "run", lambda *args, **options: started.append(options["limit"]))
    one = Machine(name="one", provider=ProviderName.LOCAL, roles=frozenset({Role.MASTER}))
    open_lab = OpenLab(Lab(name="lab", source=Path("lab.yml"), machines=(one,)), LabState(tmp_path))
    archives = dict.fromkeys(ArchiveRole, Archive(path=tmp_path / "runtime.tar.gz", manifest=None))  # type: ignore[arg-type]
    journal = LabJournal(tmp_path / "journal.jsonl")

    def progress(event: object) -> None:
        raise AssertionError(event)

    assert await apply.apply(open_lab, {}, archives, {}, progress=progress, journal=journal) == {}
    assert await apply.reset(open_lab, [], progress=progress, journal=journal) == {}
    assert started == []
