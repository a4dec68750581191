"""Why a node is not Ready: evidence and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Machine, ProviderName, Role
from provision.lab.why import Condition, Evidence, explain
from provision.providers.provider import Found, MachineState

WORKER = Machine(name="w1", provider=ProviderName.LIBVIRT, roles=frozenset({Role.WORKER}))
READY = Condition("Ready", "True")
WELL = Evidence(
    machine=WORKER,
    found=Found(name="w1", state=MachineState.RUNNING),
    runtime="abc",
    services={"agent": True},
    docker="20.10",
    conditions=(READY, Condition("MemoryPressure", "False")),
)


def state(value: MachineState) -> Found:
    return Found(name="w1", state=value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"found": state(MachineState.ABSENT)}, ["there is no such machine"]),
        ({"found": state(MachineState.STOPPED)}, ["the machine is stopped"]),
        ({"found": state(MachineState.BROKEN)}, ["the machine is half made"]),
        (
            {
                "machine": replace(WORKER, provider=ProviderName.SSH),
                "found": state(MachineState.ABSENT),
            },
            ["the machine is not there"],
        ),
        (
            {
                "unreached": KtoolError("connection refused", found="192.0.2.7:22"),
                "services": None,
                "diagnosis": "lease: none",
                "conditions": (Condition("Ready", "Unknown", message="Kubelet stopped posting node status."),),
            },
            [
                "SSH does not answer: connection refused",
                "seen from outside",
                "the master has not heard of the node for a while",
            ],
        ),
        (
            {"runtime": "", "services": {}, "conditions": None},
            [
                "ktool is not installed on the machine",
                "the cluster has no node of this name: its agent has not registered",
            ],
        ),
        (
            {
                "services": {"agent": False},
                "agent_log": "x\n12:00 E agent: the cluster does not accept the join token",
                "conditions": None,
            },
            [
                "the agent does not run",
                "the master does not accept the agent",
                "the cluster has no node of this name: its agent has not registered",
            ],
        ),
        (
            {
                "agent_log": "W: the master at https://192.0.2.1:6443 cannot be reached: timed out",
                "conditions": (Condition("Ready", "Unknown"),),
            },
            ["the agent cannot reach the master", "the master has not heard of the node for a while"],
        ),
        ({"agent_log": "the master at x cannot be reached (an hour ago)"}, []),
        ({"docker": ""}, ["Docker Engine does not answer"]),
        (
            {"conditions": (READY, Condition("DiskPressure", "True", message="2 % free"))},
            ["DiskPressure"],
        ),
        ({"unschedulable": True}, ["the node is cordoned: it takes no new pods"]),
        ({"conditions": None, "api_problem": "refused"}, ["the cluster could not be asked"]),
        (
            {
                "machine": replace(WORKER, roles=frozenset({Role.MASTER}), runs_agent=False),
                "services": {"master": True},
            },
            [],
        ),
    ],
)
def test_explain(changes: dict[str, object], expected: list[str]) -> None:
    seen = replace(WELL, **changes)  # type: ignore[arg-type]
    assert [reason.what for reason in explain(seen, inventory="lab.yml")] == expected
