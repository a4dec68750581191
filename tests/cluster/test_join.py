"""Two machines: a master, and a worker that joins it by the real commands; pods and Services across them.

The master is this network namespace (scripts/in-netns), the worker one of its own on the same bridge, with a Docker
Engine, a supervisor and a data directory of its own. The tests build on each other, in their order.
"""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.services.supervisord import SupervisordServices
from tests.cluster.manifests import deployment, pod, server, service
from tests.cluster.real_cluster import KTOOL, NODE_ADDRESS, Cluster, eventually, get, is_ready, run

WORKER_ADDRESS = "192.0.2.11"
SERVER = f"https://{NODE_ADDRESS}:6443"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
NODE_OPTIONS = ("--label", "disk=slow", "--taint", "dedicated=db:PreferNoSchedule")
TOLERATES = [{"key": CONTROL_PLANE, "operator": "Exists"}]


class Worker:
    """The second machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = f"ktool-worker-{root.name}"
        self.socket = root / "docker" / "docker.sock"
        self.services = SupervisordServices(root / "data")
        self._ip("netns", "add", self.name)
        self._ip("link", "add", "lan-worker", "type", "veth", "peer", "eth0", "netns", self.name)
        self._ip("link", "set", "lan-worker", "master", "lan", "up")
        for words in ("link set lo up", f"addr add {WORKER_ADDRESS}/24 dev eth0", "link set eth0 up"):
            self._ip("-n", self.name, *words.split())
        # Both ends are up now; the kernel notices a little later.
        eventually(lambda: "state UP" in self.say("ip", "-o", "link", "show", "eth0"))
        self.before = self.state()

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, timeout=10)

    def command(self, *arguments: str) -> list[str]:
        """A command in the worker's network."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *arguments]

    def say(self, *arguments: str) -> str:
        """What a command prints there."""
        return run(self.command(*arguments), check=True, timeout=20).stdout

    def state(self) -> dict[str, str]:
        """Everything of its network that must be as before afterwards."""
        commands = ("ip -o link", "ip -o -4 addr", "ip route", "iptables-save", "nft list ruleset")
        found = {command: self.say(*command.split()) for command in commands}
        # counters and times say nothing; an empty table is what `iptables-save` leaves by looking
        quiet = {c: "\n".join(line for line in t.splitlines() if line[:1] not in "#:*C") for c, t in found.items()}
        quiet.pop("nft list ruleset")
        return quiet

    def ktool(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run(
            self.command(KTOOL, "--data-dir", str(self.root / "data"), *arguments),
            check=check,
            timeout=120,
            stdin=stdin,
        )

    def join(self, file: str, *arguments: str, check: bool = True, stdin: str = "") -> dict[str, Any]:
        """`ktool join FILE`; its report."""
        options = ("--docker-root", str(self.root / "docker"), "--supervisor", "supervisord", "-o", "json")
        told = self.ktool(
            "join", file, *options, "--node-address", WORKER_ADDRESS, *arguments, check=check, stdin=stdin
        )
        assert (told.returncode == 0) == check, told.stderr
        report: dict[str, Any] = json.loads(told.stdout)
        return report

    def down(self, *, check: bool = True) -> dict[str, Any]:
        """`ktool down`; its report."""
        options = ("--docker-root", str(self.root / "docker"), "--supervisor", "supervisord", "-o", "json")
        report: dict[str, Any] = json.loads(self.ktool("down", *options, check=check).stdout)
        return report

    def remove(self) -> None:
        """Take everything away, however far it got."""
        told = self.down(check=False)
        self.services.shutdown()
        self._ip("netns", "delete", self.name)
        shutil.rmtree(self.root, ignore_errors=bool(told.get("remaining")))
        assert not told.get("remaining"), told


@pytest.fixture(scope="module")
def master() -> Iterator[Cluster]:
    made = Cluster()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def worker(master: Cluster) -> Iterator[Worker]:
    made = Worker(Path(tempfile.mkdtemp(prefix="ktool-", dir="/tmp")))
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def invitation(master: Cluster) -> Path:
    return master.root / "worker.json"


def report_of(told: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(told.stdout)
    return report


def up(master: Cluster, *arguments: str) -> dict[str, Any]:
    return report_of(
        master.up(
            *("--node-name", "master", "--node-address", NODE_ADDRESS, "--control-plane"),
            *("--tls-san", "lab.example", "--label", "disk=fast", *arguments, "-o", "json"),
        )
    )


def test_a_master_that_keeps_pods_away(master: Cluster) -> None:
    report = up(master, "--label", "rack=1")
    assert (report["changed"], report["node"], report["server"]) == (True, "master", SERVER)
    assert {"preflight", "state", "docker", "master", "join", "agent"} == {step["step"] for step in report["steps"]}
    node = master.core.read_node("master")
    assert node.metadata.labels.items() >= {CONTROL_PLANE: "", "disk": "fast", "rack": "1"}.items()
    assert [(taint.key, taint.effect) for taint in node.spec.taints or ()] == [(CONTROL_PLANE, "NoSchedule")]
    assert up(master, "--label", "rack=1")["changed"] is False


def test_labels_follow_the_command_line_and_leave_others_alone(master: Cluster) -> None:
    master.core.patch_node("master", {"metadata": {"labels": {"mine": "yes"}}})
    assert up(master, "--label", "zone=b")["changed"] is True
    labels = eventually(
        lambda: master.core.read_node("master").metadata.labels, lambda found: "zone" in found, what="the new label"
    )
    assert labels.items() >= {CONTROL_PLANE: "", "disk": "fast", "zone": "b", "mine": "yes"}.items()
    assert "rack" not in labels


def test_a_kubeconfig_for_elsewhere(master: Cluster) -> None:
    told = master.ktool("kubeconfig", "--external").stdout
    assert f"server: {SERVER}\n" in told
    assert (
        "server: https://lab.example:6443\n"
        in master.ktool("kubeconfig", "--server", "https://lab.example:6443").stdout
    )
    refused = master.ktool("kubeconfig", "--server", "https://192.0.2.77:6443", check=False)
    assert refused.returncode == 1
    assert "--tls-san 192.0.2.77" in refused.stderr


def test_tokens(master: Cluster, invitation: Path) -> None:
    told = master.ktool("token", "create", "--node", "worker", "--join-file", str(invitation))
    assert told.stdout == ""
    assert stat.S_IMODE(invitation.stat().st_mode) == 0o600
    found = json.loads(invitation.read_text())
    assert (found["server"], found["nodeName"]) == (SERVER, "worker")
    assert found["token"].partition(".")[2] not in told.stderr

    several = master.ktool("token", "create", "--node", "w1", "--node", "w2", "--join-file", "-").stdout
    assert [json.loads(f"{{{one}")["nodeName"] for one in several.split("{")[1:]] == ["w1", "w2"]
    refused = master.ktool("token", "create", "--node", "w1", "--node", "w2", "--join-file", "f", check=False)
    assert refused.returncode == 2

    other = master.ktool("token", "create", "--ttl", "1h", "--description", "for tests").stdout.strip()
    listed = master.ktool("token", "list").stdout
    assert "for tests" in listed
    assert other.partition(".")[2] not in listed
    assert master.ktool("token", "delete", other.partition(".")[0]).returncode == 0
    assert "for tests" not in master.ktool("token", "list").stdout
    assert "there is no such token" in master.ktool("token", "delete", other, check=False).stderr


def test_a_master_invites_nodes_as_it_comes_up(master: Cluster) -> None:
    report = up(master, "--label", "zone=b", "--invite", "w1", "--invite", "w2")
    files = [json.loads(text) for text in report["joinFiles"]]
    assert [(file["server"], file["nodeName"]) for file in files] == [(SERVER, "w1"), (SERVER, "w2")]
    listed = master.ktool("token", "list").stdout
    assert all(file["token"].partition(".")[0] in listed for file in files)
    assert report["changed"] is False
    refused = master.ktool("up", "--invite", "w1", check=False)
    assert (refused.returncode, "-o json" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"caCertHashes": ["sha256:" + "0a" * 32]}, "is not the cluster of the join file"),
        ({"token": "abcdef.0123456789abcdef"}, "does not accept the join token"),
        ({"token": "short"}, "cannot be used"),
    ],
)
def test_what_is_wrong_with_an_invitation_is_told_before_anything_is_changed(
    worker: Worker, invitation: Path, changes: dict[str, Any], what: str
) -> None:
    text = json.dumps(json.loads(invitation.read_text()) | changes)
    report = worker.join("-", check=False, stdin=text)
    assert what in report["error"]["what"]
    assert report["error"]["found"]
    assert report["changed"] is False
    assert not (worker.root / "data").exists()
    assert worker.state() == worker.before


