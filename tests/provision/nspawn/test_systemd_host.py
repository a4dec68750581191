"""On a host with systemd, machines are units. The host is a machine itself: labs can be nested."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.inventory.lab import ImageSettings
from provision.lab_state import cache_dir
from provision.machine_image.recipe import recipe_for
from tests import machines
from tests.machines import Host

CHECKOUT = Path(__file__).parents[3]
SITE = "/var/lib/site"
UNIT = "ktool-lab-inner-"
PYTHON = "python3 /var/lib/lab.py"
# Not needed to make machines, and large.
LEFT_OUT = ("ansible", "ansible_collections", "mypy", "ruff", "libvirt*", "*.pth", "*.dist-info")

# What `ktool lab` asks of the provider.
DRIVER = """\
import json, sys
from pathlib import Path
from provision.inventory.lab import *
from provision.lab_state import LabState
from provision.providers.nspawn.provider import NspawnProvider

lab = Lab(
    name="inner",
    source=Path("lab.yml"),
    network=NetworkSettings(cidr="10.74.0.0/24", mode=NetworkMode.NAT),
    machines=tuple(
        Machine(name=name, provider=ProviderName.NSPAWN, roles=frozenset(), memory_mib=512, autostart=name == "auto",
                image=ImageSettings(source="/var/lib/image"))
        for name in ("auto", "manual")
    ),
)
provider = NspawnProvider(lab, LabState(Path("/var/lib/ktool-labs/inner")))
if sys.argv[1] == "create":
    for machine in lab.machines:
        provider.create(machine, lambda line: None)
        provider.endpoint(machine, lambda line: None, timeout=60)
elif sys.argv[1] == "destroy":
    for machine in lab.machines:
        provider.remove(machine.name, lambda line: None)
    provider.cleanup(lambda line: None)
print(json.dumps({one.name: one.state for one in provider.find()}))
"""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing()),
]


@pytest.fixture
def host() -> Iterator[Host]:
    with machines.machines(["host"], memory_mib=3000, cidr="10.75.0.0/24") as (made,):
        install(made)
        yield made


def install(host: Host) -> None:
    """ktool's provisioning, systemd-nspawn, and a root folder for the machines in it."""
    var_lib = host.var_lib
    root = cache_dir() / "roots" / recipe_for(ImageSettings()).key / "root"
    subprocess.run(["cp", "-al", str(root), str(var_lib / "image")], check=True)
    packages = Path(os.path.dirname(pytest.__file__)).parent
    shutil.copytree(packages, var_lib / "site", ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ("provision", "kube"):
        shutil.copytree(CHECKOUT / name, var_lib / "site" / name)
    (var_lib / "lab.py").write_text(DRIVER)
    extra = host.root / "usr/local/lib/python3.11/dist-packages"
    extra.mkdir(parents=True, exist_ok=True)
    (extra / "site.pth").write_text(f"{SITE}\n")
    shutil.copy2(shutil.which("systemd-nspawn") or "", host.root / "usr/bin/systemd-nspawn")
    (shared,) = Path("/usr/lib").glob("*/systemd/libsystemd-shared-*.so")
    shutil.copy2(shared, host.root / "usr/local/lib" / shared.name)
    host.run("ldconfig; systemctl stop docker.socket docker")


def states(host: Host, verb: str) -> dict[str, str]:
    found = json.loads(host.output(f"{PYTHON} {verb}", timeout=120))
    assert isinstance(found, dict)
    return found


def test_machines_are_units_that_start_with_the_host(host: Host) -> None:
    assert states(host, "create") == {"auto": "running", "manual": "running"}
    group = host.output(f"cat /proc/$(systemctl show -P MainPID {UNIT}auto)/cgroup")
    assert f"name=systemd:/system.slice/{UNIT}auto.service" in group or f"0::/system.slice/{UNIT}auto.service" in group

    host.reboot()
    host.eventually(f'{PYTHON} find | grep -q \'"auto": "running"\'')
    assert states(host, "find") == {"auto": "running", "manual": "stopped"}
    assert states(host, "create") == {"auto": "running", "manual": "running"}

    host.run(f"systemctl restart {UNIT}auto")
    host.eventually(f'{PYTHON} find | grep -q \'"auto": "running"\'')
    assert states(host, "destroy") == {"auto": "absent", "manual": "absent"}
    assert host.output(f"systemctl list-unit-files --no-legend '{UNIT}*' || true") == ""
    assert host.output("ip -br link | grep -E '^kt[bm]-' || true") == ""
    assert host.output("nft list tables | grep ktool || true") == ""
    assert host.output("ls -d /sys/fs/cgroup/*/ktool-lab-* /sys/fs/cgroup/ktool-lab-* 2>/dev/null || true") == ""
