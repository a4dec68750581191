"""Real virtual machines: enrolled, running pods, reaching each other's Services, and gone without a trace.

Under software emulation each takes half a minute to boot. `make test` has one, `make test-lab` two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import libvirtd
from tests.lab.lab_under_test import LabUnderTest, run_example, told

READY_SECONDS = "400"


@pytest.fixture
def private_libvirtd() -> Iterator[libvirtd.Libvirtd]:
    if why := libvirtd.missing():
        pytest.skip(why)
    with libvirtd.private_libvirtd() as running:
        yield running


def inventory(*workers: str) -> dict[str, Any]:
    return {
        "all": {
            "vars": {
                "ktool_lab": "vms",
                "ktool_provider": "libvirt",
                "ktool_network": {"mode": "isolated", "cidr": "10.81.0.0/24"},
                "ktool_memory_mib": 1024,
                "ktool_cpus": 2,
            },
            "children": {
                "masters": {"hosts": {"v1": {"ktool_schedulable": True}}},
                "workers": {"hosts": {name: {} for name in workers}},
            },
        }
    }


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_one_virtual_machine_becomes_a_cluster(
    private_libvirtd: libvirtd.Libvirtd, make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    through(make_lab(inventory()), example_archive, {"v1"})


@pytest.mark.lab
@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_two_virtual_machines_reach_each_other(
    private_libvirtd: libvirtd.Libvirtd, make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    through(make_lab(inventory("v2")), example_archive, {"v1", "v2"})


def through(lab: LabUnderTest, archive: Path, names: set[str]) -> None:
    """The whole life of a lab."""
    made = lab.lab("create", "--ready-timeout", READY_SECONDS, timeout=900)
    assert "The lab vms is up" in made.stdout, told(made)
    assert lab.nodes() == dict.fromkeys(names, "True")
    assert run_example(lab, archive, nodes=len(names), timeout=400) == names
    again = lab.lab("create", timeout=300)
    assert "nothing to do" in again.stdout, told(again)
    assert {name: one["state"] for name, one in lab.status().items()} == dict.fromkeys(names, "running")
    ended = lab.lab("destroy", "--yes", timeout=300)
    assert "Nothing of the lab vms is left." in ended.stdout, told(ended)
    assert lab.left_over() == []
