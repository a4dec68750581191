"""What ktool tells libvirt, from readable templates, and what it reads back: XML here, plain data there."""

from __future__ import annotations

import functools
import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import jinja2

from provision.inventory.lab import NetworkMode
from provision.providers.libvirt.names import Network

# Marks what is ours; the element under it says which lab's and which machine's.
NAMESPACE = "urn:ktool:libvirt:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSettings:
    """Everything that varies in a domain. Paths are the libvirt host's; `kernel` empty: the disk's own boot loader.

    `unplugged`: the interface leads nowhere. `forwarded_port` is the host's loopback port that leads to SSH, only for
    the user network (0: none).
    """

    name: str
    uuid: str
    lab: str
    lab_id: str
    machine: str
    version: str
    image: str
    type: str  # kvm or qemu
    arch: str  # as libvirt and uname say it
    memory_mib: int
    cpus: int
    mac: str
    disk: str
    console: str
    kernel: str = ""
    initrd: str = ""
    kernel_arguments: str = ""
    seed: str = ""
    network: str = ""
    bridge: str = ""
    unplugged: bool = False
    forwarded_port: int = 0
    oem_strings: tuple[str, ...] = ()

    @property
    def chipset(self) -> str:
        """libvirt's machine type."""
        return "q35" if self.arch == "x86_64" else "virt"

    @property
    def root_bus(self) -> str:
        """The bus to which devices are added by hand."""
        return "pcie.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """A domain as it is. Memory in MiB; `lab` empty: it is none of ktool's."""

    name: str
    lab: str = ""
    lab_id: str = ""
    machine: str = ""
    image: str = ""
    port: int = 0
    type: str = ""
    memory_mib: int = 0
    cpus: int = 0
    mac: str = ""
    network: str = ""
    disk: str = ""
    console: str = ""


@functools.cache
def _templates() -> jinja2.Environment:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    # autoescape: what stands between the tags and in attributes is data.
    return jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def domain_xml(settings: DomainSettings) -> str:
    """The domain's definition."""
    return _templates().get_template("domain.xml.j2").render(d=settings, namespace=NAMESPACE)


def network_xml(network: Network, hosts: Mapping[str, str], *, names: Mapping[str, str], domain: str, uuid: str) -> str:
    """The definition of an own network; `hosts` maps hardware addresses to fixed ones, `names` to machines' names."""
    cidr = ipaddress.IPv4Network(f"{network.address}/{network.prefix}", strict=False)
    template = _templates().get_template("network.xml.j2")
    return template.render(
        n=network,
        nat=network.mode is NetworkMode.NAT,
        domain=domain,
        uuid=uuid,
        first=str(cidr[2]),
        last=str(cidr[-2]),
        hosts=[(mac, ip, names.get(mac, "")) for mac, ip in hosts.items()],
    )


def host_xml(mac: str, address: str, name: str) -> str:
    """A fixed lease, as a network's definition and its live update have it."""
    named = f" name={quoteattr(name)}" if name else ""
    return f"<host mac={quoteattr(mac)}{named} ip={quoteattr(address)}/>"


def pool_xml(name: str, path: str, uuid: str) -> str:
    """A storage pool that is a folder."""
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(pool, "uuid").text = uuid
    target = ET.SubElement(pool, "target")
    ET.SubElement(target, "path").text = path
    # QEMU's own user reads the disks, but has no need to list them.
    ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = "0711"
    return ET.tostring(pool, encoding="unicode")


def volume_xml(name: str, *, capacity: int, form: str, backing: str = "", backing_form: str = "qcow2") -> str:
    """A volume of `capacity` bytes in the format `form`; `backing` is the path of what it is a linked clone of."""
    volume = ET.Element("volume")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(capacity)
    if form == "raw":
        ET.SubElement(volume, "allocation", unit="bytes").text = "0"
    target = ET.SubElement(volume, "target")
    ET.SubElement(target, "format", type=form)
    if backing:
        store = ET.SubElement(volume, "backingStore")
        ET.SubElement(store, "path").text = backing
        ET.SubElement(store, "format", type=backing_form)
    return ET.tostring(volume, encoding="unicode")


def read_domain(text: str) -> DomainFacts:
    """What a domain's XML (as libvirt gives it) says."""
    root = ET.fromstring(text)  # noqa: S314 (libvirt's own)
    tag = root.find(f"metadata/{{{NAMESPACE}}}machine")
    mark = tag.attrib if tag is not None else {}
    interface = root.find("devices/interface")
    mac = interface.find("mac") if interface is not None else None
    source = interface.find("source") if interface is not None else None
    disk = root.find("devices/disk/source")
    log = root.find("devices/serial/log")
    return DomainFacts(
        name=root.findtext("name", ""),
        lab=mark.get("lab", ""),
        lab_id=mark.get("id", ""),
        machine=mark.get("name", ""),
        image=mark.get("image", ""),
        port=int(mark.get("port") or 0),
        type=root.get("type", ""),
        memory_mib=_mib(root.find("memory")),
        cpus=int(root.findtext("vcpu", "0")),
        mac=(mac.get("address", "") if mac is not None else "").lower(),
        network=(source.get("network") or source.get("bridge") or "") if source is not None else "",
        disk=disk.get("file", "") if disk is not None else "",
        console=log.get("file", "") if log is not None else "",
    )


def read_network(text: str) -> tuple[str, dict[str, str], str]:
    """Of a network's XML: its bridge, its fixed leases (hardware address → address), the host's address with prefix."""
    root = ET.fromstring(text)  # noqa: S314 (libvirt's own)
    bridge = root.find("bridge")
    ip = root.find("ip")
    hosts = {
        host.get("mac", "").lower(): host.get("ip", "") for host in root.findall("ip/dhcp/host") if host.get("mac")
    }
    own = ""
    if ip is not None and ip.get("address"):
        prefix = ip.get("prefix") or ip.get("netmask") or "32"
        own = str(ipaddress.IPv4Interface(f"{ip.get('address')}/{prefix}")) if ip.get("family") != "ipv6" else ""
    return (bridge.get("name", "") if bridge is not None else ""), hosts, own


def read_pool_path(text: str) -> str:
    """Of a storage pool's XML: its folder."""
    return ET.fromstring(text).findtext("target/path", "")  # noqa: S314 (libvirt's own)


def read_volume_bytes(text: str) -> tuple[int, int]:
    """Of a volume's XML: its capacity and the size of its file, both in bytes."""
    root = ET.fromstring(text)  # noqa: S314 (libvirt's own)
    return int(root.findtext("capacity", "0")), int(root.findtext("physical", "0"))


def read_volume_backing(text: str) -> str:
    """Of a volume's XML: the path of what it is a linked clone of."""
    return ET.fromstring(text).findtext("backingStore/path", "")  # noqa: S314 (libvirt's own)


_UNITS = {"b": 1, "bytes": 1, "KiB": 1024, "k": 1024, "MiB": 1024**2, "M": 1024**2, "GiB": 1024**3, "G": 1024**3}


def _mib(element: ET.Element | None) -> int:
    if element is None or not element.text:
        return 0
    return int(element.text) * _UNITS.get(element.get("unit", "KiB"), 1024) // 1024**2
