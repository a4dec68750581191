"""What a lab leaves on a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.lab.marks import leave
from provision.ssh.endpoint import Endpoint
from provision.ssh.local import LocalConnection
from provision.ssh.shell import RemoteCommandFailed

HERE = LocalConnection(Endpoint(name="here", address="127.0.0.1", local=True, become=False))


def test_a_word_is_left_and_replaced(tmp_path: Path) -> None:
    place = tmp_path / "a folder" / "of its own" / "lab"
    before = os.umask(0o077)
    try:
        for word in ("one", "it's $another\\n"):
            leave(HERE, word, str(place))
            assert place.read_text() == f"{word}\n"
            assert place.stat().st_mode & 0o777 == 0o644
            assert place.parent.stat().st_mode & 0o777 == 0o755
            assert [path.name for path in place.parent.iterdir()] == ["lab"]
    finally:
        os.umask(before)


def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    with pytest.raises(RemoteCommandFailed):
        leave(HERE, "one", str(tmp_path / "lab"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteCommandFailed):
        leave(HERE, "one", str(tmp_path / "file" / "lab"))
