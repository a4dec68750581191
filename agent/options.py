"""The agent's command line, and what it means as data."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from kube import late_arguments, names
from kube.errors import KtoolError

DEFAULT_DATA_DIR = Path("/var/lib/ktool/agent")
DEFAULT_SOCKET = Path("/var/run/docker.sock")
ROLES = ("runtime", "kubelet", "proxy", "routes")
RUNTIMES = ("docker", "hollow")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class AgentOptions(Struct, frozen=True, kw_only=True):
    """How an agent is to run; see `--help` for each."""

    data_dir: Path = DEFAULT_DATA_DIR
    join: Path | None = None
    node_name: str = ""
    node_ip: str = ""
    runtime: str = "docker"
    docker_socket: Path = DEFAULT_SOCKET
    roles: frozenset[str] = frozenset(ROLES)
    hollow_nodes: int = 0
    kubelet_address: str = ""
    kubelet_port: int = 10250
    network: str = "ktool"
    bridge: str = "ktool0"
    masquerade: bool = True
    pod_cidr: str = ""
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    cgroup_parent: str = "/ktool"
    max_pods: int = 110
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[tuple[str, str, str], ...] = ()
    version: str = ""
    verbose: bool = False
    reset: bool = False

    @property
    def name(self) -> str:
        """The node's name: the one that was given, else the machine's."""
        return self.node_name or socket.gethostname().lower()


def parse(arguments: Sequence[str]) -> AgentOptions:
    """Options of a command line. Exits with a message on a wrong one, as argparse does; KtoolError for a wrong name."""
    found = _parser().parse_args(arguments)
    roles = frozenset(part for part in found.roles.split(",") if part)
    if found.node_name and (problems := names.dns1123_subdomain(found.node_name)):
        raise KtoolError("this node name cannot be used", found=found.node_name, wanted="; ".join(problems))
    if unknown := sorted(roles - set(ROLES)):
        raise KtoolError("unknown role", found=", ".join(unknown), wanted=", ".join(ROLES))
    if found.hollow_nodes and found.runtime != "hollow":
        raise KtoolError(
            "several nodes in one agent are hollow ones", found=f"--runtime {found.runtime}", wanted="--runtime hollow"
        )
    return AgentOptions(
        data_dir=found.data_dir.absolute(),
        join=found.join,
        node_name=found.node_name,
        node_ip=found.node_ip,
        runtime=found.runtime,
        docker_socket=found.docker_socket,
        roles=roles,
        hollow_nodes=found.hollow_nodes,
        kubelet_address=found.kubelet_address,
        kubelet_port=found.kubelet_port,
        network=found.network,
        bridge=found.bridge,
        masquerade=not found.no_masquerade,
        pod_cidr=found.pod_cidr,
        cluster_cidr=found.cluster_cidr,
        service_cidr=found.service_cidr,
        cluster_dns=tuple(part for part in found.cluster_dns.split(",") if part),
        cluster_domain=found.cluster_domain,
        cgroup_parent=found.cgroup_parent,
        max_pods=found.max_pods,
        labels=tuple(_label(text) for text in found.label),
        taints=tuple(_taint(text) for text in found.taint),
        version=os.environ.get("KTOOL_VERSION", ""),
        verbose=found.verbose,
        reset=found.command == "reset",
    )


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    problems = [*names.qualified_name(key), *names.label_value(value)]
    if not equals or problems:
        raise KtoolError("not a label", found=text, wanted="; ".join(problems) or "KEY=VALUE")
    return key, value


def _taint(text: str) -> tuple[str, str, str]:
    """(key, value, effect) of `key=value:effect` or `key:effect`."""
    rest, _, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    problems = [*names.qualified_name(key), *names.label_value(value)]
    if effect not in _EFFECTS or problems:
        wanted = f"KEY[=VALUE]:EFFECT, effect one of {', '.join(_EFFECTS)}"
        raise KtoolError("not a taint", found=text, wanted=wanted)
    return key, value, effect


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent",
        description="The ktool agent: makes this machine a node of a cluster.",
        fromfile_prefix_chars=late_arguments.PREFIX,
        epilog="@FILE stands for the arguments in that file, one a line, and is waited for.",
    )
    add = parser.add_argument
    add(
        "command",
        nargs="?",
        choices=("run", "reset"),
        default="run",
        help="run (the default), or reset: remove all containers, networks, rules and mounts that the agent made",
    )
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="where certificates and volumes are kept")
    add("--join", type=Path, help="join file; needed once, until the node has its certificate")
    add("--node-name", default="", help="name of the Node (default: the join file's)")
    add("--node-ip", default="", help="address of this machine (default: the one on the default route)")
    add("--runtime", choices=RUNTIMES, default="docker", help="what runs containers; hollow runs nothing, for tests")
    add("--docker-socket", type=Path, default=DEFAULT_SOCKET, help="socket of Docker Engine")
    add("--roles", default=",".join(ROLES), help="which parts to run, separated by commas")
    add("--hollow-nodes", type=int, default=0, help="how many hollow nodes to be, named NAME-0, NAME-1...")
    add("--kubelet-address", default="", help="address on which the kubelet's server listens (default: all)")
    add("--kubelet-port", type=int, default=10250, help="its port; 0 for no server")
    add("--network", default="ktool", help="name of the pods' network on the engine")
    add("--bridge", default="ktool0", help="name of the pods' bridge")
    add("--no-masquerade", action="store_true", help="leave the source address of packets that leave the node")
    add("--pod-cidr", default="", help="addresses of this node's pods, should the master allot none")
    add("--cluster-cidr", default="10.244.0.0/16", help="addresses of all pods of the cluster")
    add("--service-cidr", default="10.96.0.0/16", help="addresses of Services")
    add("--cluster-dns", default="", help="addresses of the cluster's DNS, separated by commas")
    add("--cluster-domain", default="cluster.local", help="the cluster's domain")
    add("--cgroup-parent", default="/ktool", help="cgroup under which all containers live")
    add("--max-pods", type=int, default=110, help="how many pods this node takes")
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the Node; may be repeated")
    add("--taint", action="append", default=[], metavar="KEY=VALUE:EFFECT", help="taint of a new Node; may be repeated")
    add("--verbose", action="store_true", help="log more")
    return parser
