"""`ktool lab upgrade` of three masters on one etcd: one after the other, and nobody who asks the API waits long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.lab_state import cache_dir
from provision.machine_image.prepare import is_ready
from tests.lab.api_poll import Api, Poll
from tests.lab.lab_under_test import LabUnderTest, eventually, run_example, told
from tests.lab.masters import IMAGE, MASTERS, inventory, members

WORKERS = ("worker-1", "worker-2")
# How long the API may be silent for somebody who asks through the load balancer, in seconds. It was 0.2; a master that
# refuses a connection is passed over at the latest when the load balancer has seen twice that it is not ready.
SILENCE_SECONDS = 5.0


def runtimes(lab: LabUnderTest) -> dict[str, str]:
    return {name: one["runtime"] for name, one in lab.status().items() if name != "balancer-1"}


def cordoned(lab: LabUnderTest) -> str:
    """Empty if all nodes take pods."""
    return lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}")


def answered(reads: Poll, writes: Poll) -> None:
    """Assert that nobody waited long, and say how long."""
    for what, poll in (("reads", reads), ("writes", writes)):
        print(f"{what}: {poll.answers} answers, none for {poll.silence:.1f} s at most; failed: {poll.failures}")
        assert poll.answers > 20
        assert poll.silence < SILENCE_SECONDS, what


@pytest.mark.machines
@pytest.mark.cluster
@pytest.mark.lab
def test_masters_are_upgraded_and_the_api_answers_all_the_while(
    make_lab: Callable[[dict[str, Any]], LabUnderTest], older: Path, example_archive: Path, tmp_path: Path
) -> None:
    if not is_ready(IMAGE, cache_dir()):
        pytest.skip("no image was built (python -m provision.machine_image debian-12+etcd-server+haproxy)")
    lab = make_lab(inventory("upgraded-masters", workers=WORKERS))
    made = lab.lab("create", "--bundle", str(older))
    assert "is up" in made.stdout, told(made)
    assert run_example(lab, example_archive, nodes=2) == set(WORKERS)
    before = runtimes(lab)
    assert len(set(before.values())) == 1
    api = Api(lab.state / "kubeconfig", tmp_path)

    # The first master's new API server cannot start: the upgrade ends there, and nothing else is touched.
    lab.on("master-1", "cp -p /var/lib/ktool/pki/sa.key /root/sa.key && echo nonsense > /var/lib/ktool/pki/sa.key")
    with Poll(api.read) as reads, Poll(api.write) as writes:
        failed = lab.lab("upgrade", check=False)
    assert failed.returncode == 1, told(failed)
    assert "✗ master-1" in failed.stderr, told(failed)
    assert "untouched: master-2, master-3, " in failed.stderr, told(failed)
    after = runtimes(lab)
    assert after.pop("master-1") != before["master-1"]
    assert after == {name: key for name, key in before.items() if name != "master-1"}
    assert cordoned(lab) == ""
    answered(reads, writes)

    # Nor is another one stopped as long as it is needed.
    refused = lab.lab("upgrade", "--limit", "master-2", check=False)
    assert refused.returncode == 1, told(refused)
    assert "the API server on master-1 does not serve: master-2 is needed" in refused.stderr, told(refused)
    assert runtimes(lab)["master-2"] == before["master-2"]

    # Mended, the same command goes on.
    lab.on("master-1", "mv /root/sa.key /var/lib/ktool/pki/sa.key")
    with Poll(api.read) as reads, Poll(api.write) as writes, Poll(api.leaders) as leaders:
        upgraded = lab.lab("upgrade")
    said = [f"{name}: upgraded" for name in (*MASTERS, *WORKERS)]
    assert said[1:] == [line for line in upgraded.stdout.splitlines() if line in said[1:]], told(upgraded)
    assert not set(runtimes(lab).values()) & set(before.values())
    assert members(lab, "master-2") == dict.fromkeys(MASTERS, True)
    answered(reads, writes)
    # whoever led when it was stopped has given it over to another
    for lease in ("kube-scheduler", "kube-controller-manager"):
        assert len({seen[lease] for seen in leaders.seen} - {""}) > 1, leaders.seen

    assert set(lab.nodes().values()) == {"True"}
    assert cordoned(lab) == ""
    ready = ("-n", "web", "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
    eventually(lambda: lab.kubectl(*ready) == "3", "the example's pods are ready")
    again = lab.lab("upgrade")
    current = [f"{name}: is up to date" for name in (*MASTERS, "balancer-1", *WORKERS)]
    assert again.stdout.splitlines() == current, told(again)

    ended = lab.lab("destroy", "--yes")
    assert "Nothing of the lab upgraded-masters is left." in ended.stdout, told(ended)
    assert lab.left_over() == []
