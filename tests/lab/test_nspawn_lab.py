"""A whole lab of nspawn machines with the real command line: made, used, looked at, run again, taken down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab_under_test import LabUnderTest, eventually, run_example, told

INVENTORY = {
    "all": {
        "vars": {
            "ktool_lab": "nspawn-test",
            "ktool_provider": "nspawn",
            "ktool_network": {"mode": "isolated", "cidr": "10.78.0.0/24"},
            "ktool_cpus": 2,
        },
        "children": {
            "masters": {"hosts": {"m1": {"ktool_schedulable": True}}},
            "workers": {"hosts": {"w1": {"ktool_labels": {"disk": "ssd"}}}},
        },
    }
}


@pytest.mark.machines
@pytest.mark.cluster
def test_from_an_inventory_to_answers_and_back_to_nothing(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    lab = make_lab(INVENTORY)

    planned = lab.lab("create", "--plan", check=False)
    assert planned.returncode == 2, told(planned)
    assert "+ m1  make nspawn machine" in planned.stdout
    assert not lab.state.exists()

    made = lab.lab("create")
    assert "The lab nspawn-test is up" in made.stdout, told(made)
    assert lab.nodes() == {"m1": "True", "w1": "True"}
    assert lab.journal == ""
    assert (lab.state / "kubeconfig").stat().st_mode & 0o777 == 0o600

    # any command against that lab, also without a port to the API server
    assert "w1" in lab.ktool("--lab", str(lab.inventory), "get", "nodes").stdout
    assert "ssd" in lab.kubectl("get", "node", "w1", "-o", "jsonpath={.metadata.labels.disk}")

    # pods on both nodes, and the Service reached across
    assert run_example(lab, example_archive, nodes=2) == {"m1", "w1"}

    # run again: nothing to do, and nothing done
    again = lab.lab("create")
    assert "nothing to do" in again.stdout, told(again)
    assert lab.lab("create", "--plan").stdout.strip() == "Lab nspawn-test: nothing to do."
    # the same where Ansible has a look as well
    applied = lab.lab("create", "--reapply")
    assert "nothing to do" in applied.stdout, told(applied)

    # day two: why a node is not Ready, from outside and inside
    assert "is well" in lab.node("why", "w1").stdout
    lab.on("w1", "systemctl stop 'ktool*agent*'")
    why = lab.node("why", "w1", check=False)
    assert why.returncode == 1, told(why)
    assert "the agent does not run" in why.stdout
    mended = lab.lab("create")
    assert "is up" in mended.stdout, told(mended)
    assert "is well" in lab.node("why", "w1").stdout

    # certificates of all machines
    certificates = json.loads(lab.ktool("certs", "-i", str(lab.inventory), "-o", "json").stdout)
    assert {"m1", "w1"} <= certificates.keys()
    assert all(one["expires"] > 0 for views in certificates.values() for one in views)

    # a worker leaves, and comes back
    lab.node("remove", "w1", "--yes")
    assert lab.nodes() == {"m1": "True"}
    assert lab.status()["w1"]["state"] == "absent"
    lab.node("add", "w1")
    eventually(lambda: lab.nodes() == {"m1": "True", "w1": "True"}, "w1 is back")

    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab nspawn-test is left." in ended.stdout, told(ended)
    assert not lab.state.exists()
    assert lab.left_over() == []
