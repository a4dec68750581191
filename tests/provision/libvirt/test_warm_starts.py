"""What decides about kept memories, without a machine."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Machine, NetworkMode
from provision.machine_image.guest_files import IDENTITY_MARK, WARM_ARGUMENT
from provision.machine_image.prepare import VirtualImage
from provision.machine_image.root import BootFiles
from provision.providers.libvirt.connection import Connection
from provision.providers.libvirt.definitions import domain_xml
from provision.providers.libvirt.seed import IDENTITY_BYTES, identity_disk
from provision.providers.libvirt.warm_starts import WarmStarts, key_for, settings_for, snapshot_xml
from tests.provision.libvirt.labs import machine

KEY = "ssh-ed25519 AAAA"
IMAGE = VirtualImage("0123", Path("/disk"), "qcow2", 1, BootFiles(Path("/kernel"), Path("/initrd")))


def key_of(one: Machine, *, image: VirtualImage = IMAGE, mode: NetworkMode = NetworkMode.NAT, version: int = 7) -> str:
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
        {"mode": NetworkMode.USER},
        {"image": replace(IMAGE, key="4567")},
        {"version": 8},
    ],
)
def test_machines_that_need_one_of_their_own(other: dict[str, Any]) -> None:
    assert key_of(**{"one": machine("m1"), **other}) != key_of(machine("m1"))


def test_the_machine_whose_memory_is_kept() -> None:
    root = ET.fromstring(domain_xml(settings_for(machine("m1"), arch="x86_64", mode=NetworkMode.NAT)))
    assert WARM_ARGUMENT in root.findtext("os/cmdline", "").split()
    assert root.find("sysinfo") is None, "it is nobody in particular"
    assert [disk.get("dev") for disk in root.findall("devices/disk/target")] == ["vda", "vdb"]
    interface = root.find("devices/interface")
    assert interface is not None
    assert (interface.get("type"), interface.find("source")) == ("ethernet", None)


def test_a_snapshot_tells_which_disk_holds_the_memory() -> None:
    domain = domain_xml(settings_for(machine("m1"), arch="x86_64", mode=NetworkMode.NAT))
    root = ET.fromstring(snapshot_xml(domain))
    assert root.findtext("state") == "running"
    assert root.findtext("domain/name") == "ktool-warm"
    assert {disk.get("name"): disk.get("snapshot") for disk in root.findall("disks/disk")} == {
        "vda": "internal",
        "vdb": "no",
    }


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
