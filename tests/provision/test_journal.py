from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.errors import KtoolError
from provision.journal import ChangeKind, Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.jsonl"


def test_undo_goes_backwards_and_survives_a_restart(path: Path) -> None:
    journal = Journal(path)
    journal.record(ChangeKind.DIRECTORY, "/d")
    journal.record(ChangeKind.SYSCTL, "net.ipv4.ip_forward", before="0", after="1")
    journal.record(ChangeKind.DOCKER, "/sock", before={"origin": "supervised"})
    again = Journal(path)
    assert [change.target for change in again.open_changes()] == ["/sock", "net.ipv4.ip_forward", "/d"]
    assert again.open_changes() == journal.open_changes()
    again.close(again.open_changes()[0])
    again.close(again.open_changes()[0])
    assert [change.target for change in Journal(path).open_changes()] == ["/d"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_first_before_counts(path: Path) -> None:
    journal = Journal(path)
    first = journal.record(ChangeKind.SYSCTL, "x", before="0", after="1")
    assert Journal(path).record(ChangeKind.SYSCTL, "x", before="1", after="1") == first
    journal.close(first)
    journal.close(first)
    assert journal.record(ChangeKind.SYSCTL, "x", before="2", after="1").before == "2"
    assert [change.id for change in Journal(path).open_changes()] == [2]


def test_a_torn_last_line_was_never_done(path: Path) -> None:
    journal = Journal(path)
    journal.record(ChangeKind.DIRECTORY, "/d")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id":2,"kind":"sys')
    torn = Journal(path)
    assert [change.target for change in torn.open_changes()] == ["/d"]
    torn.record(ChangeKind.SYSCTL, "x", before="0")
    assert [change.target for change in Journal(path).open_changes()] == ["x", "/d"]


def test_damage_in_the_middle_is_an_error(path: Path) -> None:
    journal = Journal(path)
    journal.record(ChangeKind.DIRECTORY, "/d")
    path.write_bytes(b"???\n" + path.read_bytes())
    with pytest.raises(KtoolError, match="line 1"):
        Journal(path)


@given(cut=st.integers(min_value=0, max_value=400))
def test_any_crash_point_leaves_a_readable_prefix(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    targets = ["/a", "/b", "/c"]
    for target in targets:
        journal.record(ChangeKind.DIRECTORY, target)
    journal.close(journal.open_changes()[0])
    path.write_bytes(path.read_bytes()[:cut])
    found = [change.target for change in reversed(Journal(path).open_changes())]
    assert found == targets[: len(found)]
    Journal(path).record(ChangeKind.DIRECTORY, "/last")
    assert [change.target for change in reversed(Journal(path).open_changes())] == [*found, "/last"]
