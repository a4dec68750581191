"""Taking back what an agent made, its record and its lock. (Containers, networks and rules: tests/cluster.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import record
from agent.options import AgentOptions
from agent.record import AgentRecord
from agent.reset import mounts_below, reset
from kube.errors import KtoolError

HOLLOW = AgentRecord(
    cluster="c.n",
    node_name="n",
    runtime="hollow",
    docker_socket="/nowhere.sock",
    network="ktool",
    bridge="ktool0",
    cluster_cidr="10.244.0.0/16",
    service_cidr="10.96.0.0/16",
    cgroup_parent="/ktool",
    proxy=False,
)


def test_mounts_are_taken_from_the_inside_out() -> None:
    mountinfo = "\n".join(
        [
            "30 1 8:1 / / rw - ext4 /dev/sda rw",
            "31 30 0:40 / /data/agent/pods/u/volumes/a rw - tmpfs tmpfs rw",
            "32 31 0:41 / /data/agent/pods/u/volumes/a/in\\040side rw - tmpfs tmpfs rw",
            "33 30 0:42 / /data/agent-of-somebody/x rw - tmpfs tmpfs rw",
        ]
    )
    assert mounts_below(Path("/data/agent"), mountinfo) == [
        "/data/agent/pods/u/volumes/a/in side",
        "/data/agent/pods/u/volumes/a",
    ]


async def test_reset_removes_an_agents_files_and_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "agent"
    record.write(data, HOLLOW)
    (data / "pods" / "u").mkdir(parents=True)
    (data / "pki").mkdir()
    (data / "kubelet.kubeconfig").write_text("x")
    (data / "join.json").write_text("x")
    await reset(AgentOptions(data_dir=data))
    assert [path.name for path in data.iterdir()] == ["join.json"]
    await reset(AgentOptions(data_dir=data))
    assert [path.name for path in data.iterdir()] == ["join.json"]


async def test_reset_of_an_agent_that_never_ran(tmp_path: Path) -> None:
    await reset(AgentOptions(data_dir=tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    await reset(AgentOptions(data_dir=tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()


async def test_a_running_agent_is_not_reset(tmp_path: Path) -> None:
    with record.exclusive(tmp_path), pytest.raises(KtoolError, match="another agent uses this data directory"):
        await reset(AgentOptions(data_dir=tmp_path))


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert record.read(tmp_path) is None
    record.write(tmp_path, HOLLOW)
    assert record.read(tmp_path) == HOLLOW
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(KtoolError, match="cannot be read"):
        record.read(tmp_path)
