"""What `kubectl get pods` shows, state by state."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.rules.pod_table import ready_cell, restarts_cell, status_cell


def pod(
    status: dict[str, Any] | None = None, *, init: list[dict[str, Any]] | None = None, **metadata: Any
) -> dict[str, Any]:
    spec = {"containers": [{"name": "c"}], "initContainers": init or []}
    return {"metadata": metadata, "spec": spec, "status": status or {}}


def state(kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": "c", "state": {kind: fields}, "ready": kind == "running"}


@pytest.mark.parametrize(
    ("obj", "word"),
    [
        (pod({"phase": "Pending"}), "Pending"),
        (
            pod({"phase": "Pending", "containerStatuses": [state("waiting", reason="ContainerCreating")]}),
            "ContainerCreating",
        ),
        (pod({"phase": "Running", "containerStatuses": [state("running")]}), "Running"),
        (
            pod({"phase": "Running", "containerStatuses": [state("waiting", reason="CrashLoopBackOff")]}),
            "CrashLoopBackOff",
        ),
        (pod({"phase": "Failed", "containerStatuses": [state("terminated", exitCode=3)]}), "ExitCode:3"),
        (pod({"phase": "Failed", "containerStatuses": [state("terminated", reason="OOMKilled")]}), "OOMKilled"),
        (pod({"phase": "Succeeded", "containerStatuses": [state("terminated", reason="Completed")]}), "Completed"),
        (pod({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (pod({"phase": "Running"}, deletionTimestamp="2026-01-01T00:00:00Z"), "Terminating"),
        (
            pod(
                {"phase": "Pending", "initContainerStatuses": [state("running") | {"name": "i"}]}, init=[{"name": "i"}]
            ),
            "Init:0/1",
        ),
        (
            pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [state("waiting", reason="CrashLoopBackOff") | {"name": "i"}],
                },
                init=[{"name": "i"}],
            ),
            "Init:CrashLoopBackOff",
        ),
        (
            pod({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
        ),
    ],
)
def test_status(obj: dict[str, Any], word: str) -> None:
    assert status_cell(obj) == word


def test_ready_counts_containers() -> None:
    assert ready_cell(pod({"containerStatuses": [state("running")]})) == "1/1"
    assert ready_cell(pod()) == "0/1"


def test_restarts_tell_when_the_last_one_was() -> None:
    status = state("running") | {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:00Z"}}}
    assert restarts_cell(pod({"containerStatuses": [status]}), 90.0) == "2 (30s ago)"
    assert restarts_cell(pod(), 0.0) == "0"
