"""Every master of a lab stopped at once: services by hand, power for all, machines shut down. `lab create` brings it
back with its state."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.inventory.read import read
from provision.lab_state import cache_dir
from provision.machine_image.prepare import is_ready
from tests.lab.lab_under_test import LabUnderTest, eventually, pods_by_node, run_example, told
from tests.lab.masters import IMAGE, MASTERS, inventory, members, provider

EVERYTHING = "systemctl stop ktool-agent ktool-master ktool-etcd"


def uids(lab: LabUnderTest) -> dict[str, str]:
    """What tells the cluster's objects from such of the same name in a new cluster."""
    template = '{range .items[*]}{.metadata.name}={.metadata.uid}{"\\n"}{end}'
    return dict(line.split("=", 1) for line in lab.kubectl("get", "nodes", "-o", f"jsonpath={template}").split())


def is_back(lab: LabUnderTest, before: dict[str, str]) -> None:
    """Every member, every Node, the same cluster, and the example's pods."""
    assert members(lab, "master-3") == dict.fromkeys(MASTERS, True)
    assert set(lab.nodes().values()) == {"True"}
    assert uids(lab) == before
    eventually(lambda: sum(pods_by_node(lab).values()) == 3, f"the example's pods are ready: {pods_by_node(lab)}")
    assert "nothing to do" in (again := lab.lab("create")).stdout, told(again)


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.lab
def test_all_masters_are_stopped_and_come_back(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    if not is_ready(IMAGE, cache_dir()):
        pytest.skip("no image was built (python -m provision.machine_image debian-12+etcd-server+haproxy)")
    lab = make_lab(inventory("stopped-masters", workers=("worker-1",)))
    lab.lab("create")
    run_example(lab, example_archive, nodes=1)
    before = uids(lab)
    containers = lab.on("worker-1", "docker ps -q --no-trunc | sort")

    # by hand, one after the other, as somebody does who means well
    for name in MASTERS:
        lab.on(name, EVERYTHING)
    status = lab.status()
    for name in MASTERS:
        assert status[name]["problem"] == "its etcd, master and agent do not run: ktool lab create starts them"
    assert "could not be asked" in status["worker-1"]["problem"], status["worker-1"]
    why = lab.node("why", "master-2", check=False)
    assert "the etcd does not run" in why.stdout, told(why)
    planned = lab.lab("create", "--plan", check=False)
    for name in MASTERS:
        assert re.search(rf"~ {name} +start master and etcd and agent", planned.stdout), told(planned)
    lab.lab("create")
    is_back(lab, before)
    assert lab.on("worker-1", "docker ps -q --no-trunc | sort") == containers  # nobody had to start them anew

    # the power goes, for all machines at once, and comes back
    pids = {name: provider(lab).first_process(name) for name in (*MASTERS, "worker-1", "balancer-1")}
    for pid in pids.values():
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    lab.lab("create")
    is_back(lab, before)

    # all machines are shut down
    described = read(lab.inventory)
    for machine in described.machines:
        assert provider(lab).stop(machine, lambda line: None)
    assert {one["state"] for one in lab.status().values()} == {"stopped"}
    lab.lab("create")
    is_back(lab, before)

    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab stopped-masters is left." in ended.stdout, told(ended)
    assert lab.left_over() == []
