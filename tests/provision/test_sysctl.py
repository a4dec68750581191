from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision import lock, sysctl
from provision.journal import Journal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys" / "net" / "ipv4").mkdir(parents=True)
    (tmp_path / "sys" / "net" / "ipv4" / "ip_forward").write_text("0\n")
    return tmp_path / "sys"


def test_set_once_and_put_back(root: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    value = root / "net" / "ipv4" / "ip_forward"
    assert sysctl.ensure(journal, "net.ipv4.ip_forward", "1", root=root) is True
    assert sysctl.ensure(journal, "net.ipv4.ip_forward", "1", root=root) is False
    assert sysctl.ensure(journal, "net.ipv4.absent", "1", root=root) is False
    (change,) = journal.open_changes()
    assert value.read_text() == "1"
    assert sysctl.restore(change, root=root) is True
    assert value.read_text() == "0"
    value.write_text("2\n")
    assert sysctl.restore(change, root=root) is False
    assert value.read_text() == "2\n"


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCKS", tmp_path)
    with lock.held(Path("/d")):
        with pytest.raises(KtoolError, match="at work"), lock.held(Path("/d")):
            pass
        with lock.held(Path("/other")):
            pass
    with lock.held(Path("/d")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder before unlinks its file between our open() and our flock()."""
    monkeypatch.setattr(lock, "LOCKS", tmp_path)
    real, raced = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not raced:
            raced.append(descriptor)
            (tmp_path / "ktool-d.lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.held(Path("/d")):
        assert (tmp_path / "ktool-d.lock").exists()
        with pytest.raises(KtoolError, match="another ktool command is at work here"), lock.held(Path("/d")):
            pass
