"""What an acknowledgement is worth: the process is killed, the disk is full, somebody else opens the file."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.store.errors import StoreInUseError
from control.store.sqlite import SqliteStore

REPOSITORY = Path(__file__).parents[3]


@contextmanager
def store_process(command: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("store_process.py")), command, str(path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(REPOSITORY)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def output(process: subprocess.Popen[bytes]) -> Iterator[list[str]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.decode().split()


async def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    acknowledged: dict[int, tuple[str, int]] = {}  # by revision
    for lines in (1, 300, 1500):
        with store_process("write", path) as process:
            for count, (key, value, revision) in enumerate(output(process), start=1):
                assert int(revision) not in acknowledged
                acknowledged[int(revision)] = (key, int(value))
                if count == lines:
                    process.send_signal(signal.SIGKILL)  # what it acknowledged until it dies is still to be read
            assert process.wait() == -signal.SIGKILL

        store = await SqliteStore.open(path)
        assert await store.revision() >= max(acknowledged)
        for mod_revision, (name, number) in acknowledged.items():
            kv = await store.get(name, revision=mod_revision)
            assert kv is not None
            assert (kv.mod_revision, kv.value) == (mod_revision, b"%d" % number * 100)
        # The history has no holes: each revision is one event, acknowledged or not.
        last = await store.revision()
        seen: list[int] = []
        async with store.watch("", from_revision=2) as watch:
            while len(seen) < last - 1:
                seen += [event.kv.mod_revision for event in await anext(watch)]
        assert seen == list(range(2, last + 1))
        await store.close()


async def test_a_store_has_one_process(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with store_process("hold", path) as process:
        assert next(output(process)) == ["open"]
        with pytest.raises(StoreInUseError) as caught:
            await SqliteStore.open(path)
        assert caught.value.holder == process.pid
        assert str(process.pid) in str(caught.value)
        assert "Stop the other master" in caught.value.mend
    store = await SqliteStore.open(path)  # a killed holder leaves nothing behind
    with pytest.raises(StoreInUseError):
        await SqliteStore.open(path)
    await store.close()


def test_a_full_disk_refuses_writes_and_spoils_nothing(tmp_path: Path) -> None:
    with store_process("fill", tmp_path / "state.db") as process:
        assert list(output(process)) == [["consistent"]]
        assert process.wait() == 0
