"""Pruning the cache of images: what anybody uses stays, whoever that is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ktool.cli import cli
from provision.lab import image_uses
from provision.lab_state import LabState
from provision.machine_image import prune, uses
from provision.providers.libvirt.definitions import volume_xml
from provision.providers.nspawn.config import MachineConfig
from provision.providers.nspawn.folder import MachineFolder

MIB = 1 << 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an entry of each kind that matters, and no lab."""
    place = tmp_path / "cache"
    for name in ("roots/a/root", "layered-roots/b/root", "disks/c"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_bytes(b"x" * MIB)
    (place / "runtime").mkdir()
    (place / "runtime" / "runtime-agent.tar.gz").write_text("not an image")
    monkeypatch.setenv("KTOOL_CACHE", str(place))
    monkeypatch.setenv("KTOOL_LABS", str(tmp_path / "labs"))
    monkeypatch.setattr(image_uses, "LIBVIRT_URIS", ())
    return place


def gone(cache: Path) -> list[str]:
    found = image_uses.prune_images(cache, plan_only=True, agree=lambda planned: False)
    return [f"{path.parent.name}/{path.name}" for path in found.gone]


def test_what_nobody_uses_goes_and_the_room_is_told(cache: Path) -> None:
    os.link(cache / "roots/a/root/file", cache / "disks/c/linked")
    left = cache / "roots" / ".z.new-1"
    left.mkdir()
    planned = CliRunner().invoke(cli, ["lab", "image", "prune", "--plan"])
    assert (planned.exit_code, planned.output.splitlines()[-1]) == (2, "4 to remove (3 MiB), 0 in use.")
    assert left.is_dir()
    asked = CliRunner().invoke(cli, ["lab", "image", "prune"], input="n\n")
    assert asked.exit_code == 1
    assert left.is_dir()
    done = CliRunner().invoke(cli, ["lab", "image", "prune", "--yes"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "removed 4 images, 3 MiB; 0 are in use."
    assert [path.name for path in cache.glob("*/*")] == ["runtime-agent.tar.gz"]
    assert CliRunner().invoke(cli, ["lab", "image", "prune", "--plan"]).exit_code == 0


def test_what_links_into_kept_ones_share_is_no_room(cache: Path) -> None:
    os.link(cache / "roots/a/root/file", cache / "disks/c/linked")
    assert prune.plan(cache, [cache / "roots" / "a"]).size == 2 * MIB


def test_what_a_lab_elsewhere_was_made_from(cache: Path, tmp_path: Path) -> None:
    lab = tmp_path / "elsewhere" / "lab"
    lab.mkdir(parents=True)
    uses.note(cache, lab, "libvirt debian-12", [cache / "disks/c/disk.qcow2"])
    assert gone(cache) == ["roots/a", "layered-roots/b"]
    uses.note(cache, lab, "libvirt debian-12", [cache / "roots/a/vmlinuz"])  # made anew
    assert gone(cache) == ["layered-roots/b", "disks/c"]
    shutil.rmtree(lab)
    assert gone(cache) == ["roots/a", "layered-roots/b", "disks/c"]
    assert list((cache / "labs").iterdir()) == []


def test_what_a_stopped_nspawn_machine_is_laid_over(cache: Path, tmp_path: Path) -> None:
    state = LabState(tmp_path / "labs" / "lab")
    config = MachineConfig(
        lab="lab",
        name="m",
        identity="m",
        address="10.0.0.2",
        mac="52:54:00:00:00:01",
        memory_mib=1,
        cpus=1,
        user="root",
        image="debian-12",
        layers=(str(cache / "layered-roots/b/root"),),
        autostart=True,
    )
    MachineFolder(state.provider("nspawn") / "machines" / "m").save(config)
    assert gone(cache) == ["roots/a", "disks/c"]


def test_a_backing_file_of_a_clone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt = pytest.importorskip("libvirt")
    pool = "<pool type='dir'><name>p</name><target><path>/nowhere</path></target>"
    clone = volume_xml("m.qcow2", capacity=MIB, form="qcow2", backing=str(cache / "disks/c/file"), backing_form="qcow2")
    # The test driver of libvirt reads its volumes from the node's description.
    (tmp_path / "node.xml").write_text(f"<node>{pool}{clone}</pool></node>")
    monkeypatch.setattr(image_uses, "LIBVIRT_URIS", (f"test://{tmp_path}/node.xml",))
    assert libvirt.openReadOnly(image_uses.LIBVIRT_URIS[0]).listAllStoragePools()
    assert gone(cache) == ["roots/a", "layered-roots/b"]


def test_what_a_process_has_open(cache: Path) -> None:
    with (cache / "disks/c/file").open("rb"):
        assert gone(cache) == ["roots/a", "layered-roots/b"]
    assert "disks/c" in gone(cache)


def test_layers_of_overlays_that_are_mounted_anywhere() -> None:
    text = (
        "1 0 0:30 / / rw - overlay overlay rw,lowerdir=/lab/seed:/cache/roots/a/root,upperdir=/u\n"
        "2 1 8:1 /cache/disks/c /mnt rw - ext4 /dev/sda rw\n"
    )
    found = image_uses.layers_mounted(text)
    assert "/cache/roots/a/root" in found
    assert "/cache/disks/c" in found


def test_nothing_goes_while_another_ktool_is_at_work(cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from provision.machine_image.cache import entry\n"
        "entry(Path(sys.argv[1]), 'roots', 'a', make=print, need=0, report=print)\n"
        "print('holds', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        refused = CliRunner().invoke(cli, ["lab", "image", "prune", "--yes"])
        assert refused.exit_code == 1
        assert "the cache of images is in use" in refused.output
        assert (cache / "roots/a").is_dir()
    finally:
        holder.communicate(timeout=20)
    assert CliRunner().invoke(cli, ["lab", "image", "prune", "--yes"]).exit_code == 0
    assert not (cache / "roots/a").exists()
