"""The file of a backup: written, read, and told from what is none."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import msgspec
import pytest

from kube import pki
from kube.clock import SystemClock
from kube.errors import KtoolError
from provision import backup_file
from provision.backup_file import Header

CA = pki.create_ca(clock=SystemClock())
FILES = {"ca.crt": CA.cert_pem, "ca.key": b"SECRET-KEY", "sa.key": b"SECRET-SA", "etcd/ca.key": b"SECRET-ETCD"}
HEADER = Header(
    made="2026-01-01T00:00:00Z",
    ktool="1",
    node="m1",
    store="etcd",
    ca=pki.ca_pin(CA.certificate),
    objects=3,
    revision=7,
)
LINES = [b'{"key": "a"}\n', b'{"key": "b"}\n', b'{"key": "c"}\n']


def written(header: Header = HEADER, files: dict[str, bytes] | None = None, lines: list[bytes] = LINES) -> bytes:
    target = io.BytesIO()
    backup_file.write(target, header, FILES if files is None else files, io.BytesIO(b"".join(lines)))
    return target.getvalue()


def check(folder: Path, content: bytes) -> backup_file.Backup:
    path = folder / "backup"
    path.write_bytes(content)
    return backup_file.check(path)


def test_there_and_back(tmp_path: Path) -> None:
    content = written()
    found = check(tmp_path, content)
    assert (found.header, found.files) == (HEADER, FILES)
    assert "SECRET" not in repr(found)
    with backup_file.read(io.BytesIO(content), name="x") as backup:
        assert list(backup.objects) == LINES


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.6, 0.97])
def test_one_that_was_cut_off(tmp_path: Path, keep: float) -> None:
    digests = (hashlib.sha256(bytes([number])).hexdigest() for number in range(250))
    content = written(lines=[f'{{"key": "{digest}"}}\n'.encode() for digest in digests])
    with pytest.raises(KtoolError, match="not a whole backup"):
        check(tmp_path, content[: int(len(content) * keep)])


def test_one_of_which_a_bit_was_lost(tmp_path: Path) -> None:
    plain = bytearray(gzip.decompress(written()))
    at = plain.index(b'"key": "b"')
    changed = bytearray(written())
    changed[-6] ^= 1  # of the checksum
    with pytest.raises(KtoolError, match="not a whole backup"):
        check(tmp_path, bytes(changed))
    plain[at : at + 10] = b'"key":\n"b"'
    with pytest.raises(KtoolError, match="4 objects, not 3"):
        check(tmp_path, gzip.compress(bytes(plain)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello", "not a whole backup"),
        (gzip.compress(b"hello"), "not a whole backup"),
        (written(msgspec.structs.replace(HEADER, format=2)), "another version"),
        (written(msgspec.structs.replace(HEADER, ca="sha256:0")), "its CA is"),
        (written(files={"ca.crt": CA.cert_pem}), "no ca.key, sa.key in it"),
        (written(files={**FILES, "../x": b""}), r"there is pki/\.\./x in it"),
        (written(lines=LINES[:2]), "2 objects, not 3"),
    ],
)
def test_what_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(KtoolError, match=says):
        check(tmp_path, content)


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="cannot be read") as caught:
        backup_file.check(tmp_path / "none")
    assert "No such file" in caught.value.found


def test_the_files_that_masters_share(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "apiserver.key").write_text("its own")
    assert backup_file.shared_files(tmp_path) == FILES
    (tmp_path / "sa.key").unlink()
    with pytest.raises(KtoolError, match="no cluster here"):
        backup_file.shared_files(tmp_path)
