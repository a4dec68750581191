from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets (pytest's own are not)."""
    path = Path(tempfile.mkdtemp(prefix="ktool-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def eventually(read: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait until a read gives True; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not read():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.05)
