"""scripts/in-netns: no way out, nothing left behind, exit status and signals pass through."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

IN_NETNS = str(Path(__file__).parents[2] / "scripts" / "in-netns")

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip"),
]


def inside(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IN_NETNS, "bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)


def test_a_lan_and_no_way_out() -> None:
    done = inside("ip -4 -brief address show up; echo; ip -4 route show; ip route get 198.51.100.1")
    assert "192.0.2.10/24" in done.stdout
    assert "default" not in done.stdout
    assert "unreachable" in done.stderr
    assert done.returncode == 2


def test_exit_status_passes() -> None:
    assert inside("exit 7").returncode == 7


def test_signals_pass() -> None:
    process = subprocess.Popen([IN_NETNS, "sleep", "100"])
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM


def test_links_rules_and_named_namespaces_stay_inside() -> None:
    before = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    done = inside("nft add table ip probe_inside && ip netns add probe-inside && ls /run/netns && nft list ruleset")
    assert done.returncode == 0, done.stderr
    assert "probe-inside" in done.stdout
    assert subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout == before
    assert not Path("/run/netns/probe-inside").exists()


def test_control_groups_stay_visible() -> None:
    assert inside("ls /sys/fs/cgroup").stdout.split() == sorted(os.listdir("/sys/fs/cgroup"))


def test_usage() -> None:
    assert subprocess.run([IN_NETNS], capture_output=True, check=False).returncode == 2
