"""Real Vagrant with vagrant-libvirt: from `vagrant up` to Ready nodes and back to nothing.

The quick form has one machine, a master on which pods may run. The complete one has workers, and runs by
`make test-lab`. Where KVM does not work every instruction is emulated, so both take minutes.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable

import pytest

from tests.provision.conftest import eventually
from tests.provision.vagrant import vagrant_lab as labs
from tests.provision.vagrant.vagrant_lab import VagrantLab

pytestmark = pytest.mark.skipif(bool(labs.missing()), reason=labs.missing())

_RECAP = re.compile(r"^\s*(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@pytest.mark.timeout(900)
def test_one_machine_becomes_a_ready_node_and_is_gone_again(record_property: Callable[[str, object], None]) -> None:
    with labs.vagrant_lab(workers=0) as lab:
        _from_up_to_destroy(lab, ["master-1"], record_property)


@pytest.mark.lab
@pytest.mark.timeout(1800)
def test_a_master_and_two_workers(record_property: Callable[[str, object], None]) -> None:
    with labs.vagrant_lab(workers=2) as lab:
        _from_up_to_destroy(lab, ["master-1", "worker-1", "worker-2"], record_property)


def _from_up_to_destroy(lab: VagrantLab, names: list[str], record: Callable[[str, object], None]) -> None:
    before = labs.leftovers()
    lab.make_box()
    said = lab.vagrant("up")
    assert "ktool --kubeconfig" in said, "it says how the cluster is reached"
    assert _failed(said) == dict.fromkeys(names, (0, 0))
    assert stat.S_IMODE((lab.kept / "kubeconfig").stat().st_mode) == 0o600
    assert _ready(lab) == dict.fromkeys(names, "True")
    if len(names) == 3:
        shown = lab.inventory()
        assert all(name in shown for name in names)

    said = lab.vagrant("provision")
    assert _changed(said) == dict.fromkeys(names, 0), said[-6000:]

    lab.vagrant("destroy", "-f")
    assert not (lab.kept / "kubeconfig").exists()
    # A process that was told to end is reaped late here.
    eventually(lambda: labs.leftovers() == before, timeout=20)
    for command, seconds in lab.took.items():
        record(f"{len(names)} machines: {command}", seconds)
    print(f"{len(names)} machines, seconds: {lab.took}")


def _ready(lab: VagrantLab) -> dict[str, str]:
    """The nodes, and what their condition Ready says."""
    nodes = json.loads(lab.ktool("get", "nodes", "-o", "json"))["items"]
    return {
        node["metadata"]["name"]: condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    }


def _changed(said: str) -> dict[str, int]:
    return {name: int(changed) for name, changed, _, _ in _RECAP.findall(said)}


def _failed(said: str) -> dict[str, tuple[int, int]]:
    return {name: (int(unreachable), int(failed)) for name, _, unreachable, failed in _RECAP.findall(said)}
