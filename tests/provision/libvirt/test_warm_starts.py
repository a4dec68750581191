"""What decides about kept memories, without a machine."""

from __future__ import annotations

import base64
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Machine, NetworkMode, Role
from provision.lab import images_ahead
from provision.machine_image import uses
from provision.machine_image.guest_files import IDENTITY_MARK, WARM_ARGUMENT
from provision.machine_image.prepare import VirtualImage
from provision.machine_image.root import BootFiles
from provision.providers.libvirt import acceleration
from provision.providers.libvirt.connection import Connection
from provision.providers.libvirt.definitions import domain_xml
from provision.providers.libvirt.seed import IDENTITY_BYTES, identity_disk
from provision.providers.libvirt.snapshots import WARM, take
from provision.providers.libvirt.warm_starts import (
    WarmStarts,
    key_for,
    owned_as_before,
    programs,
    settings_for,
    snapshot_xml,
)
from tests.provision.libvirt.labs import lab, machine

KEY = "ssh-ed25519 AAAA"
IMAGE = VirtualImage("0123", Path("/disk"), "qcow2", 1, BootFiles(Path("/kernel"), Path("/initrd")))


def key_of(
    one: Machine, *, image: VirtualImage = IMAGE, mode: NetworkMode = NetworkMode.NAT, version: str = "7 9"
) -> str:
    settings = settings_for(one, arch="x86_64", mode=mode)
    return key_for(settings, image, disk_gib=one.disk_gib, version=version)


@pytest.mark.parametrize(
    "same",
    [
        {"one": machine("other", labels={"a": "b"}, address="192.168.150.7", autostart=False)},
        {"mode": NetworkMode.ISOLATED},
        {"mode": NetworkMode.EXISTING},
        {"image": replace(IMAGE, disk=Path("/elsewhere"))},
    ],
)
def test_machines_that_share_a_memory(same: dict[str, Any]) -> None:
    assert key_of(**{"one": machine("m1"), **same}) == key_of(machine("m1"))


@pytest.mark.parametrize(
    "other",
    [
        {"one": machine("m1", memory_mib=2048)},
        {"one": machine("m1", cpus=1)},
        {"one": machine("m1", disk_gib=20)},
        {"one": machine("m1", roles=frozenset({Role.MASTER}))},
        {"one": machine("m1", runs_agent=False)},
        {"one": machine("m1", variables={"ktool_supervisor": "supervisord"})},
        {"mode": NetworkMode.USER},
        {"image": replace(IMAGE, key="4567")},
        {"version": "8 9"},
    ],
)
def test_machines_that_need_one_of_their_own(other: dict[str, Any]) -> None:
    assert key_of(**{"one": machine("m1"), **other}) != key_of(machine("m1"))


def test_the_machine_whose_memory_is_kept() -> None:
    root = ET.fromstring(domain_xml(settings_for(machine("m1"), arch="x86_64", mode=NetworkMode.NAT)))
    assert f"{WARM_ARGUMENT}=agent" in root.findtext("os/cmdline", "").split()
    assert root.find("sysinfo") is None, "it is nobody in particular"
    assert [disk.get("dev") for disk in root.findall("devices/disk/target")] == ["vda", "vdb"]
    interface = root.find("devices/interface")
    assert interface is not None
    assert (interface.get("type"), interface.find("source")) == ("ethernet", None)


@pytest.mark.parametrize(
    ("fields", "loaded"),
    [
        ({}, "agent"),
        ({"roles": frozenset({Role.MASTER})}, "master,agent"),
        ({"roles": frozenset({Role.MASTER}), "runs_agent": False}, "master"),
        ({"roles": frozenset({Role.LOAD_BALANCER}), "runs_agent": False}, ""),
        ({"variables": {"ktool_supervisor": "auto"}}, "agent"),
        ({"variables": {"ktool_supervisor": "supervisord"}}, ""),
    ],
)
def test_what_is_loaded_in_a_memory(fields: dict[str, Any], loaded: str) -> None:
    assert programs(machine("m1", **fields)) == loaded


def test_a_snapshot_tells_which_disk_holds_the_memory() -> None:
    domain = domain_xml(settings_for(machine("m1"), arch="x86_64", mode=NetworkMode.NAT))
    root = ET.fromstring(snapshot_xml(domain))
    assert root.findtext("state") == "running"
    assert root.findtext("domain/name") == "ktool-warm"
    assert {disk.get("name"): disk.get("snapshot") for disk in root.findall("disks/disk")} == {
        "vda": "internal",
        "vdb": "no",
    }
    for seed in root.findall("domain/devices/disk"):
        if seed.find("target[@dev='vdb']") is not None:
            root.find("domain/devices").remove(seed)
    alone = ET.fromstring(snapshot_xml(ET.tostring(root.find("domain"), encoding="unicode")))
    assert [disk.get("name") for disk in alone.findall("disks/disk")] == ["vda"], "libvirt refuses what is not there"


