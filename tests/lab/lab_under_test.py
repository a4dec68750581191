"""A lab that a test makes with the real command line, and everything that one asks of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from provision import host_snapshot
from tests.cluster.real_cluster import OTHERS

CHECKOUT = Path(__file__).parents[2]
KTOOL = str(Path(sys.executable).with_name("ktool"))
IMAGE = "ktool.local/web:1"
# Debian's busybox-static cannot look names up where glibc wants to load a module for it, so wget is Python's.
ASK = (
    "import sys, urllib.request as r\n"
    "for _ in range(12): print(r.urlopen(sys.argv[1], timeout=10).read().decode().strip())"
)
# Files that programs of the machine keep of their own accord, whoever starts them.
OF_OTHERS = (*OTHERS, r"/etc/mtab", r"/tmp/pytest", r"ansible", r"/run/lock", r"/var/lib/systemd")


class LabUnderTest:
    """An inventory in a folder of its own, and ktool with its state there as well."""

    def __init__(self, folder: Path, inventory: dict[str, Any] | str) -> None:
        self.folder = folder
        self.inventory = folder / "lab.yml"
        text = inventory if isinstance(inventory, str) else yaml.safe_dump(inventory, sort_keys=False)
        self.inventory.write_text(text)
        self.name = yaml.safe_load(text)["all"]["vars"]["ktool_lab"]
        self.state = folder / "labs" / self.name
        self.env = {**os.environ, "KTOOL_LABS": str(folder / "labs"), "HOME": str(folder)}
        self.env.pop("KUBECONFIG", None)
        self._before = host_snapshot.take()

    # ---- ktool

    def ktool(self, *arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """One call of ktool; with `check`, exit status 0 is asserted."""
        done = subprocess.run(
            [KTOOL, *arguments], env=self.env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
        if check:
            assert done.returncode == 0, f"ktool {' '.join(arguments)}: {told(done)}"
        return done

    def lab(self, command: str, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """`ktool lab COMMAND -i INVENTORY ...`"""
        return self.ktool("lab", command, "-i", str(self.inventory), *arguments, **how)

    def node(self, command: str, name: str, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """`ktool node COMMAND NAME -i INVENTORY ...`"""
        return self.ktool("node", command, name, "-i", str(self.inventory), *arguments, **how)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """ktool in the background, in a process group of its own."""
        return subprocess.Popen(
            [KTOOL, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def status(self) -> dict[str, dict[str, Any]]:
        """Machines by name, as `ktool lab status -o json` tells."""
        found = json.loads(self.lab("status", "-o", "json", check=False).stdout)
        return {machine["name"]: machine for machine in found["machines"]}

    @property
    def journal(self) -> str:
        """What is under way; empty if nothing is."""
        path = self.state / "journal.jsonl"
        return path.read_text() if path.exists() else ""

    # ---- the cluster

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, timeout: float = 60) -> str:
        """What kubectl says, with the lab's kubeconfig."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.state / "kubeconfig"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.env,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {told(done)}"
        return done.stdout.strip()

    def nodes(self) -> dict[str, str]:
        """Ready's status of each Node by name."""
        template = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        said = self.kubectl("get", "nodes", "-o", f"jsonpath={template}")
        return dict(line.split("=", 1) for line in said.split())

    def on(self, machine: str, script: str, *, timeout: float = 60) -> str:
        """What a script prints on a machine, over `ktool node ssh`."""
        return self.node("ssh", machine, script, timeout=timeout).stdout.strip()

    # ---- the end

    def left_over(self) -> list[str]:
        """What this machine has that it had not before, and the other way round."""
        found = host_snapshot.difference(self._before, host_snapshot.take(), ignore=OF_OTHERS)
        lines = [f"{one.section}: {line}" for one in found for line in (*one.added, *one.removed)]
        # libvirtd keeps house in its folders; what bears the lab's name there is ours, but for the note of a dnsmasq's
        # pid that it forgets.
        libvirtds = r"/libvirt(/|$)|virtlogd|LIBVIRT_"
        return [
            line
            for line in lines
            if not re.search(libvirtds, line) or (self.name in line and "/run/libvirt/network/" not in line)
        ]

    def clear(self) -> None:
        """Remove the lab, however far it got."""
        if self.state.exists():
            self.lab("destroy", "--yes", check=False)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """A command's end, for a failed assertion."""
    return f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def eventually(read: Callable[[], bool], what: str, *, timeout: float = 60) -> None:
    """Wait until a read gives True."""
    deadline = time.monotonic() + timeout
    while not read():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.2 if timeout <= 60 else 2)  # each look costs an emulated machine seconds


def pods_by_node(lab: LabUnderTest) -> dict[str, int]:
    """How many of the example's pods are ready on each node."""
    found = json.loads(lab.kubectl("-n", "web", "get", "pods", "-o", "json"))
    nodes: dict[str, int] = {}
    for pod in found["items"]:
        statuses = pod.get("status", {}).get("containerStatuses") or [{}]
        if all(one.get("ready") for one in statuses) and not pod["metadata"].get("deletionTimestamp"):
            nodes[pod["spec"]["nodeName"]] = nodes.get(pod["spec"]["nodeName"], 0) + 1
    return nodes


def answers(lab: LabUnderTest, machine: str, address: str) -> bool:
    """Whether a machine can connect to port 80 of an address."""
    script = f"python3 -Ic 'import socket; socket.create_connection((\"{address}\", 80), 5)'"
    return lab.node("ssh", machine, script, check=False).returncode == 0


def evidence(lab: LabUnderTest, machine: str, address: str) -> str:
    """What there is to see where a Service does not answer: on the machine, and in the cluster."""
    script = (
        f"nft list ruleset | grep -F -e {address} -e 10.244. | head -n 40; ip route; ip neigh; "
        "tail -n 20 /var/lib/ktool/log/agent.log; ss -Htn state established dport = :6443"
    )
    inside = lab.node("ssh", machine, script, check=False)
    why = lab.node("why", machine, check=False)
    cluster = lab.kubectl("get", "nodes,endpointslices,services,pods", "-A", "-o", "wide", check=False)
    return "\n".join((told(inside), told(why), cluster))


def run_example(lab: LabUnderTest, archive: Path, *, nodes: int, timeout: float = 180) -> set[str]:
    """Bring the example to a lab and ask its Service from every node; the nodes whose pods answered.

    Asserts that its pods run on `nodes` nodes, and that each node reaches pods of the others through the Service.
    """
    lab.ktool("image", "push", str(archive), "-i", str(lab.inventory), timeout=timeout)
    lab.kubectl("apply", "-f", str(CHECKOUT / "examples" / "web.yaml"))
    eventually(lambda: sum(pods_by_node(lab).values()) == 3, f"3 pods are ready: {pods_by_node(lab)}", timeout=timeout)
    assert len(pods_by_node(lab)) == nodes, pods_by_node(lab)
    address = lab.kubectl("-n", "web", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    answered: set[str] = set()
    for name in lab.nodes():
        # a pod that is ready at the API server is known to every node's proxy a moment later
        try:
            eventually(lambda name=name: answers(lab, name, address), f"the Service answers on {name}", timeout=30)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{evidence(lab, name, address)}") from None
        said = lab.on(name, f"python3 -Ic '{ASK}' http://{address}/", timeout=120)
        seen = set(re.findall(r"on node (\S+)", said))
        assert len(said.splitlines()) == 12, said
        answered |= seen
    return answered
