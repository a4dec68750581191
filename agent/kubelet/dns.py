"""The resolver's settings of a pod (Kubernetes: "DNS for Services and Pods", dnsPolicy and dnsConfig). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.runtime.runtime import DNSConfig
from kube.models import core_v1

MAX_SERVERS = 3
MAX_SEARCHES = 32
CLUSTER_OPTIONS = ("ndots:5",)


def parse_resolv_conf(text: str) -> DNSConfig:
    """The settings in the text of an /etc/resolv.conf; the last `search` line counts, as for the C library."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        key, *values = line.split("#")[0].split(";")[0].split() or [""]
        if key == "nameserver":
            servers += values[:1]
        elif key in ("search", "domain"):
            searches = tuple(values)
        elif key == "options":
            options += values
    return DNSConfig(tuple(servers), searches, tuple(options))


def node_dns(path: Path = Path("/etc/resolv.conf")) -> DNSConfig:
    """The node's own settings; empty if it has none."""
    try:
        return parse_resolv_conf(path.read_text())
    except OSError:
        return DNSConfig()


def pod_dns(pod: core_v1.Pod, node: DNSConfig, *, cluster_servers: tuple[str, ...], domain: str) -> DNSConfig:
    """The settings of a pod.

    `node` are the node's own, `cluster_servers` the addresses of the cluster's DNS (none: there is no such service,
    and every pod resolves as its node does), `domain` the cluster's domain.
    """
    assert pod.spec is not None
    policy = pod.spec.dnsPolicy or "ClusterFirst"
    in_cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.hostNetwork)
    if policy == "None":
        base = DNSConfig()
    elif in_cluster and cluster_servers:
        namespace = pod.metadata.namespace or "default"
        searches = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *node.searches)
        base = DNSConfig(cluster_servers, searches, CLUSTER_OPTIONS)
    else:
        base = node
    config = pod.spec.dnsConfig
    if config is None:
        return base
    options = {option.partition(":")[0]: option for option in base.options}
    for extra in config.options:
        name = extra.name or ""
        options[name] = f"{name}:{extra.value}" if extra.value is not None else name
    return DNSConfig(
        _unique([*base.servers, *config.nameservers])[:MAX_SERVERS],
        _unique([*base.searches, *config.searches])[:MAX_SEARCHES],
        tuple(options.values()),
    )


def needs_hosts(pod: core_v1.Pod) -> bool:
    """Whether a pod's /etc/hosts has more than the runtime writes: other names, or a domain of its own (subdomain)."""
    assert pod.spec is not None
    return bool(pod.spec.hostAliases or (pod.spec.subdomain and not pod.spec.hostNetwork))


def etc_hosts(pod: core_v1.Pod, address: str, *, domain: str = "cluster.local", node_hosts: str = "") -> str:
    """The text of /etc/hosts for a pod; `address` is the pod's own.

    A pod in the node's network has the node's names (`node_hosts`, the text of its file) and its aliases.
    """
    assert pod.spec is not None
    spec = pod.spec
    aliases = "".join(f"{alias.ip}\t{' '.join(alias.hostnames)}\n" for alias in spec.hostAliases)
    if spec.hostNetwork:
        return f"{node_hosts.rstrip()}\n{aliases}"
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    name = spec.hostname or pod.metadata.name or ""
    whole = f"{name}.{spec.subdomain}.{pod.metadata.namespace}.svc.{domain}\t" if spec.subdomain else ""
    if address:
        lines.append(f"{address}\t{whole}{name}")
    return "".join(f"{line}\n" for line in lines) + aliases


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
