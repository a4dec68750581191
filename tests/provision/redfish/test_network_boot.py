"""dnsmasq and the install server for real, on a bridge of the test's own: who is answered, and with what."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provision import processes
from provision.providers.redfish.install_server import InstallServer
from provision.providers.redfish.network_boot import LOADERS, Bootable, NetworkBootService
from provision.providers.redfish.segment import Segment
from tests.provision.redfish.pxe_client import EFI, OPTION_ROUTER, Offer, discover

pytestmark = [
    pytest.mark.skipif(not os.environ.get("KTOOL_NETNS"), reason="needs a network namespace: make test"),
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed"),
    pytest.mark.skipif(not LOADERS.exists(), reason="ipxe is not installed"),
]

KNOWN = "52:54:00:aa:00:01"
OTHER = "52:54:00:aa:00:02"
STRANGER = "52:54:00:aa:00:99"
CLIENT = "kt-client"
SEGMENT = Segment("kt-boot", "198.51.100.1", IPv4Network("198.51.100.0/24"))
MACHINES = [Bootable("metal-1", KNOWN, "198.51.100.21"), Bootable("metal-2", OTHER, "198.51.100.22")]


@pytest.fixture(autouse=True)
def bridge() -> Iterator[None]:
    """A bridge with our address and one cable, whose other end is a machine."""
    ip("link", "add", SEGMENT.interface, "type", "bridge")
    try:
        ip("link", "add", "kt-port", "type", "veth", "peer", "name", CLIENT)
        ip("link", "set", "kt-port", "master", SEGMENT.interface)
        for link in (SEGMENT.interface, "kt-port", CLIENT):
            ip("link", "set", link, "up")
        ip("address", "add", f"{SEGMENT.address}/24", "dev", SEGMENT.interface)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", CLIENT], check=False, timeout=10)
        ip("link", "delete", SEGMENT.interface)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def service(folder: Path, *, proxy: bool = False) -> NetworkBootService:
    return NetworkBootService(folder, segment=lambda: SEGMENT, machines=lambda: MACHINES, proxy=proxy)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def offered(mac: str, *, ipxe: bool = False, architecture: int = 0, timeout: float = 4.0) -> Offer:
    offer = discover(CLIENT, mac, ipxe=ipxe, architecture=architecture, timeout=timeout)
    assert offer is not None, f"{mac} is not answered"
    return offer


def test_machines_of_the_inventory_get_their_address_and_a_loader(tmp_path: Path) -> None:
    with service(tmp_path).running() as server:
        bios = offered(KNOWN)
        assert (bios.address, bios.boot_file) == ("198.51.100.21", "undionly.kpxe")
        assert OPTION_ROUTER not in bios.options
        assert offered(KNOWN, architecture=EFI).boot_file == "snponly.efi"
        second = offered(OTHER, ipxe=True)
        assert (second.address, second.boot_file) == ("198.51.100.22", server.script_url(OTHER))
        assert offered(KNOWN, ipxe=True).boot_file == server.script_url(KNOWN)
        assert "exit" in get(server.script_url(KNOWN))


def test_strangers_are_not_answered(tmp_path: Path) -> None:
    with service(tmp_path).running() as server:
        assert discover(CLIENT, STRANGER, timeout=1.5) is None
        assert discover(CLIENT, STRANGER, ipxe=True, timeout=1.5) is None
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"http://{SEGMENT.address}:{server.port}/guessed/boot.ipxe")
        with refused.value as answer:
            assert answer.code == 404


def test_beside_another_dhcp_server_only_the_loader_is_told(tmp_path: Path) -> None:
    with service(tmp_path, proxy=True).running() as server:
        bios = offered(KNOWN)
        assert bios.address == "0.0.0.0"
        assert bios.boot_file == "undionly.kpxe"
        assert offered(KNOWN, architecture=EFI).boot_file == "snponly.efi"
        ipxe = offered(KNOWN, ipxe=True)
        assert (ipxe.address, ipxe.boot_file) == ("0.0.0.0", server.script_url(KNOWN))
        assert discover(CLIENT, STRANGER, timeout=1.5) is None


def test_the_last_user_stops_it(tmp_path: Path) -> None:
    boot = service(tmp_path)
    with boot.running() as first:
        with boot.running() as second:
            assert second is first
        pid = dnsmasq_pid(tmp_path)
        assert processes.is_alive(pid)
    assert not processes.is_alive(pid)
    assert discover(CLIENT, KNOWN, timeout=1.0) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dnsmasq.log"]


def test_one_that_outlived_its_ktool_is_ended(tmp_path: Path) -> None:
    started = service(tmp_path)
    context = started.running()
    server: InstallServer = context.__enter__()
    pid = dnsmasq_pid(tmp_path)
    try:
        later = service(tmp_path)
        assert later.end_leftover()
        assert not processes.is_alive(pid)
        assert not later.end_leftover()
    finally:
        context.__exit__(None, None, None)
    assert server.port


def test_iPXE_is_served_by_tftp(tmp_path: Path) -> None:  # noqa: N802 - its name
    with service(tmp_path).running():
        target = tmp_path / "loader"
        subprocess.run(
            ["busybox", "tftp", "-g", "-r", "undionly.kpxe", "-l", str(target), SEGMENT.address],
            check=True,
            timeout=30,
            capture_output=True,
        )
        assert target.read_bytes() == (LOADERS / "undionly.kpxe").read_bytes()


def dnsmasq_pid(folder: Path) -> int:
    return int((folder / "dnsmasq.pid").read_text())
