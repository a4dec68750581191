"""`ktool lab upgrade`: one machine after the other, applications go on, and the first failure ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab_under_test import LabUnderTest, eventually, run_example, told

INVENTORY = {
    "all": {
        "vars": {
            "ktool_lab": "upgraded",
            "ktool_provider": "nspawn",
            "ktool_network": {"mode": "isolated", "cidr": "10.83.0.0/24"},
            "ktool_cpus": 2,
        },
        "children": {
            "masters": {"hosts": {"u1": {"ktool_schedulable": True}}},
            "workers": {"hosts": {"u2": {}}},
        },
    }
}
BARE_POD = """
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: default}
spec:
  nodeName: u2
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "ktool.local/web:1", imagePullPolicy: Never}]
"""


def runtimes(lab: LabUnderTest) -> dict[str, str]:
    return {name: one["runtime"] for name, one in lab.status().items()}


@pytest.mark.machines
@pytest.mark.cluster
def test_one_machine_after_the_other(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], older: Path, example_archive: Path
) -> None:
    lab = make_lab(INVENTORY)
    lab.lab("create", "--bundle", str(older))
    assert run_example(lab, example_archive, nodes=2) == {"u1", "u2"}
    before = runtimes(lab)
    assert len(set(before.values())) == 1

    # a pod that nobody would replace: that node is left as it was, and in service
    lab.kubectl("apply", "-f", "-", stdin=BARE_POD)
    eventually(lambda: lab.kubectl("get", "pod", "bare", "-o", "jsonpath={.status.phase}") == "Running", "bare runs")
    refused = lab.lab("upgrade", "--limit", "u2", check=False)
    assert refused.returncode == 1, told(refused)
    assert "default/bare" in refused.stderr
    assert runtimes(lab) == before
    assert lab.kubectl("get", "node", "u2", "-o", "jsonpath={.spec.unschedulable}") == ""

    lab.kubectl("delete", "pod", "bare", "--wait=true")
    upgraded = lab.lab("upgrade")
    assert "u1: upgraded\nu2: upgraded\n" in upgraded.stdout, told(upgraded)
    assert not set(runtimes(lab).values()) & set(before.values())
    assert lab.nodes() == {"u1": "True", "u2": "True"}
    unschedulable = lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}")
    assert unschedulable == ""
    ready = ("-n", "web", "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
    eventually(lambda: lab.kubectl(*ready) == "3", "the example's pods are ready")

    again = lab.lab("upgrade")
    assert "u1: is up to date\nu2: is up to date\n" in again.stdout, told(again)
