"""`up` and `down` for real (services, dockerd, firewall, files), with stand-ins for the master's and agent's programs.

What the real programs do is tested with the whole cluster; here it is what provision itself does, and that a machine
is afterwards as it was. Everything runs in the network namespace of `make test`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision import host_snapshot, machine, processes
from provision.docker_engine import EngineOrigin, EnginePaths, connect
from provision.etcd.client import EtcdError
from provision.host_snapshot import HostSnapshot
from provision.images import ensure_image, example_image
from provision.local_cluster import etcd
from provision.local_cluster.config import MASTER, LocalClusterConfig
from provision.local_cluster.removal import down
from provision.local_cluster.start import up
from provision.preflight import PreflightFailed
from provision.progress import Phase, StepEvent
from provision.services.supervisord import SupervisordServices
from tests.provision.conftest import eventually

STAND_INS = Path(__file__).parent / "stand_ins"
# Other work on the machine may come and go meanwhile; what could be ours is told by its name.
OURS = {"processes": r"dockerd|containerd|supervisor", "files": r"docker|containerd|ktool", "cgroups": r"docker|ktool"}
OTHERS = (r"^/tmp/(ktool|pytest)-", r"ktool-(test|lab|engine|worker)-", r"^/(var/)?run/(lock|netns)")

pytestmark = [
    pytest.mark.docker,
    pytest.mark.nftables,
    pytest.mark.skipif(
        os.environ.get("KTOOL_NETNS") != "1" or not machine.find_command("dockerd"),
        reason="runs in the network namespace of `make test` (scripts/in-netns), with dockerd",
    ),
]


@pytest.fixture
def config(short_dir: Path) -> Iterator[LocalClusterConfig]:
    python = short_dir / "python"
    python.write_text(f'#!/bin/sh\nmodule=$2; shift 2\nexec {sys.executable} {STAND_INS}/$module.py "$@"\n')
    python.chmod(0o755)
    engine = short_dir / "engine"
    cluster = LocalClusterConfig(
        data_dir=short_dir / "data",
        node_name="one",
        docker=EnginePaths(engine / "docker.sock", engine / "data", engine / "exec", engine / "docker.pid"),
        supervisor="supervisord",
        python=str(python),
        ready_timeout=15,
    )
    yield cluster
    SupervisordServices(cluster.data_dir).shutdown()


class Recorder:
    def __init__(self) -> None:
        self.events: list[StepEvent] = []

    def __call__(self, event: StepEvent) -> None:
        self.events.append(event)

    def ends(self) -> dict[str, Phase]:
        return {e.step: e.phase for e in self.events if e.phase not in (Phase.STARTED, Phase.DETAIL, Phase.WARNING)}


def pids(config: LocalClusterConfig) -> dict[str, int | None]:
    services = SupervisordServices(config.data_dir)
    return {name: services.status(name).pid for name in services.names()}


def left_over(before: HostSnapshot, after: HostSnapshot) -> list[str]:
    return [
        f"{one.section}: {line}"
        for one in host_snapshot.difference(before, after, ignore=OTHERS)
        for line in (one.added if one.section in OURS else (*one.added, *one.removed))
        if re.search(OURS.get(one.section, ""), line)
    ]


async def test_up_twice_then_down_leaves_the_machine_as_it_was(config: LocalClusterConfig) -> None:
    before = host_snapshot.take()
    first, second = Recorder(), Recorder()
    cluster = await up(config, first)
    assert (cluster.node_address, cluster.docker_origin) == ("192.0.2.10", EngineOrigin.SUPERVISED)
    assert first.ends()["agent"] is Phase.DONE
    running = pids(config)
    assert set(running) == {"docker", "master", "agent"}
    assert ensure_image(example_image(), socket=config.docker.socket)

    again = await up(config, second)
    assert again == cluster
    assert pids(config) == running
    assert {name: phase for name, phase in second.ends().items() if name != "state"} == {
        "preflight": Phase.UNCHANGED,
        "docker": Phase.UNCHANGED,
        "master": Phase.UNCHANGED,
        "agent": Phase.UNCHANGED,
    }

    assert running["master"]
    os.kill(running["master"], signal.SIGKILL)
    eventually(lambda: pids(config)["master"] not in (None, running["master"]))

    ending = Recorder()
    removal = await down(config, progress=ending)
    assert "etcd" not in ending.ends()
    assert removal.complete, removal.remaining
    after = host_snapshot.take()
    assert left_over(before, after) == []
    assert not config.data_dir.exists()
    assert not config.docker.data_root.exists()
    assert not any(processes.is_alive(pid) for pid in running.values() if pid)
    assert (await down(config)).removed == []


async def test_keep_data_and_up_again_is_the_same_cluster(config: LocalClusterConfig) -> None:
    await up(config)
    ensure_image(example_image(), socket=config.docker.socket)
    ca = config.ca_certificate.read_bytes()
    assert (await down(config, keep_data=True)).complete
    assert config.docker.data_root.exists()
    assert not config.agent_dir.exists()
    await up(config)
    assert config.ca_certificate.read_bytes() == ca
    assert ensure_image(example_image(), socket=config.docker.socket) is False
    assert (await down(config)).complete
    assert not config.docker.data_root.exists()
    assert not config.data_dir.exists()


async def test_a_master_that_ends_at_once_is_diagnosed_and_up_resumes(config: LocalClusterConfig) -> None:
    await up(config)
    (config.data_dir / "break-master").touch()
    master = pids(config)["master"]
    assert master
    os.kill(master, signal.SIGKILL)
    eventually(lambda: SupervisordServices(config.data_dir).status("master").restarts >= 3, timeout=20)
    recorder = Recorder()
    with pytest.raises(KtoolError, match="the database is damaged"):
        await up(config, recorder)
    assert recorder.ends()["master"] is Phase.FAILED
    (config.data_dir / "break-master").unlink()
    eventually(lambda: SupervisordServices(config.data_dir).status("master").state == "RUNNING", timeout=20)
    assert (await down(config)).complete


async def test_an_agent_that_cannot_clean_up_keeps_what_the_next_down_needs(config: LocalClusterConfig) -> None:
    await up(config)
    (config.agent_dir / "stubborn").touch()
    removal = await down(config)
    assert not removal.complete
    assert "a volume is busy" in str(removal.remaining[0])
    assert config.join_file.exists()
    assert SupervisordServices(config.data_dir).status("docker").running
    (config.agent_dir / "stubborn").unlink()
    assert (await down(config)).complete
    assert not config.data_dir.exists()


async def test_an_engine_that_others_use_by_now_is_left_running(config: LocalClusterConfig) -> None:
    await up(config)
    ensure_image(example_image(), socket=config.docker.socket)
    client = connect(config.docker.socket)
    try:
        stranger = client.containers.run("ktool.local/web:1", ["sleep", "600"], name="stranger", detach=True)
        removal = await down(config)
        assert "stranger" in str(removal.remaining[0])
        stranger.reload()
        assert stranger.status == "running"
        stranger.remove(force=True)
    finally:
        client.close()
    assert (await down(config)).complete
    assert not config.docker.data_root.exists()


async def test_a_master_without_a_node_needs_no_engine(config: LocalClusterConfig) -> None:
    alone = replace(config, roles=frozenset({MASTER}))
    before = host_snapshot.take()
    first, second = Recorder(), Recorder()
    cluster = await up(alone, first)
    assert (cluster.docker_version, cluster.docker_origin) == ("", None)
    assert set(first.ends()) == {"preflight", "state", "master"}
    assert set(pids(config)) == {"master"}
    await up(alone, second)
    assert set(second.ends().values()) == {Phase.UNCHANGED}

    await up(config)
    assert set(pids(config)) == {"docker", "master", "agent"}
    with pytest.raises(KtoolError, match="a node already"):
        await up(alone)
    assert (await down(config)).complete
    assert left_over(before, host_snapshot.take()) == []


@pytest.mark.skipif(not machine.find_command("etcd"), reason="etcd is not installed")
async def test_a_master_whose_store_is_etcd(config: LocalClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = replace(config, roles=frozenset({MASTER}), store="etcd")
    before = host_snapshot.take()
    first, second = Recorder(), Recorder()
    await up(alone, first)
    assert set(first.ends()) == {"preflight", "state", "etcd", "master"}
    running = pids(config)
    assert list(running) == ["etcd", "master"]  # in this order they start
    told = " ".join(alone.arguments_file("master").read_text().splitlines())
    assert f"--store etcd --etcd-endpoints https://127.0.0.1:2379 --etcd-ca {alone.etcd_certificates.ca_cert}" in told
    assert alone.etcd_dir.stat().st_mode & 0o777 == 0o700

    # what is there is gone on with, whether it is named again or not; nothing turns it into another engine
    await up(replace(alone, store=""), second)
    assert set(second.ends().values()) == {Phase.UNCHANGED}
    assert pids(config) == running
    with pytest.raises(KtoolError, match="cannot be changed"):
        await up(replace(alone, store="sqlite"))
    with pytest.raises(KtoolError, match="another address"):
        await up(replace(alone, node_address="192.0.2.11"))

    assert (await down(alone, keep_data=True)).complete
    assert (alone.etcd_dir / "member").exists()
    await up(alone)

    # One that cannot leave the others' etcd serves on there, so that the next `down` can try again.
    async def refused(*_: object) -> list[str]:
        raise EtcdError("etcd refuses", found="unhealthy cluster")

    with monkeypatch.context() as patched:
        patched.setattr(etcd, "leave", refused)
        removal = await down(alone)
    assert [error.found for error in removal.remaining] == ["unhealthy cluster"]
    assert list(pids(config)) == ["etcd"]
    assert pids(config)["etcd"]
    assert (alone.etcd_dir / "member").exists()
    assert (await down(alone)).complete
    assert not config.data_dir.exists()
    assert left_over(before, host_snapshot.take()) == []


async def test_a_label_that_a_node_may_not_give_itself_is_given_by_the_administrator(
    config: LocalClusterConfig,
) -> None:
    labelled = replace(config, labels={"disk": "ssd"}, control_plane=True)
    recorder = Recorder()
    await up(labelled)
    store = json.loads((config.data_dir / "store" / "store.json").read_text())
    metadata = store["/api/v1/nodes/one"]["metadata"]
    assert metadata["labels"] == {"node-role.kubernetes.io/control-plane": ""}
    await up(labelled, recorder)
    assert recorder.ends()["agent"] is Phase.UNCHANGED
    assert (await down(config)).complete


async def test_port_in_use_changes_nothing(config: LocalClusterConfig) -> None:
    listener = socket.create_server(("127.0.0.1", config.api_port))
    with listener, pytest.raises(PreflightFailed, match=f"pid {os.getpid()}"):
        await up(config)
    assert not config.data_dir.exists()


async def test_down_of_what_never_was(config: LocalClusterConfig) -> None:
    assert (await down(config)).removed == []
    config.data_dir.mkdir()
    (config.data_dir / "letter").write_text("mine")
    with pytest.raises(PreflightFailed, match="not ktool's"):
        await up(config)
    with pytest.raises(KtoolError, match="not ktool's"):
        await down(config)
    assert (config.data_dir / "letter").read_text() == "mine"


async def test_stale_state_of_another_version_is_left_alone(config: LocalClusterConfig) -> None:
    config.data_dir.mkdir()
    (config.data_dir / "version.json").write_text(json.dumps({"layout": 99, "ktool": "9.9"}))
    with pytest.raises(PreflightFailed, match=r"layout 99, written by ktool 9\.9"):
        await up(config)
    with pytest.raises(KtoolError, match=r"ktool down` of ktool 9\.9"):
        await down(config)
    assert [path.name for path in config.data_dir.iterdir()] == ["version.json"]