def test_what_was_loaded_ahead_is_taken_over_or_removed(worker: Worker) -> None:
    worker.ktool("preload", "--control-plane", "--supervisor", "supervisord")
    loaded = worker.services.status("agent").pid
    assert worker.services.status("master").running
    refused = worker.ktool("preload", "--no-agent", check=False)
    assert (refused.returncode, "found neither agent nor master" in refused.stderr) == (2, True)
    report = worker.join("--prepare", *NODE_OPTIONS)
    assert "master" not in worker.services.names()
    assert worker.services.status("agent").pid == loaded
    assert [step["step"] for step in report["steps"] if step["phase"] == "done"] == ["state", "docker", "agent"]
    assert worker.down()["remaining"] == []
    assert worker.state() == worker.before


def test_a_worker_gets_ready_to_join(worker: Worker) -> None:
    report = worker.join("--prepare", *NODE_OPTIONS)
    assert (report["changed"], report["node"], report["address"]) == (True, socket.gethostname(), WORKER_ADDRESS)
    report = worker.join("--prepare", *NODE_OPTIONS, "--node-name", "worker")
    assert [step["step"] for step in report["steps"] if step["phase"] == "done"] == ["agent"]
    assert worker.services.status("agent").running
    assert worker.join("--prepare", *NODE_OPTIONS, "--node-name", "worker")["changed"] is False
    assert not (worker.root / "data" / "agent" / "join.json").exists()
    refused = worker.ktool("join", "--prepare", "--server", SERVER, check=False)
    assert (refused.returncode, "without an invitation" in refused.stderr) == (2, True)


