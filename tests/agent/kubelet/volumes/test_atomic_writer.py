"""Files of a volume that change all at once."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.kubelet.volumes import atomic_writer
from agent.kubelet.volumes.payload import File, Payload


def seen(root: Path) -> dict[str, bytes]:
    """What a container sees: files by path, without the names that begin with two dots."""
    found: dict[str, bytes] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        if Path(folder) == root:
            folders[:] = [name for name in folders if not name.startswith("..")]
        found |= {str((Path(folder) / name).relative_to(root)): (Path(folder) / name).read_bytes() for name in names}
    return found


def test_write_change_and_remove(tmp_path: Path) -> None:
    assert atomic_writer.write(tmp_path, {"a": File(b"1"), "d/e/f": File(b"2", 0o600)})
    assert seen(tmp_path) == {"a": b"1", "d/e/f": b"2"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "d/e/f").stat().st_mode) == 0o600
    assert (tmp_path / "a").readlink() == Path("..data/a")
    assert (tmp_path / "d").readlink() == Path("..data/d")
    first = (tmp_path / "..data").readlink()

    assert not atomic_writer.write(tmp_path, {"a": File(b"1"), "d/e/f": File(b"2", 0o600)})
    assert (tmp_path / "..data").readlink() == first, "nothing changed, nothing moved"

    assert atomic_writer.write(tmp_path, {"a": File(b"new"), "g": File(b"3")})
    assert seen(tmp_path) == {"a": b"new", "g": b"3"}
    assert not (tmp_path / first).exists()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["a", "g"]

    assert atomic_writer.write(tmp_path, {"a": File(b"new", 0o400), "g": File(b"3")}), "a mode is a change"
    assert atomic_writer.write(tmp_path, {})
    assert seen(tmp_path) == {}
    assert not atomic_writer.write(tmp_path, {})


def test_modes_are_exact_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic_writer.write(tmp_path, {"a": File(b"", 0o777), "b/c": File(b"", 0o444)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o777
    assert stat.S_IMODE((tmp_path / "b/c").stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_group_and_owner(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, {"d/token": File(b"x", 0o600, 1234)}, group=2345)
    found = (tmp_path / "d/token").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)
    folder = (tmp_path / "d").stat()
    assert (folder.st_gid, stat.S_IMODE(folder.st_mode)) == (2345, 0o2755)
    assert not atomic_writer.write(tmp_path, {"d/token": File(b"x", 0o600, 1234)}, group=2345)


def test_after_a_crash_halves_are_swept(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, {"a": File(b"1")})
    (tmp_path / "..2026_01_01_00_00_00.1").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..2026_01_01_00_00_00.1")
    (tmp_path / "a").unlink()  # the crash came before the links
    atomic_writer.write(tmp_path, {"a": File(b"1")})
    assert seen(tmp_path) == {"a": b"1"}
    assert len([p for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()]) == 1
    atomic_writer.write(tmp_path, {"a": File(b"2")})
    assert seen(tmp_path) == {"a": b"2"}


def test_a_path_cannot_be_file_and_folder(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, {"a": File(b"1")})
    with pytest.raises(ValueError, match="'b' is a file, and a folder for 'b/c'"):
        atomic_writer.write(tmp_path, {"b": File(b""), "b/c": File(b"")})
    assert seen(tmp_path) == {"a": b"1"}


def test_a_reader_never_sees_old_and_new_together(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, {"crt": File(b"0"), "key": File(b"0")})
    mixed: list[tuple[bytes, bytes]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            folder = -1
            try:
                folder = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
                pair = []
                for name in ("crt", "key"):
                    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
                    pair.append(os.read(descriptor, 10))
                    os.close(descriptor)
                if pair[0] != pair[1]:
                    mixed.append((pair[0], pair[1]))
            except FileNotFoundError:
                pass  # the folder was removed while we looked: a reader opens it again
            finally:
                if folder >= 0:
                    os.close(folder)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        text = str(number).encode()
        atomic_writer.write(tmp_path, {"crt": File(text), "key": File(text)})
    stop.set()
    reader.join()
    assert mixed == []


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PAYLOADS = st.dictionaries(PATHS, st.builds(File, st.binary(max_size=8), st.sampled_from([0o644, 0o600])), max_size=5)


@given(st.lists(PAYLOADS, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_sequence_of_payloads(tmp_path_factory: pytest.TempPathFactory, payloads: list[Payload]) -> None:
    root = tmp_path_factory.mktemp("volume")
    wanted: dict[str, bytes] = {}
    for payload in payloads:
        try:
            atomic_writer.write(root, payload)
            wanted = {path: file.data for path, file in payload.items()}
        except ValueError:
            pass  # file and folder at once; the volume must be as before
        assert seen(root) == wanted
