"""What a local cluster consists of: its settings, its services' command lines, the places of its files.

A machine has one role or both: the master of a cluster, the agent of a node. `ktool up` makes a machine with a master
(and usually an agent beside it), `ktool join` one with an agent alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kube import names
from kube.errors import KtoolError
from kube.node_labels import CONTROL_PLANE, is_restricted
from provision import data_dir
from provision.docker_engine import EngineOrigin, EnginePaths
from provision.local_cluster.program import Program
from provision.services.service import ServiceSpec

if TYPE_CHECKING:
    from kube.etcd_certificates import EtcdCertificates

MASTER = "master"
AGENT = "agent"
ETCD = "etcd"
SQLITE = "sqlite"
CONTROL_PLANE_TAINT = f"{CONTROL_PLANE}:NoSchedule"
# Bridges that the agent makes for its pods (agent/runtime/docker_network.py).
POD_BRIDGES = frozenset({"ktool0"})
# Forwarding, and firewall rules on bridged traffic: without the second a Service whose endpoint is on the same
# bridge as its client times out.
SYSCTLS = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}


def _node_name() -> str:
    return socket.gethostname().lower()


def _ktool_version() -> str:
    return importlib.metadata.version("ktool")


def _runtime_key() -> str:
    """The key of the runtime archive that this interpreter runs from (provision.bundle); empty in a checkout."""
    try:
        return str(json.loads((Path(sys.prefix) / "manifest.json").read_bytes())["key"])
    except (OSError, ValueError, KeyError):
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterConfig:
    """Settings of this machine's part in a cluster. The defaults are those of `make up`.

    `roles` are some of MASTER and AGENT. `node_address` empty means: find it out; `advertise_address` (empty: the
    node's) is where others reach the API server; `tls_sans` are more names and addresses for its certificate.
    `labels` the Node always has, `taints` (`key[=value]:effect`) a new Node gets; `control_plane` marks the node as
    one that runs a master, and keeps pods away unless it is `schedulable`. On a machine that joins, `pod_cidr` and
    `service_cidr` are the cluster's. `store` is the master's: sqlite for one that is alone, etcd for several; empty
    means the one that is there, or sqlite. `supervisor` is auto, systemd or supervisord. `python` is the interpreter
    that has ktool installed. Timeouts in seconds.
    """

    data_dir: Path = data_dir.DEFAULT
    roles: frozenset[str] = frozenset({MASTER, AGENT})
    node_name: str = field(default_factory=_node_name)
    node_address: str = ""
    advertise_address: str = ""
    tls_sans: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    control_plane: bool = False
    schedulable: bool = False
    bind_address: str = "0.0.0.0"  # noqa: S104 (agents on other machines come in here; everything is authenticated)
    api_port: int = 6443
    kubelet_port: int = 10250
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    store: str = ""
    docker: EnginePaths = field(default_factory=EnginePaths)
    supervisor: str = "auto"
    python: str = sys.executable
    ktool_version: str = field(default_factory=_ktool_version)
    runtime_key: str = field(default_factory=_runtime_key)
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
    def etcd_certificates(self) -> EtcdCertificates:
        """The certificates of the machine's etcd."""
        from kube.etcd_certificates import EtcdCertificates  # with all of cryptography, for those who need it

        return EtcdCertificates(self.data_dir / "pki")

    @property
    def etcd_dir(self) -> Path:
        """The data of the machine's etcd."""
        return self.data_dir / "etcd"

    @property
    def etcd_file(self) -> Path:
        """The settings of the machine's etcd."""
        return self.data_dir / "etcd.yml"

    @property
    def joining_file(self) -> Path:
        """Is there while the machine joins a cluster as a further master: until then it must not begin one."""
        return self.data_dir / "joining"

    @property
    def store_there(self) -> str:
        """The engine of the store that the machine has; empty if it has none yet."""
        if self.etcd_file.exists() or (self.etcd_dir / "member").exists():
            return ETCD
        return SQLITE if (self.data_dir / "store" / "state.db").exists() else ""

    @property
    def agent_kubeconfig(self) -> Path:
        """The node's own kubeconfig, which the agent writes once it has joined."""
        return self.agent_dir / "kubelet.kubeconfig"

    @property
    def agent_ca_certificate(self) -> Path:
        """The certificate of the CA of the cluster that the agent has joined."""
        return self.agent_dir / "pki" / "ca.crt"

    @property
    def agent_certificate(self) -> Path:
        """The node's own certificate."""
        return self.agent_dir / "pki" / "kubelet-client.crt"

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

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels that the Node is to have, with the control plane's."""
        return {**self.labels, **({CONTROL_PLANE: ""} if self.control_plane else {})}

    @property
    def own_labels(self) -> dict[str, str]:
        """Those that the node gives itself, through its agent."""
        return {key: value for key, value in self.all_labels.items() if not is_restricted(key)}

    @property
    def restricted_labels(self) -> dict[str, str]:
        """Those that only the cluster's administrator may give it."""
        return {key: value for key, value in self.all_labels.items() if is_restricted(key)}

    @property
    def all_taints(self) -> tuple[str, ...]:
        """The taints of a new Node, with the control plane's."""
        ours = (CONTROL_PLANE_TAINT,) if self.control_plane and not self.schedulable else ()
        return tuple(dict.fromkeys((*self.taints, *ours)))

    def arguments_file(self, service: str) -> Path:
        """Where the master's or the agent's process reads its arguments."""
        return self.data_dir / f"{service}.args"

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
        for key, value in self.labels.items():
            if problems := [*names.qualified_name(key), *names.label_value(value)]:
                raise KtoolError("this label cannot be used", found=f"{key}={value}", wanted="; ".join(problems))
        if MASTER not in self.roles and self.restricted_labels:
            raise KtoolError(
                "a node may not give itself these labels",
                found=", ".join(self.restricted_labels),
                wanted="labels outside of kubernetes.io and k8s.io, or a well-known one (topology.kubernetes.io/zone)",
                mend=f"join without them; then, as administrator: kubectl label node {self.node_name} KEY=VALUE",
            )
        if not self.data_dir.is_absolute():
            raise KtoolError("the data directory's path must be absolute", found=str(self.data_dir), wanted="/...")

    @property
    def _service_env(self) -> dict[str, str]:
        env = {"KTOOL_VERSION": self.ktool_version, "PYTHONUNBUFFERED": "1"}
        if self.runtime_key:
            # Another runtime at the same path: a service that differs is started anew.
            env["KTOOL_RUNTIME"] = self.runtime_key
        return env

    def program(self, name: str, *, node_address: str = "") -> Program:
        """The master or the agent."""
        return self.master(node_address=node_address) if name == MASTER else self.agent(node_address=node_address)

    def master(self, *, node_address: str) -> Program:
        """The master as a service."""
        file = self.arguments_file(MASTER)
        spec = ServiceSpec(
            name=MASTER,
            description="ktool master (store, API server, scheduler, controllers)",
            argv=(self.python, "-m", "control", "--data-dir", str(self.data_dir), f"@{file}"),
            env=self._service_env,
            after=(ETCD,),  # where it is there
            log_path=self.log_path(MASTER),
            stop_timeout=15,
            succession=True,
        )
        arguments = (
            *("--bind-address", self.bind_address),
            *("--port", str(self.api_port)),
            *("--advertise-address", self.advertise_address or node_address),
            *("--pod-cidr", self.pod_cidr),
            *("--service-cidr", self.service_cidr),
            *(word for name in self.tls_sans for word in ("--tls-san", name)),
            *(self._etcd_options if self.store == ETCD else ()),
        )
        return Program(spec, file, arguments)

    @property
    def _etcd_options(self) -> tuple[str, ...]:
        """The master's options about its store: the member on its own machine, as kubeadm's stacked control planes."""
        from provision.etcd.settings import LOCAL

        certificates = self.etcd_certificates
        return (
            *("--store", ETCD),
            *("--etcd-endpoints", LOCAL),
            *("--etcd-ca", str(certificates.ca_cert)),
            *("--etcd-cert", str(certificates.client_cert)),
            *("--etcd-key", str(certificates.client_key)),
        )

    def etcd_spec(self, *, program: str) -> ServiceSpec:
        """The machine's etcd as a service."""
        return ServiceSpec(
            name=ETCD,
            description="ktool etcd (the masters' store)",
            argv=(program, "--config-file", str(self.etcd_file)),
            log_path=self.log_path(ETCD),
            stop_timeout=20,
        )

    def agent(self, *, node_address: str) -> Program:
        """This machine's agent as a service."""
        file = self.arguments_file(AGENT)
        spec = ServiceSpec(
            name=AGENT,
            description="ktool agent (runtime, kubelet, proxy)",
            argv=(self.python, "-m", "agent", "--data-dir", str(self.agent_dir), f"@{file}"),
            env=self._service_env,
            after=(MASTER,),  # where it is there
            log_path=self.log_path(AGENT),
            stop_timeout=20,
            succession=True,
        )
        arguments = (
            *("--join", str(self.join_file)),
            *("--node-name", self.node_name),
            *("--node-ip", node_address),
            *("--runtime", "docker"),
            *("--docker-socket", str(self.docker.socket)),
            *("--cluster-cidr", self.pod_cidr),
            *("--service-cidr", self.service_cidr),
            *("--kubelet-port", str(self.kubelet_port)),
            *(f"--label={key}={value}" for key, value in sorted(self.own_labels.items())),
            *(f"--taint={taint}" for taint in self.all_taints),
        )
        return Program(spec, file, arguments)

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
    """A cluster that is up, or a node that has joined one.

    `kubeconfig` is the administrator's, on a machine that joined the node's own. `server` is the API server's URL as
    this machine uses it. `docker_version` is empty and `docker_origin` None where no node runs.
    """

    kubeconfig: Path
    server: str
    node_name: str
    node_address: str
    docker_version: str
    docker_origin: EngineOrigin | None
    supervisor: str
    warnings: tuple[str, ...] = ()
