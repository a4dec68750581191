"""Bare metal by the real command line: a blank machine behind a BMC becomes a cluster's Ready node.

The machine is emulated in software, with a Redfish service as its BMC (tests/provision/redfish/emulated_metal.py): it
is installed over the network, boots from its disk, is a master with a pod, and is switched off in the end. The image
and the installer come from the cache (`python -m provision.providers.redfish`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab_under_test import LabUnderTest, run_example, told
from tests.provision.redfish import emulated_metal, test_bare_metal
from tests.provision.redfish.emulated_metal import BareMetal, bare_metal
from tests.provision.redfish.redfish_service import PASSWORD, USER, RedfishService

NAME, MAC, ADDRESS = "metal-1", "52:54:00:aa:00:01", "198.51.100.21"
BOOT_SECONDS, READY_SECONDS = "600", "600"


def inventory(bmc: RedfishService) -> dict[str, Any]:
    return {
        "all": {
            "vars": {
                "ktool_lab": "metal",
                "ktool_provider": "redfish",
                "ktool_ready_timeout": int(READY_SECONDS),
                "ktool_redfish_user": USER,
                "ktool_redfish_password": "{{ lookup('env', 'REDFISH_PASSWORD') }}",
                "ktool_redfish_ca_file": str(bmc.ca_file),
            },
            "children": {
                "masters": {
                    "hosts": {
                        NAME: {
                            "ktool_redfish_url": bmc.url,
                            "ktool_redfish_system": NAME,
                            "ktool_mac": MAC,
                            "ktool_address": ADDRESS,
                            "ktool_schedulable": True,
                        }
                    }
                },
            },
        }
    }


@pytest.mark.lab
@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.timeout(3000)
@pytest.mark.skipif(bool(test_bare_metal.missing()), reason=test_bare_metal.missing())
def test_a_blank_machine_becomes_a_ready_node(
    tmp_path: Path,
    make_lab: Callable[[dict[str, Any]], LabUnderTest],
    example_archive: Path,
) -> None:
    metal = BareMetal(NAME, MAC, tmp_path / "console", memory_mib=1536, cpus=2)
    with bare_metal(tmp_path, metal) as bmc:
        lab = make_lab(inventory(bmc))
        lab.env["REDFISH_PASSWORD"] = PASSWORD
        try:
            through(lab, example_archive)
        finally:
            lab.clear()  # while there is a BMC


def through(lab: LabUnderTest, archive: Path) -> None:
    """The whole life of a lab of bare metal."""
    assert emulated_metal.power(NAME) == "shut off"
    planned = lab.lab("create", "--plan", check=False)
    assert planned.returncode == 2, told(planned)
    assert emulated_metal.power(NAME) == "shut off"

    began = time.monotonic()
    made = lab.lab("create", "--boot-timeout", BOOT_SECONDS, "--ready-timeout", READY_SECONDS, timeout=1800)
    print(f"{time.monotonic() - began:.0f} s\n{made.stdout}\n{made.stderr}")
    assert "The lab metal is up" in made.stdout, told(made)
    assert PASSWORD not in made.stdout + made.stderr
    assert lab.nodes() == {NAME: "True"}
    assert run_example(lab, archive, nodes=1, timeout=400) == {NAME}

    again = lab.lab("create", timeout=300)
    assert "nothing to do" in again.stdout, told(again)
    assert lab.status()[NAME]["state"] == "running"
    assert lab.journal == ""

    ended = lab.lab("destroy", "--yes", timeout=300)
    assert "Nothing of the lab metal is left." in ended.stdout, told(ended)
    assert emulated_metal.power(NAME) == "shut off"
    # Control groups of nspawn machines are another lab's, on a host where there are some: bare metal has none here.
    assert [line for line in lab.left_over() if "/ktool-lab-" not in line] == []
