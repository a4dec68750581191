from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.machine_image import cache


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def made(folder: Path, content: str = "made") -> None:
    (folder / "file").write_text(content)


def test_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        made(folder)

    for _ in range(2):
        place = cache.entry(tmp_path, "kind", "key", make=make, need=0, report=quiet)
        assert (place / "file").read_text() == "made"
    assert len(calls) == 1


def test_two_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(folder: Path) -> None:
        calls.append(1)
        time.sleep(0.3)
        made(folder)

    said: list[str] = []
    threads = [
        threading.Thread(
            target=cache.entry, args=(tmp_path, "kind", "key"), kwargs={"make": make, "need": 0, "report": said.append}
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert calls == [1]
    assert any("waiting" in line for line in said)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        made(folder)
        raise KtoolError("no")

    with pytest.raises(KtoolError, match="no"):
        cache.entry(tmp_path, "kind", "key", make=fail, need=0, report=quiet)
    assert [path.name for path in (tmp_path / "kind").iterdir()] == [".key.lock"]


def test_what_a_killed_build_left_goes(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from provision.machine_image import cache\n"
        "def make(folder):\n (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.entry(Path(sys.argv[1]), 'kind', 'key', make=make, need=0, report=print)"
    )
    checkout = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=checkout, check=False, timeout=30)
    assert list((tmp_path / "kind").glob(".key.new-*/half"))
    place = cache.entry(tmp_path, "kind", "key", make=made, need=0, report=quiet)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert not list((tmp_path / "kind").glob(".key.new-*"))


def test_refresh_replaces(tmp_path: Path) -> None:
    cache.entry(tmp_path, "kind", "key", make=made, need=0, report=quiet)
    place = cache.entry(
        tmp_path, "kind", "key", make=lambda folder: made(folder, "new"), need=0, report=quiet, refresh=True
    )
    assert (place / "file").read_text() == "new"


def test_no_room(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="not enough room"):
        cache.entry(tmp_path, "kind", "key", make=made, need=1 << 60, report=quiet)


def test_a_lock_is_not_waited_for_forever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        cache.locked(path, report=quiet, what="it"),
        pytest.raises(KtoolError, match="too long"),
        cache.locked(path, report=quiet, what="it", timeout=0.3),
    ):
        pass


def test_digest_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    first = cache.digest_of(file, tmp_path / "cache")
    assert cache.digest_of(file, tmp_path / "cache") == first
    file.write_text("another")
    assert cache.digest_of(file, tmp_path / "cache") != first


def test_a_digest_needs_no_cache_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder: nothing can be written there, not even by root")
    (tmp_path / "file").write_bytes(b"abc")
    assert cache.digest_of(tmp_path / "file", tmp_path / "cache") == hashlib.sha256(b"abc").hexdigest()


def test_output_is_watched_and_bounded() -> None:
    lines: list[str] = []
    status, last = cache.watch_output(
        ["sh", "-c", "echo one; echo; echo two >&2; exit 3"], line=lines.append, timeout=10
    )
    assert (status, sorted(last), sorted(lines)) == (3, ["one", "two"], ["one", "two"])
    began = time.monotonic()
    status, _ = cache.watch_output(["sleep", "30"], line=lines.append, timeout=0.2)
    assert status is None
    assert time.monotonic() - began < 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs no namespace")
def test_root_does_as_it_is() -> None:
    assert cache.as_owner(["true"]) == ["true"]
