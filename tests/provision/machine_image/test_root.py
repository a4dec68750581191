"""What a build makes, looked at in the one that `python -m provision.machine_image` left in the cache."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings, Lab, Machine, ProviderName
from provision.lab_state import cache_dir
from provision.machine_image import guest_files
from provision.machine_image.cache import remove_tree
from provision.machine_image.prepare import VirtualImage, is_ready, prepare_images
from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import recipe_for
from provision.machine_image.root import _lay_over, boot_files, root

IMAGE = ImageSettings()
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not is_ready(IMAGE, cache_dir()),
    reason="no image was built (as root: python -m provision.machine_image)",
)


def silent(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def built() -> Path:
    return root(recipe_for(IMAGE), cache_dir(), silent)


def test_it_is_a_machine_of_nobody(built: Path) -> None:
    assert (built / "etc/machine-id").read_text() == ""
    assert not list((built / "etc/ssh").glob("ssh_host_*"))
    assert not (built / "root/.ssh/authorized_keys").exists()
    assert not (built / "ktool-finish").exists()
    assert "\nroot:*:" in "\n" + (built / "etc/shadow").read_text(), "no password lets root in"


def test_our_files_are_in_it(built: Path) -> None:
    for file in guest_files.files(Purpose.VIRTUAL):
        assert (built / file.path).read_text() == file.content
        assert stat.S_IMODE((built / file.path).stat().st_mode) == file.mode
    for link in guest_files.links(Purpose.VIRTUAL):
        assert os.readlink(built / link.path) == link.target
    for unit in guest_files.masked(Purpose.VIRTUAL):
        assert os.readlink(built / "etc/systemd/system" / unit) == "/dev/null"


@pytest.mark.parametrize("path", ["", "etc", "etc/ssh", "etc/systemd/system", "usr/local/lib", "root"])
def test_folders_are_as_debian_has_them(built: Path, path: str) -> None:
    info = (built / path).stat()
    assert (info.st_uid, info.st_gid) == (0, 0)
    assert stat.S_IMODE(info.st_mode) == (0o700 if path == "root" else 0o755)


def test_what_it_boots_with(built: Path) -> None:
    boot = boot_files(recipe_for(IMAGE), cache_dir(), silent)
    assert boot.initrd.read_bytes().startswith(b"070701"), "a cpio archive, not packed"
    assert boot.kernel.stat().st_size > 1 << 20
    assert not list((built / "boot").glob("vmlinuz*"))


def test_a_layer_over_it(built: Path) -> None:
    # Hard links do not reach into another file system: beside the cache.
    place = cache_dir() / f"test-layer-{os.getpid()}"
    place.mkdir()
    try:
        files = place / "files"
        (files / "opt/new").mkdir(parents=True)
        (files / "opt/new/file").write_text("new")
        (files / "lib").mkdir()
        (files / "lib/over-a-link").write_text("new")
        (files / "etc").mkdir()
        (files / "etc/hostname").write_text("another\n")
        with tarfile.open(place / "layer.tar.gz", "w:gz") as archive:
            for folder in ("opt", "lib", "etc"):
                archive.add(files / folder, folder)
        before = (built / "etc/hostname").read_text()
        over = place / "root"
        _lay_over(built, place / "layer.tar.gz", over, silent)
        assert (over / "opt/new/file").read_text() == "new"
        assert (over / "lib").is_symlink()
        assert (over / "usr/lib/over-a-link").read_text() == "new"
        assert (over / "etc/hostname").read_text() == "another\n"
        # What is below has not changed, and what is the same is shared.
        assert (built / "etc/hostname").read_text() == before
        assert not (built / "usr/lib/over-a-link").exists()
        assert (over / "bin/ls").stat().st_ino == (built / "bin/ls").stat().st_ino
    finally:
        remove_tree(place)


def test_no_layer(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="layer for the image is missing"):
        root(recipe_for(IMAGE), cache_dir(), silent, layer=tmp_path / "none.tar")


def test_all_images_of_a_lab() -> None:
    machines = [
        Machine(name=f"m{number}", provider=provider, roles=frozenset())
        for number, provider in enumerate((ProviderName.LIBVIRT, ProviderName.LIBVIRT, ProviderName.NSPAWN))
    ]
    machines.append(Machine(name="there", provider=ProviderName.SSH, roles=frozenset()))
    lab = Lab(name="lab", source=Path("/lab.yml"), machines=tuple(machines))
    prepared = prepare_images(lab, cache_dir(), silent)
    assert list(prepared) == ["debian-12 for libvirt", "debian-12 for nspawn"]
    disk = prepared["debian-12 for libvirt"]
    assert isinstance(disk, VirtualImage)
    assert disk.disk.exists()
    assert prepared["debian-12 for nspawn"].is_dir()  # type: ignore[union-attr]
