"""Three masters in trouble: their state is to be as it was, and machines are to go while nobody answers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.lab_state import cache_dir
from provision.machine_image.prepare import is_ready
from tests.lab.lab_under_test import KTOOL, LabUnderTest, eventually, pods_by_node, run_example, told
from tests.lab.masters import IMAGE, MASTERS, inventory, members, provider


def ssh(lab: LabUnderTest, name: str, command: str, *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """`ktool node ssh` with bytes in and out."""
    line = [KTOOL, "node", "ssh", name, "-i", str(lab.inventory), command]
    return subprocess.run(line, env=lab.env, input=stdin, capture_output=True, timeout=300, check=False)


def containers(lab: LabUnderTest) -> set[str]:
    """Those of the example, which outlive a restore."""
    return set(lab.on("worker-1", "docker ps -q --filter label=io.kubernetes.pod.namespace=web").split())


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.lab
def test_a_backup_is_restored_and_machines_go_while_nobody_answers(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], example_archive: Path
) -> None:
    if not is_ready(IMAGE, cache_dir()):
        pytest.skip("no image was built (python -m provision.machine_image debian-12+etcd-server+haproxy)")
    lab = make_lab(inventory("troubled-masters", workers=("worker-1",)))
    made = lab.lab("create")
    assert "is up" in made.stdout, told(made)
    run_example(lab, example_archive, nodes=1)
    before = containers(lab)
    assert before

    # docs/operations.md: a backup through the connection, from a master that need not lead
    backup = ssh(lab, "master-2", "ktool backup -")
    assert backup.returncode == 0, backup.stderr
    lab.kubectl("create", "configmap", "later")
    lab.kubectl("delete", "service", "-n", "web", "web")

    # refused while other masters go on with what there is
    refused = ssh(lab, "master-1", "ktool restore - --yes", stdin=backup.stdout)
    assert refused.returncode == 1
    assert b"members of etcd that are well: master-2, master-3" in refused.stderr, refused.stderr
    for name in MASTERS[1:]:
        lab.on(name, "ktool down --no-leave", timeout=120)
    restored = ssh(lab, "master-1", "ktool restore - --yes", stdin=backup.stdout)
    assert restored.returncode == 0, restored.stderr
    assert b"The cluster runs." in restored.stdout
    joined = lab.lab("create")
    assert "is up" in joined.stdout, told(joined)

    assert members(lab, "master-3") == dict.fromkeys(MASTERS, True)
    assert set(lab.nodes().values()) == {"True"}
    assert lab.nodes().keys() == {*MASTERS, "worker-1"}
    assert "later" not in lab.kubectl("get", "configmaps", "-o", "name")
    assert lab.kubectl("-n", "web", "get", "service", "web", "-o", "name") == "service/web"
    eventually(lambda: sum(pods_by_node(lab).values()) == 3, "the example's pods are ready")
    assert containers(lab) == before  # nobody had to start them anew

    # No API server answers any more: a worker goes only if somebody insists.
    for name in MASTERS:
        lab.on(name, "systemctl stop ktool-master")
    refused_by_all = lab.node("remove", "worker-1", "--yes", check=False)
    assert refused_by_all.returncode == 1
    assert "--force takes the machine out all the same" in refused_by_all.stderr, told(refused_by_all)
    assert lab.status()["worker-1"]["state"] == "running"
    forced = lab.node("remove", "worker-1", "--yes", "--force")
    assert "remains: the Node worker-1, as no API server answers" in forced.stdout, told(forced)
    assert lab.status()["worker-1"]["state"] == "absent"
    # nor does a master that may have the last copy of the state
    for name in MASTERS[1:]:
        lab.on(name, "systemctl stop ktool-etcd")
    kept = lab.node("remove", "master-1", "--yes", "--force", check=False)
    assert kept.returncode == 1, told(kept)
    assert lab.status()["master-1"]["state"] == "running"

    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab troubled-masters is left." in ended.stdout, told(ended)
    assert lab.left_over() == []


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.lab
def test_the_only_masters_machine_is_lost_and_a_backup_brings_the_cluster_to_a_new_one(
    make_lab: Callable[[dict[str, Any]], LabUnderTest],
) -> None:
    lab = make_lab(
        {
            "all": {
                "vars": {
                    "ktool_lab": "lost-master",
                    "ktool_provider": "nspawn",
                    "ktool_network": {"mode": "isolated", "cidr": "10.84.0.0/24"},
                },
                "children": {"masters": {"hosts": {"m1": None}}, "workers": {"hosts": {"w1": None}}},
            }
        }
    )
    lab.lab("create")
    lab.kubectl("create", "configmap", "kept")
    uid = lab.kubectl("get", "node", "w1", "-o", "jsonpath={.metadata.uid}")
    backup = ssh(lab, "m1", "ktool backup -")
    assert backup.returncode == 0, backup.stderr
    assert provider(lab).remove("m1", lambda line: None)
    refused = lab.node("remove", "m1", "--yes", check=False)
    assert "the only one" in refused.stderr, told(refused)

    # docs/operations.md: a new machine with a new cluster, which makes room for the one of the backup
    lab.lab("create", "--limit", "m1")
    restored = ssh(lab, "m1", "ktool down --no-leave && ktool restore - --yes", stdin=backup.stdout)
    assert restored.returncode == 0, restored.stderr
    (lab.state / "kubeconfig").unlink()
    again = lab.lab("create")
    assert "is up" in again.stdout, told(again)
    assert lab.nodes() == {"m1": "True", "w1": "True"}
    assert lab.kubectl("get", "configmap", "kept", "-o", "name") == "configmap/kept"
    assert lab.kubectl("get", "node", "w1", "-o", "jsonpath={.metadata.uid}") == uid
    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab lost-master is left." in ended.stdout, told(ended)
    assert lab.left_over() == []