def test_a_worker_joins(master: Cluster, worker: Worker, invitation: Path) -> None:
    prepared = worker.services.status("agent").pid
    report = worker.join(str(invitation), *NODE_OPTIONS)
    assert worker.services.status("agent").pid == prepared
    assert (report["changed"], report["node"], report["server"]) == (True, "worker", SERVER)
    assert [step["step"] for step in report["steps"] if step["phase"] != "warning"] == [
        *("cluster", "preflight", "state", "docker", "agent")
    ]
    node = master.core.read_node("worker")
    assert is_ready(node)
    assert node.metadata.labels["disk"] == "slow"
    assert [(t.key, t.value, t.effect) for t in node.spec.taints] == [("dedicated", "db", "PreferNoSchedule")]
    token = json.loads(invitation.read_text())["token"].partition(".")[2]
    kept = worker.root / "data" / "agent" / "join.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    logs = "".join(path.read_text(errors="replace") for path in (worker.root / "data" / "log").iterdir())
    lines = "".join(p.read_bytes().decode(errors="replace") for p in Path("/proc").glob("[0-9]*/cmdline"))
    assert token not in logs + lines


def test_a_second_join_changes_nothing_and_needs_no_token(master: Cluster, worker: Worker, invitation: Path) -> None:
    master.ktool("token", "delete", json.loads(invitation.read_text())["token"])
    began = time.monotonic()
    report = worker.join(
        "-", "--label", "disk=slow", "--taint", "dedicated=db:PreferNoSchedule", stdin=invitation.read_text()
    )
    assert report["changed"] is False
    assert {step["phase"] for step in report["steps"]} <= {"unchanged", "warning"}
    assert time.monotonic() - began < 30


def test_another_name_another_cluster_a_forbidden_label(worker: Worker, invitation: Path) -> None:
    text = invitation.read_text()
    other = json.dumps(json.loads(text) | {"caCertHashes": ["sha256:" + "0a" * 32]})
    assert "under another name" in worker.join("-", "--node-name", "x", check=False, stdin=text)["error"]["what"]
    assert "joined another cluster" in worker.join("-", check=False, stdin=other)["error"]["what"]
    forbidden = worker.join("-", "--label", f"{CONTROL_PLANE}=", check=False, stdin=text)
    assert "may not give itself" in forbidden["error"]["what"]


