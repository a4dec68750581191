"""The live cluster as Ansible's inventory: a real master, the stock `ansible` commands, a real sshd."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import kubeconfig, objects
from kube.client import Client
from kube.models import core_v1
from kube.transport import HTTPTransport
from provision.lab_state import LABS_VARIABLE, LabState
from tests.control import master_process
from tests.ports import free_port

CHECKOUT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")

NODES: dict[str, dict[str, Any]] = {
    "master-1": {"labels": {"node-role.kubernetes.io/control-plane": ""}, "ready": "True"},
    "worker-1": {"labels": {"example.com/disk": "ssd"}, "ready": "True"},
    "worker-2": {"labels": {}, "ready": "False"},
}


async def _register(path: Path) -> None:
    client = Client(HTTPTransport(kubeconfig.connect(path)))
    try:
        for name, wanted in NODES.items():
            data = {"metadata": {"name": name, "labels": wanted["labels"]}, "spec": {"podCIDR": "10.244.1.0/24"}}
            node = await client.create(objects.from_dict(data, core_v1.Node))
            status = {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": wanted["ready"]}],
                "nodeInfo": {
                    "kernelVersion": "6.1.0", "osImage": "Debian GNU/Linux 12", "kubeletVersion": "v1.32.0",
                    "architecture": "amd64", "bootID": "b", "machineID": "m", "systemUUID": "s",
                    "containerRuntimeVersion": "docker://27.0", "kubeProxyVersion": "v1.32.0",
                    "operatingSystem": "linux",
                },
            }  # fmt: skip
            node.status = objects.from_dict(status, core_v1.NodeStatus)
            await client.update(node, subresource="status")
    finally:
        await client.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of a real master with three Nodes."""
    folder = tmp_path_factory.mktemp("cluster")
    master = master_process.start(folder / "data")
    try:
        asyncio.run(_register(master.kubeconfig))
        yield master.kubeconfig
    finally:
        master.stop()


