"""Kernel settings that are changed and given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.proxy.sysctl import Sysctls
from kube.errors import KtoolError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    (root / "net").mkdir(parents=True)
    (root / "net" / "forward").write_text("0\n")
    (root / "net" / "other").write_text("1\n")
    return root


def test_the_first_value_is_the_one_that_comes_back(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert Sysctls(record, root=root).set("net/forward", "1")
    # another process, later; somebody has changed the setting meanwhile
    (root / "net" / "forward").write_text("2\n")
    later = Sysctls(record, root=root)
    assert later.set("net/forward", "1")
    assert not later.set("net/forward", "1")
    later.restore()
    assert (root / "net" / "forward").read_text() == "0"
    assert not record.exists()
    later.restore()


def test_what_is_right_already_is_not_recorded(root: Path, tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "record.json", root=root)
    assert not sysctls.set("net/other", "1")
    assert not (tmp_path / "record.json").exists()


def test_what_is_gone_is_not_restored(root: Path, tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "record.json", root=root)
    sysctls.set("net/forward", "1")
    sysctls.set("net/other", "0")
    (root / "net").rename(root / "gone")
    sysctls.restore()
    assert not (tmp_path / "record.json").exists()


def test_errors_name_the_setting(root: Path, tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "record.json", root=root)
    assert not sysctls.exists("net/absent")
    with pytest.raises(KtoolError, match=r"cannot set net\.absent"):
        sysctls.set("net/absent", "1")
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(KtoolError, match="damaged"):
        sysctls.set("net/forward", "1")
    assert (root / "net" / "forward").read_text() == "0\n"
