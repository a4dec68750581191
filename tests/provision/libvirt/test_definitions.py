from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import libvirt
import pytest

from provision.inventory.lab import NetworkMode
from provision.providers.libvirt import names
from provision.providers.libvirt.definitions import (
    NAMESPACE,
    DomainSettings,
    domain_xml,
    host_xml,
    network_xml,
    pool_xml,
    read_domain,
    read_network,
    read_volume_backing,
    read_volume_bytes,
    volume_xml,
)
from provision.providers.libvirt.drift import Wanted, differences
from tests.provision.libvirt.labs import lab, network

ID = "0f3c0a52-7f0e-4a43-9d0e-3a8a52f4c6d1"
SETTINGS = DomainSettings(
    name="lab-m1",
    uuid="6b8d3b1e-0000-4000-8000-000000000001",
    lab="lab",
    lab_id=ID,
    machine="m1",
    version="1",
    image="debian-12",
    type="qemu",
    arch="x86_64",
    memory_mib=1024,
    cpus=2,
    mac="52:54:00:00:00:01",
    disk="/pool/m1.qcow2",
    console="/pool/m1.console.log",
    kernel="/pool/k",
    initrd="/pool/i",
    kernel_arguments="root=/dev/vda quiet",
    network="lab",
    oem_strings=("io.systemd.credential:a=b<&",),
)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, type="kvm"),
        replace(SETTINGS, network="", bridge="br0"),
        replace(SETTINGS, network="", forwarded_port=2222),
        replace(SETTINGS, kernel="", initrd="", kernel_arguments="", oem_strings=(), seed="/pool/m1.seed.iso"),
        replace(SETTINGS, arch="aarch64"),
    ],
)
def test_a_domain_reads_back_as_it_was_written(settings: DomainSettings) -> None:
    facts = read_domain(domain_xml(settings))
    assert (facts.name, facts.lab, facts.machine, facts.image) == ("lab-m1", "lab", "m1", "debian-12")
    assert facts.lab_id == ID
    assert (facts.memory_mib, facts.cpus, facts.type) == (1024, 2, settings.type)
    assert (facts.disk, facts.console) == (settings.disk, settings.console)
    assert facts.port == settings.forwarded_port
    assert (facts.mac, facts.network) == (("", "") if settings.forwarded_port else (settings.mac, facts.network))


def test_what_a_direct_start_needs() -> None:
    root = ET.fromstring(domain_xml(SETTINGS))
    assert root.findtext("os/cmdline") == "root=/dev/vda quiet"
    assert root.findtext("sysinfo/oemStrings/entry") == "io.systemd.credential:a=b<&"
    assert root.find("devices/interface/rom[@enabled='no']") is not None


def test_text_from_an_inventory_stays_text() -> None:
    facts = read_domain(domain_xml(replace(SETTINGS, machine="a'b<c>&", image='"x"')))
    assert (facts.machine, facts.image) == ("a'b<c>&", '"x"')


def test_a_domain_of_others() -> None:
    facts = read_domain("<domain type='kvm'><name>theirs</name><memory unit='KiB'>524288</memory></domain>")
    assert (facts.lab, facts.memory_mib, facts.mac) == ("", 512, "")


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ISOLATED])
def test_a_network_reads_back(mode: NetworkMode) -> None:
    one = lab("m1", "m2", network=network(mode))
    wanted = names.network_of(one)
    hosts = names.addresses(one, wanted)
    text = network_xml(wanted, hosts, names={names.mac_for("lab", "m1"): "m1"}, domain="lab", uuid=ID)
    assert read_network(text) == (wanted.bridge, hosts, "192.168.150.1/24")
    root = ET.fromstring(text)
    assert (root.find("forward") is not None) == (mode is NetworkMode.NAT)
    assert [host.get("name") for host in root.findall("ip/dhcp/host")] == ["m1", None]


def test_a_network_without_addresses() -> None:
    assert read_network("<network><name>n</name><bridge name='br0'/></network>") == ("br0", {}, "")


def test_volumes() -> None:
    assert read_volume_backing(volume_xml("v", capacity=1, form="qcow2", backing="/b")) == "/b"
    assert read_volume_bytes("<volume><capacity>7</capacity><physical>5</physical></volume>") == (7, 5)
    assert host_xml("m", "a", "n") == '<host mac="m" name="n" ip="a"/>'


def test_libvirt_takes_the_definitions() -> None:
    """libvirt's own driver for tests reads them as the real one does, and gives our mark back."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("test:///default")
    try:
        # That driver has no emulated kind and no SMBIOS.
        plain = replace(SETTINGS, oem_strings=())
        text = domain_xml(plain).replace("type='qemu'", "type='test'", 1).replace("machine='q35'", "")
        text = text.replace("arch='x86_64'", "arch='i686'")
        domain = connection.defineXML(text)
        assert 'name="m1"' in domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE).replace("'", '"')
        assert read_domain(domain.XMLDesc()).lab == "lab"
        one = lab("m1")
        wanted = names.network_of(one)
        made = connection.networkDefineXML(
            network_xml(wanted, names.addresses(one, wanted), names={}, domain="lab", uuid=ID)
        )
        assert read_network(made.XMLDesc())[0] == wanted.bridge
        assert made.UUIDString() == ID
        assert connection.storagePoolDefineXML(pool_xml("ktool-lab", "/pool", ID)).UUIDString() == ID
    finally:
        connection.close()


WANTED = Wanted(memory_mib=1024, cpus=2, disk_bytes=10 << 30, mac=SETTINGS.mac, image="debian-12")


@pytest.mark.parametrize(
    ("wanted", "disk", "expected"),
    [
        (WANTED, 10 << 30, []),
        (replace(WANTED, memory_mib=2048), 10 << 30, ["memory: 1024 MiB, wanted 2048 MiB (from its next start)"]),
        (replace(WANTED, cpus=4), 10 << 30, ["processors: 2, wanted 4 (from its next start)"]),
        (WANTED, 5 << 30, ["disk: 5 GiB, wanted 10 GiB (from its next start)"]),
        (WANTED, 20 << 30, ["disk: 20 GiB, wanted 10 GiB (a disk cannot shrink)"]),
        (WANTED, 0, []),
        (replace(WANTED, image="debian-13"), 10 << 30, ["image: debian-12, wanted debian-13 (remove"]),
        (replace(WANTED, mac="52:54:00:00:00:02"), 10 << 30, ["hardware address: 52:54:00:00:00:01, wanted"]),
    ],
)
def test_differences(wanted: Wanted, disk: int, expected: list[str]) -> None:
    found = list(differences(read_domain(domain_xml(SETTINGS)), wanted, disk_bytes=disk))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
