"""dnsmasq's configuration for network boot, as text.

Only hardware addresses of the inventory are answered: all others are ignored (`dhcp-ignore=tag:!known`), so a laptop on
the same segment never sees this server. Two forms:

- **proxy**: another DHCP server gives the addresses, this one only adds what to boot (PXE's proxyDHCP);
- **full**: this one gives the addresses, too, those that the inventory has.

The firmware's own PXE loads iPXE by TFTP, and iPXE, which says so in its request (option 175), is sent to ktool's HTTP
server. Machines whose firmware has iPXE already go there at once. No DNS is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

# PXE's client architectures (RFC 4578 and IANA's registry): 0 is a BIOS, 7 and 9 are UEFI on x86-64.
EFI_ARCHITECTURES = (7, 9)
BIOS_LOADER = "undionly.kpxe"
EFI_LOADER = "snponly.efi"
LEASE_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class BootHost:
    """A machine that is answered; `address` is the one it gets, in the full form."""

    name: str
    mac: str
    script_url: str
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkBoot:
    """Where and to whom to answer. `folder` gets pid, leases and log; `loaders` has iPXE's files.

    `proxy`: another server gives the addresses. `gateway` empty: machines get no default route.
    """

    interface: str
    network: IPv4Network
    hosts: Sequence[BootHost]
    loaders: Path
    folder: Path
    proxy: bool = False
    gateway: str = ""

    @property
    def pid_file(self) -> Path:
        """dnsmasq's process id."""
        return self.folder / "dnsmasq.pid"

    @property
    def lease_file(self) -> Path:
        """Addresses given, in dnsmasq's form."""
        return self.folder / "dnsmasq.leases"

    @property
    def log_file(self) -> Path:
        """What dnsmasq saw and said."""
        return self.folder / "dnsmasq.log"


def dnsmasq_conf(boot: NetworkBoot) -> str:
    """The configuration file's text (dnsmasq(8))."""
    lines = [
        "# made by ktool, for as long as machines are being installed",
        "port=0",
        f"interface={boot.interface}",
        "except-interface=lo",
        "bind-interfaces",
        f"pid-file={boot.pid_file}",
        f"dhcp-leasefile={boot.lease_file}",
        f"log-facility={boot.log_file}",
        "log-dhcp",
        *_addresses(boot),
        *_hosts(boot),
        # dnsmasq itself sets the tag `known` for whoever has a dhcp-host line.
        "dhcp-ignore=tag:!known",
        f"enable-tftp={boot.interface}",
        f"tftp-root={boot.loaders}",
        "dhcp-match=set:ipxe,175",
        *(f"dhcp-match=set:efi,option:client-arch,{number}" for number in EFI_ARCHITECTURES),
        *(f"dhcp-boot=tag:ipxe,tag:{_tag(number)},{host.script_url}" for number, host in enumerate(boot.hosts)),
        # A boot service that nobody has: without any, dnsmasq is no proxy; with one of its own, firmware would have to
        # ask a second time, on a port of its own, for what the offer can say at once.
        *(["pxe-service=tag:nobody,x86PC,none"] if boot.proxy else []),
        f"dhcp-boot=tag:!ipxe,tag:efi,{EFI_LOADER}",
        f"dhcp-boot=tag:!ipxe,tag:!efi,{BIOS_LOADER}",
    ]
    return "\n".join(lines) + "\n"


def _addresses(boot: NetworkBoot) -> list[str]:
    network = boot.network
    if boot.proxy:
        return [f"dhcp-range={network.network_address},proxy,{network.netmask}"]
    # An option without a value: nothing is said, where dnsmasq would name itself.
    router = f"option:router,{boot.gateway}" if boot.gateway else "option:router"
    return [f"dhcp-range={network.network_address},static,{network.netmask},{LEASE_SECONDS}", f"dhcp-option={router}"]


def _hosts(boot: NetworkBoot) -> list[str]:
    return [
        ",".join(
            part
            for part in (
                f"dhcp-host={host.mac}",
                f"set:{_tag(number)}",
                host.address if not boot.proxy else "",
                host.name,
            )
            if part
        )
        for number, host in enumerate(boot.hosts)
    ]


def _tag(number: int) -> str:
    return f"machine{number}"
