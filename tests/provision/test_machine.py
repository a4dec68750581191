"""How facts about the machine are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from provision import machine
from provision.machine import Route
from tests.provision.conftest import eventually


def test_routes_that_lead_somewhere() -> None:
    """An `up` finds the routes that an earlier one's agent has made, and must not take them for somebody else's."""
    table = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "10.96.0.0/16", "dev": "ktool0", "protocol": "107", "scope": "link"},
        {"type": "unreachable", "dst": "10.96.0.0/16", "protocol": "107", "metric": 4096},
        {"dst": "10.244.2.0/24", "gateway": "192.0.2.7", "dev": "eth0", "protocol": "108"},
        {"dst": "192.0.2.7", "dev": "eth0"},
    ]

    def runner(command: Sequence[str], **_: object) -> str:
        assert command[0] == "ip"
        return json.dumps(table)

    assert [*machine.routes(runner)] == [Route("10.96.0.0/16", "ktool0"), Route("192.0.2.7/32", "eth0")]


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root")
@pytest.mark.parametrize("prefix", [[], ["unshare", "--net"]], ids=["here", "in a machine inside of this one"])
def test_a_foreign_kubernetes_is_one_on_this_network(tmp_path: Path, prefix: list[str]) -> None:
    program = tmp_path / "k3s"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([*prefix, str(program), "60"])
    try:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == "k3s")
        found = machine._kubernetes_programs()
        assert (f"k3s (pid {process.pid})" in found) is (not prefix)
    finally:
        process.kill()
        process.wait(5)