def run(folder: Path, *argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a user would type it, with a home of its own; warnings and other noise would be in stderr."""
    env = {
        "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "False", **environment,
    }  # fmt: skip
    return subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=100, check=False)


def listed(folder: Path, source: Path, **environment: str) -> dict[str, Any]:
    done = run(folder, "ansible-inventory", "-i", source, "--list", **environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_plugin_gives_groups_and_facts(tmp_path: Path, cluster: Path) -> None:
    """From a checkout: its ansible.cfg says where the plugin is."""
    source = tmp_path / "cluster.ktool.yml"
    source.write_text(
        textwrap.dedent(f"""
            plugin: ktool
            kubeconfig: {os.path.relpath(cluster, tmp_path)}
            compose:
              half: node_memory_mib // 2
            groups:
              large: node_memory_mib >= 4096
            keyed_groups:
              - key: node_kubelet_version
                prefix: version
        """)
    )
    found = listed(tmp_path, source)
    assert found["masters"]["hosts"] == ["master-1"]
    assert found["workers"]["hosts"] == ["worker-1", "worker-2"]
    assert found["not_ready"]["hosts"] == ["worker-2"]
    assert found["label_example_com_disk_ssd"]["hosts"] == ["worker-1"]
    assert found["large"]["hosts"] == ["master-1", "worker-1", "worker-2"]
    assert found["version_v1_32_0"]["hosts"] == ["master-1", "worker-1", "worker-2"]
    facts = found["_meta"]["hostvars"]["worker-1"]
    assert facts["ansible_host"] == "127.0.0.1"
    assert (facts["node_cpus"], facts["node_memory_mib"], facts["half"]) == (2.0, 4096, 2048)
    assert facts["node_labels"]["example.com/disk"] == "ssd"
    assert facts["node_conditions"] == {"Ready": "True"}


def test_the_plugin_elsewhere_with_a_selector(tmp_path: Path, cluster: Path) -> None:
    """Outside of a checkout: the environment says where the plugin is, and where the cluster."""
    source = tmp_path / "ktool.yml"
    source.write_text("plugin: ktool\nselector: example.com/disk=ssd\nlabel_groups: false\n")
    plugins = run(tmp_path, "ktool", "inventory", "plugins").stdout.strip()
    environment = {
        "ANSIBLE_CONFIG": str(tmp_path / "none.cfg"), "ANSIBLE_INVENTORY_PLUGINS": plugins, "KUBECONFIG": str(cluster),
    }  # fmt: skip
    found = listed(tmp_path, source, **environment)
    assert list(found["_meta"]["hostvars"]) == ["worker-1"]
    assert not [group for group in found if group.startswith("label_")]


def test_the_plugin_says_what_is_wrong(tmp_path: Path) -> None:
    source = tmp_path / "cluster.ktool.yml"
    source.write_text("plugin: ktool\nlab: nowhere\n")
    done = run(tmp_path, "ansible-inventory", "-i", source, "--list", **{LABS_VARIABLE: str(tmp_path)})
    assert "there is no lab 'nowhere'" in done.stderr


def test_the_script_is_the_same_inventory(tmp_path: Path, cluster: Path) -> None:
    environment = {"KUBECONFIG": str(cluster), "KTOOL_INVENTORY_LAB": ""}
    script = CHECKOUT / "inventories/cluster.sh"
    found = listed(tmp_path, script, **environment)
    assert found["masters"]["hosts"] == ["master-1"]
    assert found["_meta"]["hostvars"]["worker-2"]["node_ready"] is False
    assert found["_meta"]["hostvars"]["worker-1"]["node_labels"]["example.com/disk"] == "ssd"
    one = run(tmp_path, script, "--host", "worker-1", **environment)
    assert json.loads(one.stdout)["node_kernel"] == "6.1.0"
    assert json.loads(run(tmp_path, script, "--host", "nobody", **environment).stdout) == {}


def test_diff_against_a_real_cluster(tmp_path: Path, cluster: Path) -> None:
    """This machine by its real provider, and the Nodes of the real master."""
    source = tmp_path / "lab.yml"
    source.write_text(
        textwrap.dedent("""
            all:
              children:
                masters:
                  hosts:
                    master-1: {ansible_connection: local, ktool_labels: {disk: ssd}}
        """)
    )
    done = run(
        tmp_path, "ktool", "--kubeconfig", cluster, "inventory", "diff", "-i", source,
        **{LABS_VARIABLE: str(tmp_path / "labs")},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["master-1", "cluster", "label", "disk", "none", '"ssd"'],
        ["worker-1", "cluster", "-", "a", "Node", "no", "such", "Node"],
        ["worker-2", "cluster", "-", "a", "Node", "no", "such", "Node"],
    ]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, LabState]]:
    """A real SSH server on loopback that lets a lab's key in, and the lab's folder with its key pinned."""
    if SSHD is None or os.geteuid() != 0:
        pytest.skip("needs sshd, and root to run it")
    state = LabState(tmp_path / "labs" / "lab")
    state.identity.parent.mkdir(parents=True)
    for key in (state.identity, tmp_path / "host_key", tmp_path / "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    shutil.copy(state.identity.with_suffix(".pub"), tmp_path / "authorized_keys")
    public = " ".join((tmp_path / "host_key.pub").read_text().split()[:2])
    # the master's key is in the inventory, as of a machine that exists; the others' were pinned when they were made
    state.known_hosts.write_text("".join(f"{name} {public}\n" for name in NODES if name != "master-1"))
    port = free_port()
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with (tmp_path / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        yield port, state
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, "sshd ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("sshd does not answer")


def test_ansible_pings_the_labs_nodes(tmp_path: Path, cluster: Path, sshd: tuple[int, LabState]) -> None:
    """With the lab's own key, its pinned host keys and the ports of its inventory, as for `ansible ... -m ping`."""
    port, state = sshd
    shutil.copy(cluster, state.kubeconfig)
    key = " ".join((tmp_path / "host_key.pub").read_text().split()[:2])
    (tmp_path / "lab.ini").write_text(
        f'[masters]\nmaster-1 ansible_host=127.0.0.1 ktool_ssh_host_key="{key}"\n'
        f"[workers]\nworker-1 ansible_host=127.0.0.2\nworker-2 ansible_host=127.0.0.3\n"
        f"[all:vars]\nansible_port={port}\n"
    )
    source = tmp_path / "cluster.ktool.yml"
    # every node has the one address on which sshd listens
    source.write_text("plugin: ktool\nlab: lab.ini\ncompose: {ansible_host: \"'127.0.0.1'\"}\n")
    environment = {
        LABS_VARIABLE: str(state.path.parent), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",
    }  # fmt: skip
    done = run(tmp_path, "ansible", "-i", source, "ready", "-m", "ping", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"ping": "pong"') == 2
    assert "worker-2" not in done.stdout
    # another machine's key is refused: nothing is accepted blindly
    pinned = state.known_hosts.read_text()
    other = (tmp_path / "other_key.pub").read_text().split()[1]
    state.known_hosts.write_text(re.sub(r"(?m)^worker-1 .*$", f"worker-1 ssh-ed25519 {other}", pinned))
    done = run(tmp_path, "ansible", "-i", source, "worker-1", "-m", "ping", **environment)
    assert done.returncode != 0
    assert "Host key verification failed" in done.stdout + done.stderr
