"""Pod sandboxes: what a pod's containers share (CRI: PodSandbox). Network, IPC, host name, ports, cgroup."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field


class SandboxState(StrEnum):
    """CRI: PodSandboxState. A sandbox that is not ready never becomes ready again: make a new one (next attempt)."""

    READY = "READY"
    NOT_READY = "NOT_READY"


class DNSConfig(Struct, frozen=True):
    """The resolver's settings (CRI: DNSConfig): addresses, search domains, options such as `ndots:5`."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def resolv_conf(self) -> str:
        """These settings as the text of /etc/resolv.conf."""
        lines = [f"nameserver {server}" for server in self.servers]
        if self.searches:
            lines.append("search " + " ".join(self.searches))
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "".join(f"{line}\n" for line in lines)


class PortMapping(Struct, frozen=True):
    """A port of the host that leads to a port of the pod (CRI: PortMapping). `protocol` is TCP, UDP or SCTP."""

    container_port: int
    host_port: int
    protocol: str = "TCP"
    host_ip: str = ""


class SandboxConfig(Struct, frozen=True):
    """What a sandbox is to be (CRI: PodSandboxConfig).

    `name`, `namespace`, `uid` are the pod's; `attempt` counts the sandboxes made for it. `labels` can be filtered by,
    `annotations` cannot; both come back unchanged. `cgroup_parent` is a cgroupfs path (`/kubepods/burstable/podX`),
    whatever the runtime's cgroup driver. Container logs appear below `log_directory` when it is set.
    """

    name: str
    namespace: str
    uid: str
    attempt: int = 0
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    port_mappings: tuple[PortMapping, ...] = ()
    dns: DNSConfig = DNSConfig()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    log_directory: str = ""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_process_namespace: bool = False


class Sandbox(Struct, frozen=True):
    """A sandbox as listed (CRI: PodSandbox)."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    state: SandboxState
    created_at: datetime
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class SandboxStatus(Sandbox, frozen=True):
    """A sandbox in detail (CRI: PodSandboxStatus). `ip` is empty for a sandbox in the host's network."""

    ip: str = ""
    host_network: bool = False
