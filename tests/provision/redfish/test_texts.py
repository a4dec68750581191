"""What is written for others to read: dnsmasq's configuration, iPXE's scripts, the seed, the installer's plan."""

from __future__ import annotations

import io
import subprocess
import tarfile
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provision.providers.redfish import ipxe
from provision.providers.redfish.diagnosis import without_secrets
from provision.providers.redfish.dnsmasq_conf import BootHost, NetworkBoot, dnsmasq_conf
from provision.providers.redfish.seed import FixedAddress, Seed, archive, plan_text, seed_files

HOSTS = (
    BootHost(
        name="metal-1", mac="52:54:00:aa:00:01", script_url="http://192.0.2.1:8/one/boot.ipxe", address="192.0.2.21"
    ),
    BootHost(name="metal-2", mac="52:54:00:aa:00:02", script_url="http://192.0.2.1:8/two/boot.ipxe"),
)
FULL = """\
# made by ktool, for as long as machines are being installed
port=0
interface=lan
except-interface=lo
bind-interfaces
pid-file=/state/dnsmasq.pid
dhcp-leasefile=/state/dnsmasq.leases
log-facility=/state/dnsmasq.log
log-dhcp
dhcp-range=192.0.2.0,static,255.255.255.0,3600
dhcp-option=option:router,192.0.2.254
dhcp-host=52:54:00:aa:00:01,set:machine0,192.0.2.21,metal-1
dhcp-host=52:54:00:aa:00:02,set:machine1,metal-2
dhcp-ignore=tag:!known
enable-tftp=lan
tftp-root=/usr/lib/ipxe
dhcp-match=set:ipxe,175
dhcp-match=set:efi,option:client-arch,7
dhcp-match=set:efi,option:client-arch,9
dhcp-boot=tag:ipxe,tag:machine0,http://192.0.2.1:8/one/boot.ipxe
dhcp-boot=tag:ipxe,tag:machine1,http://192.0.2.1:8/two/boot.ipxe
dhcp-boot=tag:!ipxe,tag:efi,snponly.efi
dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe
"""


def boot(*, proxy: bool = False, gateway: str = "192.0.2.254") -> NetworkBoot:
    return NetworkBoot(
        interface="lan",
        network=IPv4Network("192.0.2.0/24"),
        hosts=HOSTS,
        loaders=Path("/usr/lib/ipxe"),
        folder=Path("/state"),
        proxy=proxy,
        gateway=gateway,
    )


def test_dnsmasq_that_gives_addresses() -> None:
    assert dnsmasq_conf(boot()) == FULL


def test_without_a_gateway_machines_are_told_none() -> None:
    assert "dhcp-option=option:router\n" in dnsmasq_conf(boot(gateway=""))


def test_dnsmasq_beside_another_server() -> None:
    lines = dnsmasq_conf(boot(proxy=True)).splitlines()
    assert "dhcp-range=192.0.2.0,proxy,255.255.255.0" in lines
    assert "dhcp-host=52:54:00:aa:00:01,set:machine0,metal-1" in lines
    assert "dhcp-ignore=tag:!known" in lines
    assert not [line for line in lines if "router" in line or "static" in line]
    without = [line for line in lines if not line.startswith(("dhcp-range", "dhcp-option", "dhcp-host", "pxe-service"))]
    full = [line for line in FULL.splitlines() if not line.startswith(("dhcp-range", "dhcp-option", "dhcp-host"))]
    assert without == full


def test_ipxe_starts_the_installer() -> None:
    script = ipxe.install_script("metal-1", url="http://192.0.2.1:8/secret", mac="52:54:00:AA:00:01").splitlines()
    assert script[0] == "#!ipxe"
    (kernel,) = [line for line in script if line.startswith("kernel ")]
    assert kernel.startswith("kernel http://192.0.2.1:8/secret/vmlinuz initrd=installer.img ")
    assert "ktool.url=http://192.0.2.1:8/secret ktool.mac=52:54:00:aa:00:01 " in kernel
    assert "initrd --name installer.img http://192.0.2.1:8/secret/installer.img || goto again" in script


def test_ipxe_lets_others_go() -> None:
    assert ipxe.local_script("metal-1").splitlines()[-1] == "exit"


SEED = Seed(name="metal-1", user="root", keys=("ssh-ed25519 AAAA ktool",))


@pytest.mark.parametrize(
    ("seed", "path", "content"),
    [
        (SEED, "etc/hostname", "metal-1\n"),
        (SEED, "root/.ssh/authorized_keys", "ssh-ed25519 AAAA ktool\n"),
        (Seed(name="m", user="ops", keys=("k",)), "home/ops/.ssh/authorized_keys", "k\n"),
        (Seed(name="m", user="ops", keys=("k",)), "etc/sudoers.d/50-ktool", "ops ALL=(ALL) NOPASSWD:ALL\n"),
        (
            Seed(
                name="m",
                user="root",
                keys=(),
                fixed=FixedAddress(
                    address="192.0.2.21/24",
                    mac="52:54:00:aa:00:01",
                    gateway="192.0.2.254",
                    name_servers=("192.0.2.53",),
                ),
            ),
            "etc/systemd/network/10-ktool.network",
            "[Match]\nMACAddress=52:54:00:aa:00:01\n\n[Network]\nAddress=192.0.2.21/24\nLinkLocalAddressing=no\n"
            "IPv6AcceptRA=no\nGateway=192.0.2.254\nDNS=192.0.2.53\n",
        ),
        (
            Seed(name="m", user="root", keys=(), cloud_init=True),
            "var/lib/cloud/seed/nocloud/meta-data",
            "instance-id: m\nlocal-hostname: m\n",
        ),
    ],
)
def test_seed(seed: Seed, path: str, content: str) -> None:
    assert {file.path: file.content for file in seed_files(seed)}[path] == content


def test_a_seed_has_nothing_that_its_image_does_not_ask_for() -> None:
    assert [file.path for file in seed_files(SEED)] == ["etc/hostname", "etc/hosts", "root/.ssh/authorized_keys"]


def test_the_seed_as_a_tar() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(seed_files(Seed(name="m", user="ops", keys=("k",)))))) as tar:
        modes = {member.name: (member.mode, member.uid) for member in tar}
    assert modes["home/ops/.ssh"] == (0o700, 0)
    assert modes["home/ops/.ssh/authorized_keys"] == (0o600, 0)
    assert modes["etc/sudoers.d/50-ktool"] == (0o440, 0)


@pytest.mark.parametrize("disk", ["", "/dev/disk/by-id/ata-A B", "$(reboot)"])
def test_the_plan_is_only_data_to_a_shell(disk: str) -> None:
    text = plan_text(disk=disk, size=1025, piece_mib=32, user="root")
    script = f'{text}printf "%s\\n" "$DISK" "$SECTORS" "$PIECE_MIB" "$USER_NAME"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=10)
    assert said.stdout.splitlines() == [disk, "3", "32", "root"]


def test_a_diagnosis_has_no_secrets() -> None:
    line = "bootfile name: http://192.0.2.1:8/gkBqcmkl0l9/boot.ipxe"
    assert without_secrets([line]) == ["bootfile name: http://192.0.2.1:8/.../boot.ipxe"]
