from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from kube import image_archive
from kube.errors import KtoolError
from kube.image_archive import EntryType, ImageSource, directory, file, symlink

SOURCE = ImageSource(
    ("example/web:1", "example/web:latest"),
    (
        file("www/index.html", b"hello"),
        file("/bin/app", b"#!", mode=0o755),
        symlink("bin/alias", "/bin/app"),
        directory("tmp", mode=0o1777),
    ),
    entrypoint=("/bin/app",),
    command=("-v",),
    env=(("B", "2"), ("A", "1=1")),
    working_dir="/www",
    user="1000",
    exposed_ports=("8080/tcp",),
    labels={"x": "y"},
    stop_signal="SIGINT",
    architecture="amd64",
)


def contents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def test_equal_sources_give_equal_bytes_in_whatever_order_their_entries_come() -> None:
    turned = replace(SOURCE, entries=tuple(reversed(SOURCE.entries)))
    assert image_archive.archive(SOURCE) == image_archive.archive(turned)
    assert image_archive.image_id(SOURCE) == image_archive.image_id(turned)


@pytest.mark.parametrize(
    "other",
    [
        replace(SOURCE, entries=(*SOURCE.entries, file("x", b""))),
        replace(SOURCE, command=()),
        replace(SOURCE, env=(("A", "1=1"), ("B", "2"))),
        replace(SOURCE, architecture="arm64"),
    ],
)
def test_any_difference_gives_another_id(other: ImageSource) -> None:
    assert image_archive.image_id(other) != image_archive.image_id(SOURCE)


def test_names_are_not_part_of_the_image() -> None:
    assert image_archive.image_id(replace(SOURCE, references=("other:1",))) == image_archive.image_id(SOURCE)


def test_manifest_configuration_and_layer_name_each_other_by_digest() -> None:
    found = contents(image_archive.archive(SOURCE))
    (manifest,) = json.loads(found["manifest.json"])
    assert manifest["RepoTags"] == ["example/web:1", "example/web:latest"]
    configuration_bytes = found[manifest["Config"]]
    digest = hashlib.sha256(configuration_bytes).hexdigest()
    assert manifest["Config"] == f"{digest}.json"
    assert image_archive.image_id(SOURCE) == f"sha256:{digest}"
    configuration = json.loads(configuration_bytes)
    (layer,) = manifest["Layers"]
    assert configuration["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(found[layer]).hexdigest()]
    assert (configuration["architecture"], configuration["os"]) == ("amd64", "linux")
    assert configuration["config"] == {
        "Cmd": ["-v"],
        "Entrypoint": ["/bin/app"],
        "Env": ["B=2", "A=1=1"],
        "ExposedPorts": {"8080/tcp": {}},
        "Labels": {"x": "y"},
        "StopSignal": "SIGINT",
        "User": "1000",
        "WorkingDir": "/www",
    }


def test_layer_has_parents_before_children_and_no_times() -> None:
    found = contents(image_archive.archive(SOURCE))
    with tarfile.open(fileobj=io.BytesIO(found[json.loads(found["manifest.json"])[0]["Layers"][0]])) as layer:
        members = layer.getmembers()
    assert [member.name for member in members] == ["bin", "bin/alias", "bin/app", "tmp", "www", "www/index.html"]
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
    modes = {member.name: member.mode for member in members}
    assert (modes["bin/app"], modes["tmp"], modes["bin"], modes["www/index.html"]) == (0o755, 0o1777, 0o755, 0o644)


def test_two_entries_with_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match=r"www/index\.html"):
        image_archive.archive(replace(SOURCE, entries=(*SOURCE.entries, file("/www/index.html", b""))))


def test_write(tmp_path: Path) -> None:
    image_archive.write(SOURCE, tmp_path / "web.tar")
    assert (tmp_path / "web.tar").read_bytes() == image_archive.archive(SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["web.tar"]


@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_architecture(machine: str, wanted: str) -> None:
    assert image_archive.architecture(machine) == wanted


def elf(*program_header_types: int) -> bytes:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    header[32:40] = (64).to_bytes(8, "little")
    header[54:58] = (56).to_bytes(2, "little") + len(program_header_types).to_bytes(2, "little")
    return bytes(header) + b"".join(kind.to_bytes(4, "little") + bytes(52) for kind in program_header_types)


@pytest.mark.parametrize(
    ("binary", "static"), [(elf(1, 1), True), (elf(6, 3, 1), False), (b"#!/bin/sh\n", False), (b"", False)]
)
def test_is_static(binary: bytes, static: bool) -> None:
    assert image_archive.is_static(binary) is static


def test_no_static_busybox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(image_archive, "BUSYBOX_PATHS", (tmp_path / "busybox",))
    with pytest.raises(KtoolError, match="found: none") as caught:
        image_archive.find_busybox()
    assert caught.value.mend == "apt-get install busybox-static"
    (tmp_path / "busybox").write_bytes(elf(3))
    with pytest.raises(KtoolError, match="dynamically linked"):
        image_archive.find_busybox()


def test_busybox_root(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(elf(1))
    entries = image_archive.busybox_root(tmp_path / "busybox", applets=("sh", "httpd"))
    links = {entry.path: entry.target for entry in entries if entry.type is EntryType.SYMLINK}
    assert links == {"bin/sh": "/bin/busybox", "bin/httpd": "/bin/busybox"}
    assert next(entry for entry in entries if entry.path == "bin/busybox").mode == 0o755
