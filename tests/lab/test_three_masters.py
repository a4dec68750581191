"""Three masters behind a load balancer, by the real command line: one is lost, comes back, goes and is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.lab_state import cache_dir
from provision.machine_image.prepare import is_ready
from tests.lab.lab_under_test import LabUnderTest, eventually, pods_by_node, run_example, told
from tests.lab.masters import IMAGE, MASTERS, inventory, members, provider


def cut_off(lab: LabUnderTest, name: str) -> None:
    """Pull the machine's cable: nothing of it answers, and nothing says so."""
    config = provider(lab).config(name)
    assert config is not None
    subprocess.run(["ip", "link", "set", config.interface, "down"], check=True)


def power_cycle(lab: LabUnderTest, name: str) -> None:
    """Take the power away; its supervisor starts it again, with its cable in place."""
    before = provider(lab).first_process(name)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: provider(lab).first_process(name) not in (None, before), f"{name} boots", timeout=30)


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.lab
def test_a_master_is_lost_and_nobody_minds(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    if not is_ready(IMAGE, cache_dir()):
        pytest.skip("no image was built (python -m provision.machine_image debian-12+etcd-server+haproxy)")
    lab = make_lab(inventory("three-test", workers=("worker-1",)))
    made = lab.lab("create")
    assert "is up" in made.stdout, told(made)
    assert set(lab.nodes().values()) == {"True"}
    assert lab.nodes().keys() == {*MASTERS, "worker-1"}
    assert members(lab, "master-2") == dict.fromkeys(MASTERS, True)
    # kubectl and the worker's agent go by the load balancer
    balanced = "https://192.168.152.5:6443"
    assert lab.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}") == balanced
    assert balanced in lab.on("worker-1", "cat /var/lib/ktool/agent/kubelet.kubeconfig")
    # no key of the cluster's has got into a log, or stayed anywhere but where it belongs
    runs = [path for path in (lab.state / "runs").rglob("*") if path.is_file()]
    assert runs
    assert not any("PRIVATE KEY" in path.read_text(errors="replace") for path in runs)
    assert lab.on("master-2", "grep -rl controlPlane /run /tmp /var/lib/ktool/agent 2>/dev/null; true") == ""
    assert "nothing to do" in (again := lab.lab("create")).stdout, told(again)

    assert run_example(lab, example_archive, nodes=1) == {"worker-1"}

    # a machine is lost: nothing of it answers any more
    cut_off(lab, "master-1")
    began = time.monotonic()
    eventually(lambda: "worker-1" in lab.kubectl("get", "nodes", check=False), "the API answers", timeout=30)
    assert time.monotonic() - began < 30
    lab.kubectl("-n", "web", "scale", "deployment", "web", "--replicas", "5")
    eventually(lambda: sum(pods_by_node(lab).values()) == 5, f"5 pods: {pods_by_node(lab)}", timeout=90)
    status = lab.status()
    assert status["master-1"]["problem"], status["master-1"]
    assert status["master-2"]["problem"] == "", status["master-2"]
    refused = lab.node("remove", "master-3", "--yes", check=False)
    assert refused.returncode == 1
    assert "quorum" in refused.stdout + refused.stderr, told(refused)

    # it comes back as it was, after its power had been away as well
    power_cycle(lab, "master-1")
    lab.lab("create")
    eventually(lambda: members(lab, "master-3") == dict.fromkeys(MASTERS, True), "master-1 is a member again")
    eventually(lambda: set(lab.nodes().values()) == {"True"}, f"all nodes are Ready: {lab.nodes()}")
    eventually(lambda: "nothing to do" in lab.lab("create").stdout, "nothing to do", timeout=60)

    # the first one goes for good, and another takes its place
    lab.node("remove", "master-1", "--yes")
    assert members(lab, "master-2") == {"master-2": True, "master-3": True}
    assert lab.nodes().keys() == {"master-2", "master-3", "worker-1"}
    lab.node("add", "master-1")
    assert members(lab, "master-1") == dict.fromkeys(MASTERS, True)
    assert lab.nodes()["master-1"] == "True"

    certificates = json.loads(lab.ktool("certs", "-i", str(lab.inventory), "-o", "json", check=False).stdout)
    assert "pki/etcd/server.crt" in {one["file"] for one in certificates["master-1"]}

    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab three-test is left." in ended.stdout, told(ended)
    assert lab.left_over() == []