def test_a_worker_is_no_master_and_a_master_no_worker(master: Cluster, worker: Worker, invitation: Path) -> None:
    refused = worker.ktool("up", "--docker-root", str(worker.root / "docker"), check=False)
    assert "a node of a cluster whose master runs elsewhere" in refused.stderr
    for arguments in ([str(invitation)], ["--prepare"]):
        refused = master.ktool("join", *arguments, check=False)
        assert "has a master of its own" in refused.stderr
    prepared = worker.join("--prepare", *NODE_OPTIONS, "--node-name", "worker")
    assert {step["step"] for step in prepared["steps"]} == {"preflight"}  # one that has joined is left alone


def test_pods_reach_each_other_across_machines(master: Cluster, worker: Worker) -> None:
    master.load_image()
    archive = master.root / "busybox.tar"
    worker.ktool("image", "load", str(archive), "--docker-socket", str(worker.socket))
    namespace = "default"
    eventually(lambda: master.core.read_namespaced_service_account("default", namespace), what="the service account")
    here = pod("here", nodeName="master", tolerations=TOLERATES)
    master.core.create_namespaced_pod(namespace, here)
    web = deployment("web", server("hello"), replicas=1)
    web["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "slow"}
    master.apps.create_namespaced_deployment(namespace, web)
    master.core.create_namespaced_service(namespace, service("web", node_port=30081, type="NodePort"))
    master.available(namespace, "web")
    source = master.running(namespace, "here").status.pod_ip
    (answerer,) = master.pods(namespace, "app=web")
    assert answerer.spec.node_name == "worker"
    assert source.rpartition(".")[0] != answerer.status.pod_ip.rpartition(".")[0]
    cluster_ip = master.core.read_namespaced_service("web", namespace).spec.cluster_ip

    said = master.sh(namespace, "here", f"wget -qO- http://{answerer.status.pod_ip}:8080/cgi-bin/index.cgi")
    assert said.split() == ["hello", answerer.metadata.name, f"[::ffff:{source}]"]
    said = master.sh(namespace, "here", f"wget -qO- http://{cluster_ip}/cgi-bin/index.cgi")
    assert said.split() == ["hello", answerer.metadata.name, f"[::ffff:{source}]"]
    assert answerer.metadata.name in get(f"http://{cluster_ip}/cgi-bin/index.cgi")
    for address in (NODE_ADDRESS, WORKER_ADDRESS):
        assert answerer.metadata.name in get(f"http://{address}:30081/cgi-bin/index.cgi")
    asked = ["busybox", "wget", "-qO-", f"http://{WORKER_ADDRESS}:30081/cgi-bin/index.cgi"]
    assert worker.say(*asked).split()[:2] == ["hello", answerer.metadata.name]
    for name in ("master", "worker"):
        conditions = {c.type: c.status for c in master.core.read_node(name).status.conditions}
        assert conditions.items() >= {"PodRoutesReady": "True", "ServiceProxyReady": "True"}.items()
    # the API server reaches the other machine's kubelet
    assert master.log(namespace, answerer.metadata.name) == ""
    assert worker.join(str(worker.root / "data" / "agent" / "join.json"), "--label", "disk=slow")["changed"] is True


def test_a_worker_leaves_without_a_trace(master: Cluster, worker: Worker) -> None:
    report = worker.down()
    assert (report["changed"], report["remaining"], report["node"]) == (True, [], "worker")
    assert worker.state() == worker.before
    assert not (worker.root / "data").exists()
    assert worker.down()["changed"] is False
    # the Node is the administrator's to delete, and with it the others' routes go
    assert "proto 108" in run(["ip", "route"], check=True, timeout=10).stdout
    master.core.delete_node("worker")
    eventually(
        lambda: run(["ip", "route"], check=True, timeout=10).stdout,
        lambda text: "proto 108" not in text,
        what="the route is gone",
    )
