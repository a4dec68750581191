from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from ktool.cli import cli
from kube.errors import KtoolError
from provision.bundle import bundle_file
from provision.bundle.archive import Archive, ArchiveRole, Manifest, archives
from provision.bundle.bundle_file import ImageFile

CONTENT = b"runtime" * 1000


def _archive(folder: Path, role: ArchiveRole) -> Archive:
    manifest = Manifest(key=f"{role}-key", role=role, version="1.2", python_tag="cp311", arch="x86_64")
    path = folder / manifest.file_name
    path.write_bytes(role.encode() + CONTENT)
    return Archive(path=path, manifest=manifest)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "image.tar").write_bytes(b"an image")
    playbooks = made / "playbooks"
    (playbooks / "roles").mkdir(parents=True)
    (playbooks / "site.yml").write_text("[]\n")
    target = tmp_path / "lab.ktool"
    bundle_file.create(
        target,
        archives={role: _archive(made, role) for role in ArchiveRole},
        images=[ImageFile("web:1", made / "image.tar")],
        folders={"ansible": playbooks},
    )
    return target


def test_back_and_forth(bundle: Path, tmp_path: Path) -> None:
    found = archives(tmp_path / "cache", bundle=bundle)
    assert {role: archive.key for role, archive in found.items()} == {role: f"{role}-key" for role in ArchiveRole}
    for role, archive in found.items():
        assert archive.path.read_bytes() == role.encode() + CONTENT
        assert archive.path.is_relative_to(tmp_path / "cache" / "runtime")
    (image,) = bundle_file.unpack_images(bundle, tmp_path / "images").items()
    assert image[0] == "web:1"
    assert image[1].read_bytes() == b"an image"
    assert len(bundle_file.verify(bundle).files) == 4


def test_the_same_content_is_the_same_file(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    made = tmp_path / "made"
    bundle_file.create(
        again,
        archives={role: _archive(made, role) for role in ArchiveRole},
        images=[ImageFile("web:1", made / "image.tar")],
        folders={"ansible": made / "playbooks"},
    )
    assert again.read_bytes() == bundle.read_bytes()


def test_what_has_changed_on_the_way_is_not_used(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    at = data.index(b"control" + CONTENT[:20])
    bundle.write_bytes(data[:at] + b"CONTROL" + data[at + 7 :])
    with pytest.raises(KtoolError, match="damaged"):
        archives(tmp_path / "cache", bundle=bundle)
    assert not list((tmp_path / "cache" / "runtime").glob("*control*"))
    with pytest.raises(KtoolError, match="runtime-control"):
        bundle_file.verify(bundle)


def test_a_damaged_cache_is_mended(bundle: Path, tmp_path: Path) -> None:
    path = archives(tmp_path, bundle=bundle)[ArchiveRole.AGENT].path
    good = path.read_bytes()
    path.write_bytes(good[::-1])
    assert archives(tmp_path, bundle=bundle)[ArchiveRole.AGENT].path.read_bytes() == good


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"x" * 4096])
def test_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(KtoolError, match="no bundle"):
        bundle_file.read_index(path)


def test_some_tar_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(tmp_path / "a", "a")
    with pytest.raises(KtoolError, match="begins with a"):
        bundle_file.read_index(tmp_path / "some.tar")


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="no bundle") as caught:
        archives(tmp_path, bundle=tmp_path / "none")
    assert "ktool bundle create" in caught.value.mend


def test_show(bundle: Path) -> None:
    done = CliRunner().invoke(cli, ["bundle", "show", "--check", str(bundle)])
    assert done.exit_code == 0, done.output
    for text in ("ktool 1.2", "agent-key", "control-key", "web:1", "site.yml", "as they should be"):
        assert text in done.output
