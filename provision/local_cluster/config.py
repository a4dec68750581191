"""What a local cluster consists of: its settings, its services' command lines, the places of its files."""

from __future__ import annotations

import importlib.metadata
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kube import names
from kube.errors import KtoolError
from provision import data_dir
from provision.docker_engine import EngineOrigin, EnginePaths
from provision.services.service import ServiceSpec

MASTER = "master"
AGENT = "agent"
# Bridges that the agent makes for its pods (agent/runtime/docker_network.py).
POD_BRIDGES = frozenset({"ktool0"})
# Forwarding, and firewall rules on bridged traffic: without the second a Service whose endpoint is on the same
# bridge as its client times out.
SYSCTLS = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}


def _node_name() -> str:
    return socket.gethostname().lower()


def _ktool_version() -> str:
    return importlib.metadata.version("ktool")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterConfig:
    """Settings of a local cluster. The defaults are those of `make up`.

    `node_address` empty means: find it out. `supervisor` is auto, systemd or supervisord. `python` is the interpreter
    that has ktool installed. Timeouts in seconds.
    """

    data_dir: Path = data_dir.DEFAULT
    node_name: str = field(default_factory=_node_name)
    node_address: str = ""
    bind_address: str = "0.0.0.0"  # noqa: S104 (agents on other machines come in here; everything is authenticated)
    api_port: int = 6443
    kubelet_port: int = 10250
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    docker: EnginePaths = field(default_factory=EnginePaths)
    supervisor: str = "auto"
    python: str = sys.executable
    ktool_version: str = field(default_factory=_ktool_version)
    ready_timeout: float = 60.0

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, which the master writes."""
        return self.data_dir / "admin.kubeconfig"

    @property
    def ca_certificate(self) -> Path:
        """The cluster CA's certificate, which the master writes."""
        return self.data_dir / "pki" / "ca.crt"

    @property
    def agent_dir(self) -> Path:
        """The agent's part of the data directory."""
        return self.data_dir / "agent"

    @property
    def join_file(self) -> Path:
        """Where the agent finds how to join (kube.join)."""
        return self.agent_dir / "join.json"

    @property
    def journal_file(self) -> Path:
        """The journal of changes to this machine."""
        return self.data_dir / "journal.jsonl"

    @property
    def server(self) -> str:
        """The API server's URL, seen from this machine."""
        return f"https://127.0.0.1:{self.api_port}"

    def log_path(self, service: str) -> Path:
        """Where a service's output goes."""
        return self.data_dir / "log" / f"{service}.log"

    def check(self) -> None:
        """KtoolError if a setting makes no sense."""
        problems = names.dns1123_subdomain(self.node_name)
        if problems:
            raise KtoolError(
                "this node name cannot be used",
                found=self.node_name,
                wanted="; ".join(problems),
                mend="choose one with --node-name",
            )
        if not self.data_dir.is_absolute():
            raise KtoolError("the data directory's path must be absolute", found=str(self.data_dir), wanted="/...")

    def master_spec(self, *, node_address: str) -> ServiceSpec:
        """The master as a service."""
        return ServiceSpec(
            name=MASTER,
            description="ktool master (store, API server, scheduler, controllers)",
            argv=(
                *(self.python, "-m", "control"),
                *("--data-dir", str(self.data_dir)),
                *("--bind-address", self.bind_address),
                *("--port", str(self.api_port)),
                *("--advertise-address", node_address),
                *("--pod-cidr", self.pod_cidr),
                *("--service-cidr", self.service_cidr),
            ),
            env={"KTOOL_VERSION": self.ktool_version, "PYTHONUNBUFFERED": "1"},
            log_path=self.log_path(MASTER),
            stop_timeout=15,
        )

    def agent_spec(self, *, node_address: str) -> ServiceSpec:
        """This machine's agent as a service."""
        return ServiceSpec(
            name=AGENT,
            description="ktool agent (runtime, kubelet, proxy)",
            argv=(
                *(self.python, "-m", "agent"),
                *("--data-dir", str(self.agent_dir)),
                *("--join", str(self.join_file)),
                *("--node-name", self.node_name),
                *("--node-ip", node_address),
                *("--runtime", "docker"),
                *("--docker-socket", str(self.docker.socket)),
                *("--cluster-cidr", self.pod_cidr),
                *("--service-cidr", self.service_cidr),
                *("--kubelet-port", str(self.kubelet_port)),
            ),
            env={"KTOOL_VERSION": self.ktool_version, "PYTHONUNBUFFERED": "1"},
            after=(MASTER,),
            log_path=self.log_path(AGENT),
            stop_timeout=20,
        )

    def agent_reset(self) -> list[str]:
        """The command that removes everything that the agent made: containers, networks, firewall rules, mounts."""
        return [
            *(self.python, "-m", "agent", "reset"),
            *("--data-dir", str(self.agent_dir)),
            *("--runtime", "docker"),
            *("--docker-socket", str(self.docker.socket)),
        ]


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A cluster that is up."""

    kubeconfig: Path
    server: str
    node_name: str
    node_address: str
    docker_version: str
    docker_origin: EngineOrigin
    supervisor: str
    warnings: tuple[str, ...] = ()
