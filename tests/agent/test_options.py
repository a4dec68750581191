"""The agent's command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.options import parse
from kube.errors import KtoolError


def test_defaults() -> None:
    found = parse([])
    assert found.runtime == "docker"
    assert found.roles == {"runtime", "kubelet", "proxy", "routes"}
    assert not found.reset


def test_everything() -> None:
    text = """
        --data-dir /d --join /j --node-name n --node-ip 192.0.2.1 --runtime hollow --hollow-nodes 3
        --roles runtime,kubelet --label disk=ssd --taint dedicated=db:NoSchedule --taint x:NoExecute
        --cluster-dns 10.96.0.10,10.96.0.11
    """
    found = parse(text.split())
    assert found.data_dir == Path("/d")
    assert found.hollow_nodes == 3
    assert found.roles == {"runtime", "kubelet"}
    assert found.labels == (("disk", "ssd"),)
    assert found.taints == (("dedicated", "db", "NoSchedule"), ("x", "", "NoExecute"))
    assert found.cluster_dns == ("10.96.0.10", "10.96.0.11")


def test_reset() -> None:
    found = parse(["reset", "--data-dir", "/d", "--runtime", "docker", "--docker-socket", "/s"])
    assert found.reset
    assert found.data_dir == Path("/d")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--roles", "cook"],
        ["--node-name", "No_Name"],
        ["--hollow-nodes", "3"],
        ["--label", "nothing"],
        ["--label", "a b=c"],
        ["--taint", "a=b"],
        ["--taint", "a=b:Never"],
    ],
)
def test_wrong_options_are_named(arguments: list[str]) -> None:
    with pytest.raises(KtoolError):
        parse(arguments)


def test_a_hollow_agent_does_not_import_docker() -> None:
    code = "import sys, agent.agent, agent.node_agent; sys.exit('docker' in sys.modules or 'pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_error_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--data-dir", str(tmp_path), "--runtime", "hollow", "--node-name", "n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "this machine has not joined a cluster" in done.stderr
    assert "Traceback" not in done.stderr