def test_what_a_machine_is_told() -> None:
    content = identity_disk("m1", KEY, mac="52:54:00:01:02:03", machine_id="ab" * 16)
    assert len(content) == IDENTITY_BYTES
    first, *lines = content.rstrip(b"\0").decode().splitlines()
    assert first == IDENTITY_MARK
    files = {words[1]: (words[2], base64.b64decode(words[6]).decode()) for words in map(str.split, lines)}
    assert files == {
        "/root/.ssh/authorized_keys": ("0600", f"{KEY}\n"),
        "/etc/hostname": ("0644", "m1\n"),
        "/etc/hosts": ("0644", "127.0.0.1 localhost\n127.0.1.1 m1\n::1 localhost ip6-localhost\n"),
        "/run/ktool-machine/mac": ("0644", "52:54:00:01:02:03\n"),
        "/etc/machine-id": ("0444", f"{'ab' * 16}\n"),
    }
    with pytest.raises(KtoolError, match="gets too long"):
        identity_disk("m1", KEY * 2000, mac="", machine_id="")


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "kvm"},
        {"image": replace(IMAGE, boot=None)},
        {"one": machine("m1", warm_start=False)},
        {"uri": "qemu+ssh://root@elsewhere/system"},
    ],
)
def test_machines_that_boot(tmp_path: Path, how: dict[str, Any]) -> None:
    connection = Connection(how.get("uri", "qemu:///system"))  # which is not opened
    warm = WarmStarts(connection, tmp_path, cache=tmp_path, mode=NetworkMode.NAT)
    asked = warm.disk(
        how.get("one", machine("m1", warm_start=True)),
        how.get("image", IMAGE),
        lambda line: None,
        kind=how.get("kind", "qemu"),
        arch="x86_64",
    )
    assert asked is None


def test_a_memory_that_cannot_be_kept_is_told_once(tmp_path: Path) -> None:
    connection = Connection("test:///default")  # which emulates nothing
    warm = WarmStarts(connection, tmp_path, cache=tmp_path, mode=NetworkMode.NAT)
    said: list[str] = []
    one = machine("m1", warm_start=True)
    image = replace(IMAGE, disk=tmp_path / "no-disk")
    for _ in range(2):
        assert warm.disk(one, image, said.append, kind="qemu", arch="x86_64") is None
    assert [line for line in said if "so it boots" in line] == said[-1:]
    assert [path.name for path in (tmp_path / "warm-starts").iterdir() if path.is_dir()] == []


def test_of_a_newer_image_a_lab_wants_only_its_own_memory(tmp_path: Path) -> None:
    connection = Connection("test:///default")
    cache, folder = tmp_path / "cache", tmp_path / "lab"
    folder.mkdir()
    one = machine("m1", warm_start=True)
    for image in (IMAGE, replace(IMAGE, key="4567")):
        version = f"{connection.handle.getVersion()} {connection.handle.getLibVersion()}"
        key = key_of(one, image=image, version=version)
        kept = cache / "warm-starts" / key
        kept.mkdir(parents=True)
        warm = WarmStarts(connection, folder, cache=cache, mode=NetworkMode.NAT)
        assert warm.disk(one, image, lambda line: None, kind="qemu", arch="x86_64") == kept / "disk.qcow2"
        assert uses.labs(cache) == {folder: [kept / "disk.qcow2"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_libvirt_gave_to_qemu_is_given_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with owned_as_before(disk, tmp_path / "none"):
        os.chown(disk, 65534, 65534)
    assert (disk.stat().st_uid, disk.stat().st_gid) == (0, os.getegid())


def test_a_plain_user_keeps_no_memory_ahead_for_the_systems_libvirt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(*_: object) -> None:
        raise AssertionError("QEMU's user may not read what is in a plain user's cache")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(images_ahead, "prepare_images", lambda *_, **__: {"image": IMAGE})
    monkeypatch.setattr(images_ahead, "virtual_image", untouched)
    one = lab(machine("m1", warm_start=True), libvirt_uri="qemu:///system")
    assert images_ahead.prepare(one, tmp_path, untouched) == {"image": IMAGE}


@pytest.mark.parametrize(("works", "kept"), [(True, ["kvm"]), (False, ["qemu"]), (None, [])])
def test_a_try_that_could_not_start_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool | None, kept: list[str]
) -> None:
    monkeypatch.setattr(acceleration, "_offered", lambda *_, **__: True)
    monkeypatch.setattr(acceleration, "boots", lambda *_, **__: works)
    connection = Connection("test:///default")
    kind = acceleration.domain_type(
        connection, arch="x86_64", chipset="q35", kernel="/kernel", cache=tmp_path, report=lambda line: None
    )
    assert kind == ("kvm" if works else "qemu")
    assert [note.read_text() for note in tmp_path.glob("acceleration/*")] == kept


def test_no_snapshot_of_a_user_is_called_as_the_memory() -> None:
    domain = Connection("test:///default").handle.lookupByName("test")
    with pytest.raises(KtoolError, match="choose another name"):
        take(domain, "m1", WARM)
