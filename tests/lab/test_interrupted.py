"""kill -9 of ktool at every step of `lab create`: the next run completes, and the one after it finds nothing to do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.lab_under_test import LabUnderTest, told

STEPS = ("image", "create", "reach", "install", "ready")
INVENTORY = {
    "all": {
        "vars": {
            "ktool_lab": "interrupted",
            "ktool_provider": "nspawn",
            "ktool_network": {"mode": "isolated", "cidr": "10.79.0.0/24"},
            "ktool_cpus": 2,
        },
        "children": {"masters": {"hosts": {"m1": {"ktool_schedulable": True}}}},
    }
}


@pytest.mark.machines
@pytest.mark.cluster
def test_every_step_may_be_the_last(make_lab: Callable[[dict[str, Any]], LabUnderTest]) -> None:
    lab = make_lab(INVENTORY)
    killed_at = [step for step in STEPS if killed(lab, step)]
    # images and networks that are there may be over before anybody can look
    assert {"create", "reach", "install"} <= {*killed_at}, killed_at
    left = lab.journal
    finished = lab.lab("create")
    assert ("was interrupted" in finished.stderr) == bool(left), told(finished)
    assert lab.nodes() == {"m1": "True"}
    assert lab.journal == ""
    again = lab.lab("create", "--reapply")
    assert "nothing to do" in again.stdout, told(again)
    assert lab.journal == ""
    lab.lab("destroy", "--yes")
    assert lab.left_over() == []


def killed(lab: LabUnderTest, step: str) -> bool:
    """Start `lab create` and kill it, with all that it started, as soon as it is at a step; False if it never was."""
    before = written(lab)
    process = lab.start("lab", "create", "-i", str(lab.inventory))
    try:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if written(lab) != before and f'"step":"{step}"' in lab.journal:
                time.sleep(0.1)  # into the step, not just before it (a quick one may be over by then)
                os.killpg(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.002)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def written(lab: LabUnderTest) -> int:
    """When the journal was written last: what is left of the run before is not this one's."""
    path = lab.state / "journal.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0
