"""A blank machine behind a BMC is installed over the network, boots from its disk, and answers SSH as itself.

The first installation is killed half-way, as is ktool with it; the next one is whole. The image and the installer are
taken from the cache (`python -m provision.providers.redfish` makes them where package sources can be reached).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision import processes
from provision.inventory.lab import ImageSettings, Lab, Machine, ProviderName, RedfishSettings, Role
from provision.lab_state import LabState, cache_dir
from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import recipe_for
from provision.providers.provider import Found, MachineState
from provision.providers.redfish.network_boot import MARK_VARIABLE
from provision.providers.redfish.provider import RedfishProvider
from provision.ssh import known_hosts
from provision.ssh.reach import reach
from tests import libvirtd
from tests.provision.redfish import emulated_metal
from tests.provision.redfish.emulated_metal import BareMetal, bare_metal
from tests.provision.redfish.redfish_service import PASSWORD, RedfishService

NAME, MAC, ADDRESS = "metal-1", "52:54:00:aa:00:01", "198.51.100.21"
SECONDS = 900.0
CHILD = "import sys; from tests.provision.redfish.test_bare_metal import create; create(sys.argv[1])"


def missing() -> str:
    """Why this cannot be tried here, or an empty string."""
    if not (cache_dir() / "roots" / recipe_for(ImageSettings(), purpose=Purpose.METAL).key).is_dir():
        return "no image for bare metal in the cache: python -m provision.providers.redfish"
    return libvirtd.missing()


pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BareMetal]:
    """A blank machine; what tells a provider of it is in `lab.json` beside its console."""
    metal = BareMetal(NAME, MAC, tmp_path / "console", uefi=getattr(request, "param", False))
    with bare_metal(tmp_path, metal) as bmc:
        (tmp_path / "lab.json").write_text(json.dumps({"url": bmc.url, "ca": str(bmc.ca_file)}))
        try:
            yield metal
        finally:
            for pid in boot_servers(tmp_path):  # of the ktool that was killed, if the test went no further
                processes.end(pid, timeout=5)


def provider(folder: Path) -> RedfishProvider:
    """A provider as a new ktool makes one."""
    return RedfishProvider(lab(folder), LabState(folder / "state"))


def lab(folder: Path) -> Lab:
    told = json.loads((folder / "lab.json").read_text())
    bmc = RedfishService(told["url"], Path(told["ca"]), 0)
    settings: RedfishSettings = bmc.settings(NAME)
    machine = Machine(
        name=NAME,
        provider=ProviderName.REDFISH,
        roles=frozenset({Role.MASTER}),
        mac=MAC,
        address=ADDRESS,
        redfish=settings,
        variables={"ktool_redfish_password": PASSWORD},
    )
    return Lab(name="metal", source=folder / "metal.yml", machines=(machine,))


def create(folder: str) -> bool:
    """Make the machine, as one ktool does; prints what goes on."""
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {line}", flush=True)

    path = Path(folder)
    return provider(path).create(lab(path).machines[0], report)


def killed_while_writing(folder: Path) -> None:
    """A ktool in a process of its own, which is killed as soon as its installer writes."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            print("first:", line, end="")
            if "loading piece-0002" in line:
                break
        else:
            pytest.fail(f"it ended by itself, with {child.wait(10)}")
    finally:
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        child.wait(10)


def boot_servers(folder: Path) -> list[int]:
    return [pid for pid in processes.all_pids() if processes.has_mark_prefix(pid, f"{MARK_VARIABLE}={folder}")]


def only(found: list[Found]) -> Found:
    (one,) = found
    return one


def test_from_blank_to_installed_and_back(machine: BareMetal, tmp_path: Path) -> None:
    assert only(provider(tmp_path).find()).state is MachineState.ABSENT

    killed_while_writing(tmp_path)
    assert boot_servers(tmp_path), "dnsmasq outlives a ktool that is killed"
    assert only(provider(tmp_path).find()).state is MachineState.BROKEN

    began = time.monotonic()
    assert create(str(tmp_path))
    installed = time.monotonic()
    assert not boot_servers(tmp_path)
    one = lab(tmp_path).machines[0]
    endpoint = provider(tmp_path).endpoint(one, print, timeout=60)
    assert endpoint.address == ADDRESS
    assert endpoint.host_keys == known_hosts.pinned(LabState(tmp_path / "state").known_hosts, NAME)
    with reach(endpoint, timeout=SECONDS, report=print) as connection:
        print(f"installed after {installed - began:.0f} s, SSH after {time.monotonic() - installed:.0f} s more")
        said = connection.run(["sh", "-c", "hostname; cat /proc/cmdline; df -k / | tail -n 1; cat /etc/machine-id"])
        name, arguments, size, machine_id = said.stdout.splitlines()
    assert name == NAME
    assert "root=UUID=" in arguments
    assert machine_id
    print(size)

    again = provider(tmp_path)
    assert again.create(one, print) is False
    running = only(again.find())
    assert (running.state, running.differences) == (MachineState.RUNNING, ())

    # Somebody pulls the plug: an installed machine is only switched on again.
    emulated_metal.cut_power(NAME)
    assert only(again.find()).state is MachineState.STOPPED
    assert again.create(one, print) is True
    assert emulated_metal.power(NAME) == "running"
    print(again.diagnose(one))
    assert f"address {ADDRESS}" in again.diagnose(one)

    assert again.remove(NAME, print)
    assert emulated_metal.power(NAME) == "shut off"
    assert not again.remove(NAME, print)
    assert only(again.find()).state is MachineState.ABSENT
    again.cleanup(print)
    assert not LabState(tmp_path / "state").provider("redfish").exists()


@pytest.mark.skipif(not emulated_metal.OVMF.exists(), reason="no UEFI firmware: apt-get install ovmf")
@pytest.mark.parametrize("machine", [True], indirect=True, ids=["uefi"])
def test_with_uefi(machine: BareMetal, tmp_path: Path) -> None:
    assert create(str(tmp_path))
    endpoint = provider(tmp_path).endpoint(lab(tmp_path).machines[0], print, timeout=60)
    with reach(endpoint, timeout=SECONDS, report=print) as connection:
        assert connection.run(["test", "-d", "/sys/firmware/efi"]).status == 0
    emulated_metal.cut_power(NAME)
    assert provider(tmp_path).remove(NAME, print)
