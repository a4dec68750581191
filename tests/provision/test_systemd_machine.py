"""`make up` on a fresh Debian 12 with systemd: a real machine, booted, rebooted and left as it was.

The tests run in the order of the file; each brings about what it needs itself, so that one may be run alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.host_snapshot import HostSnapshot, difference
from tests.provision import systemd_machine
from tests.provision.systemd_machine import ADDRESS, NAME, SystemdMachine

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(systemd_machine.missing()), reason=systemd_machine.missing()),
]

SERVICES = "ktool-master.service ktool-agent.service"
DOCKER = "docker.service docker.socket containerd.service"
URL = f"http://{ADDRESS}:30080/"
# An engine that runs on keeps directories that it makes for its first container, and ends sandboxes a minute later;
# systemd names its private directories anew at each boot.
ENGINES_OWN = (r"^(/var)?/run/(docker|containerd)/", r"^/tmp/systemd-private-", r"/run/systemd/units/")
SNAPSHOT = """\
from provision import host_snapshot
print(host_snapshot.take().to_json().decode())
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[SystemdMachine]:
    made = SystemdMachine(Path(os.environ[systemd_machine.ROOT_VARIABLE]))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def snapshot(machine: SystemdMachine) -> HostSnapshot:
    found = HostSnapshot.from_json(machine.output(f"python -c '{SNAPSHOT}'").encode())
    # The processes that look are none of the machine's.
    kept = {line for line in found.sections["processes"] if "host_snapshot" not in line}
    return HostSnapshot({**found.sections, "processes": frozenset(kept)})


def up(machine: SystemdMachine) -> str:
    told = machine.output("make up")
    assert re.search(r"18 answers from 3 pods", told), told
    return told


def down(machine: SystemdMachine, *arguments: str) -> str:
    return machine.output(" ".join(["ktool down", *arguments]))


def main_pid(machine: SystemdMachine, unit: str) -> int:
    return int(machine.output(f"systemctl show --value --property=MainPID {unit}"))


def containers(machine: SystemdMachine) -> list[str]:
    return sorted(machine.output("docker ps --quiet --no-trunc").split())


def answer(machine: SystemdMachine) -> None:
    machine.eventually(f"timeout 5 busybox wget -q -O - {URL} | grep 'Hello from pod'")


def ready(machine: SystemdMachine, *, timeout: float = 90) -> None:
    """Wait until the Node is Ready and all pods are, which the agent must have reported anew."""
    machine.eventually("ktool status -o json | grep -q . && ktool status >/dev/null", timeout=timeout)
    machine.eventually(
        "test $(ktool get pods -n web --no-headers | grep -c '1/1 *Running') = 3 && "
        "test $(docker ps --quiet --filter name=web | wc -l) -ge 3",
        timeout=timeout,
    )


def test_make_up_on_a_fresh_machine(machine: SystemdMachine) -> None:
    up(machine)
    assert machine.output("ktool get nodes -o name") == f"node/{NAME}"
    assert machine.output(f"systemctl is-active {SERVICES}").split() == ["active", "active"]
    assert machine.output(f"systemctl is-enabled {SERVICES}").split() == ["enabled", "enabled"]
    again = machine.run("make up")
    assert "setup: nothing to install" in again.stdout
    assert "✓" not in again.stderr + again.stdout, "a second up changes nothing"


def test_services_restarted_or_killed_come_back_and_containers_run_on(machine: SystemdMachine) -> None:
    up(machine)
    before = containers(machine)
    machine.run(f"systemctl restart {SERVICES}")
    ready(machine)
    for unit in SERVICES.split():
        killed = main_pid(machine, unit)
        machine.run(f"kill -9 {killed}")
        answer(machine)
        machine.eventually(f"p=$(systemctl show --value --property=MainPID {unit}); test $p != 0 -a $p != {killed}")
        assert machine.output(f"systemctl show --value --property=NRestarts {unit}") == "1"
    ready(machine)
    assert containers(machine) == before
    assert restarts(machine) == [0, 0, 0]


def test_after_a_reboot_the_cluster_is_back_by_itself(machine: SystemdMachine) -> None:
    up(machine)
    pods = machine.output("ktool get pods -n web -o name")
    before = containers(machine)
    machine.reboot()
    ready(machine)
    answer(machine)
    assert machine.output("ktool get pods -n web -o name") == pods
    assert not set(before) & set(containers(machine))
    assert min(restarts(machine)) >= 1


def test_an_engine_that_was_there_goes_on_and_nothing_of_the_cluster_is_left(machine: SystemdMachine) -> None:
    down(machine)
    before = snapshot(machine)
    up(machine)
    told = down(machine)
    assert "Nothing of the cluster is left." in told
    assert machine.output(f"systemctl is-active {DOCKER}").split() == ["active"] * 3
    assert machine.output("docker ps --all --quiet; docker images --quiet") == ""
    assert machine.output("docker network ls --format '{{.Name}}'").split() == ["bridge", "host", "none"]
    for listed in ("list-unit-files", "list-units --all"):
        assert machine.run(f"systemctl {listed} --no-legend 'ktool*'", check=False).stdout == ""
    assert [str(one) for one in difference(before, snapshot(machine), ignore=ENGINES_OWN)] == []


def test_an_engine_that_up_started_is_put_back_and_kept_data_is_the_same_cluster(machine: SystemdMachine) -> None:
    down(machine)
    machine.run(f"systemctl disable --now {DOCKER}")
    machine.run("rm -rf /var/lib/docker /var/lib/containerd")
    machine.reboot()
    before = snapshot(machine)
    up(machine)
    assert machine.output("systemctl is-enabled docker.service") == "enabled"
    uid = namespace_uid(machine)
    assert "kept: /var/lib/ktool/store" in down(machine, "--keep-data")
    assert machine.run("systemctl is-active docker.service", check=False).stdout.strip() == "inactive"
    up(machine)
    assert namespace_uid(machine) == uid
    down(machine)
    assert machine.run(f"systemctl is-active {DOCKER}", check=False).stdout.split() == ["inactive"] * 3
    assert machine.run(f"systemctl is-enabled {DOCKER}", check=False).stdout.split() == ["disabled"] * 3
    assert [str(one) for one in difference(before, snapshot(machine), ignore=ENGINES_OWN[1:])] == []


def restarts(machine: SystemdMachine) -> list[int]:
    items = json.loads(machine.output("ktool get pods -n web -o json"))["items"]
    return [item["status"]["containerStatuses"][0]["restartCount"] for item in items]


def namespace_uid(machine: SystemdMachine) -> str:
    return str(json.loads(machine.output("ktool get namespace web -o json"))["metadata"]["uid"])
