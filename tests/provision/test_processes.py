"""Processes of this machine, and of those that run within it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from provision import processes
from provision.local_cluster.config import LocalClusterConfig
from provision.local_cluster.removal import leftovers
from tests.sshd import alive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="wants root, for a pid namespace")


@pytest.mark.parametrize(("within", "ours"), [((), True), (("unshare", "--pid", "--fork", "--kill-child"), False)])
def test_what_runs_in_a_machine_within_is_not_left_over(tmp_path: Path, within: tuple[str, ...], ours: bool) -> None:
    config = LocalClusterConfig(data_dir=tmp_path)
    env = {**os.environ, "KTOOL_SERVICE": f"{tmp_path}:agent"}
    script = "echo started; sleep 60; true"
    process = subprocess.Popen([*within, "sh", "-c", script], stdout=subprocess.PIPE, env=env)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        inside = processes.descendants(process.pid) - ({process.pid} if within else set())
        assert {processes.is_in_own_pid_namespace(pid) for pid in inside} == {ours}
        told = {int(word) for error in leftovers(config) for word in re.findall(r"\b\d+\b", error.found)}
        assert {pid in told for pid in inside} == {ours}
    finally:
        for pid in sorted(processes.descendants(process.pid), reverse=True):
            processes.end(pid, timeout=0.1)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    assert not alive(process.pid)
