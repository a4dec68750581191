"""The plan of `lab create`: tables of what is seen and wanted, and what is to be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from provision.inventory.lab import Lab, Machine, ProviderName, Role, Taint
from provision.lab.plan import Action, Installed, Mark, Seen, Wanted, deeds, differences, plan, wanted
from provision.providers.provider import Found, MachineState

MASTER = Machine(name="m1", provider=ProviderName.LIBVIRT, roles=frozenset({Role.MASTER}))
WORKER = Machine(name="w1", provider=ProviderName.SSH, roles=frozenset({Role.WORKER}), labels={"disk": "ssd"})
LAB = Lab(name="lab", source=Path("lab.yml"), machines=(MASTER, WORKER))


def want(machine: Machine) -> Wanted:
    return wanted(LAB, machine, runtimes=("abc", "abd"), address="192.0.2.1", tls_sans=("192.0.2.9",))


WANTS = {machine.name: want(machine) for machine in LAB.machines}


def installed(machine: Machine, **changes: object) -> Installed:
    fields = {"runtime": "abc", "applied": want(machine).digest, "services": want(machine).services}
    return Installed(**(fields | changes))  # type: ignore[arg-type]


def seen(
    machine: Machine,
    state: MachineState = MachineState.RUNNING,
    *,
    has: Installed | None = None,
    problem: str = "",
    node: str = "Ready",
    differences: tuple[str, ...] = (),
) -> Seen:
    return Seen(Found(name=machine.name, state=state, differences=differences), has, problem, node)


def texts(actions: list[Action], machine: Machine) -> list[str]:
    return [f"{a.mark} {a.step}: {a.text}" for a in actions if a.machine == machine.name]


@pytest.mark.parametrize(
    ("master", "expected"),
    [
        pytest.param(
            seen(MASTER, MachineState.ABSENT, node=""),
            [
                "+ create: make libvirt machine, 2 CPUs, 1024 MiB, 10 GiB, from debian-12",
                "+ install: install node runtime, master, agent",
                "+ ready: node registers → Ready",
            ],
            id="nothing is there",
        ),
        pytest.param(seen(MASTER, has=installed(MASTER)), [], id="all is as it should be"),
        pytest.param(
            seen(MASTER, MachineState.STOPPED),
            ["~ create: start", "? install: look whether anything is missing"],
            id="stopped",
        ),
        pytest.param(
            seen(MASTER, MachineState.BROKEN, node=""),
            [
                "~ create: finish what is half made",
                "+ install: install node runtime, master, agent",
                "+ ready: node registers → Ready",
            ],
            id="half made",
        ),
        pytest.param(
            seen(MASTER, has=Installed(), node=""),
            [
                "+ install: install node runtime abc",
                "+ install: start master and agent",
                "+ ready: node registers → Ready",
            ],
            id="bare",
        ),
        pytest.param(
            seen(MASTER, has=installed(MASTER, runtime="old")), ["~ install: node runtime old → abc"], id="older ktool"
        ),
        pytest.param(
            seen(MASTER, has=installed(MASTER, services=frozenset({"master"}))),
            ["~ install: start agent"],
            id="agent is down",
        ),
        pytest.param(
            seen(MASTER, has=installed(MASTER, applied="")),
            ["~ install: apply changed settings"],
            id="settings changed",
        ),
        pytest.param(
            seen(MASTER, has=installed(MASTER), node="NotReady"), ["~ ready: node NotReady → Ready"], id="not ready"
        ),
        pytest.param(seen(MASTER, problem="no route to host"), ["? reach: no route to host"], id="unreachable"),
        pytest.param(
            seen(MASTER, has=installed(MASTER), differences=("memory: 512 MiB, wanted 1024 MiB",)),
            ["! create: differs: memory: 512 MiB, wanted 1024 MiB"],
            id="told, not changed",
        ),
    ],
)
def test_actions_of_a_made_machine(master: Seen, expected: list[str]) -> None:
    actions = plan(LAB, {"m1": master, "w1": seen(WORKER, has=installed(WORKER))}, WANTS)
    assert texts(actions, MASTER) == expected
    assert texts(actions, WORKER) == []


def test_a_machine_that_must_exist_is_not_made() -> None:
    actions = plan(LAB, {"m1": seen(MASTER, has=installed(MASTER)), "w1": seen(WORKER, MachineState.ABSENT)}, WANTS)
    assert texts(actions, WORKER) == ["? reach: is not there"]


def test_a_machine_outside_of_the_inventory_is_told_not_removed() -> None:
    stranger = replace(WORKER, name="w9")
    everything = {machine.name: seen(machine, has=installed(machine)) for machine in LAB.machines}
    actions = plan(LAB, {**everything, "w9": seen(stranger)}, WANTS)
    assert [(a.machine, a.mark) for a in actions] == [("w9", Mark.TELL)]
    assert deeds(actions) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": {"disk": "hdd"}},
        {"taints": (Taint(key="a", value="b"),)},
        {"runs_agent": False},
        {"roles": frozenset({Role.MASTER, Role.WORKER})},
    ],
)
def test_the_digest_follows_what_the_roles_depend_on(changed: dict[str, object]) -> None:
    other = wanted(LAB, replace(WORKER, **changed), runtimes=("abc", "abd"), address="192.0.2.1")  # type: ignore[arg-type]
    assert other.digest != want(WORKER).digest


def test_the_digest_ignores_the_rest() -> None:
    assert want(replace(WORKER, memory_mib=4096, groups=("x",), variables={"a": 1})).digest == want(WORKER).digest


def test_a_masters_runtime_serves_a_worker_as_well() -> None:
    assert differences(installed(WORKER, runtime="abd"), want(WORKER)) == []


def test_a_machine_with_no_part_in_the_cluster_needs_no_runtime() -> None:
    balancer = replace(WORKER, roles=frozenset({Role.LOAD_BALANCER}), runs_agent=False)
    there = Installed(applied=want(balancer).digest, services=frozenset({"haproxy"}))
    assert differences(there, want(balancer)) == []
    assert differences(replace(there, services=frozenset()), want(balancer)) == ["start haproxy"]
    assert differences(there, replace_backends(want(balancer), "192.0.2.7")) == ["apply changed settings"]


def replace_backends(before: Wanted, *addresses: str) -> Wanted:
    return msgspec.structs.replace(before, backends=addresses)


def test_a_machine_without_a_node_needs_no_agent() -> None:
    machine = replace(MASTER, runs_agent=False)
    assert want(machine).services == {"master"}
    assert differences(installed(machine), want(machine)) == []
