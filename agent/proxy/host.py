"""What a node needs besides the rules so that Service traffic flows: settings, routes, bridge ports, Docker's firewall.

- The node forwards packets, and bridged packets pass the rules too. Without the latter a pod's answer to another pod
  on the same bridge would not be translated back, and Services between them would time out.
- The Service range has a route to the pod bridge. No interface has these addresses; the route is there so that the
  node's own connections get as far as the rules (with no route, or an unreachable one, connect() fails before), with
  the bridge's address as their source, which every node can answer. It also keeps what no rule catches from leaving by
  the default route. A second route of the same range, unreachable and less preferred, takes over when the bridge goes.
- Bridge ports may send a packet back where it came from (hairpin mode), for pods that reach themselves by a Service.
- `route_localnet` on the bridge lets NodePorts answer on 127.0.0.1 (the table's guard chain keeps pods from abusing
  it, so the table comes first).
- Docker's FORWARD policy lets it all pass (docker_user.py).

Everything here can be done again at any time and changes nothing then; `remove` takes it back. Routes are recognized
by their protocol number, iptables rules by their comment, settings by the record of their old values.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.proxy import docker_user
from agent.proxy.service_port import NodeNetwork
from agent.proxy.sysctl import Sysctls
from kube.errors import KtoolError

log = logging.getLogger(__name__)

# Who made a route (`ip route` shows "proto 107"); free in /etc/iproute2/rt_protos.
ROUTE_PROTOCOL = 107
_FALLBACK_METRIC = 4096

IP_FORWARD = "net/ipv4/ip_forward"
BRIDGE_NETFILTER = "net/bridge/bridge-nf-call-iptables"

_HAIRPIN = 1
_RTN_UNREACHABLE = 7
_COMMAND_SECONDS = 20.0
_IPTABLES = ("iptables", "--wait", "5")


class HostNetwork:
    """The node's network settings for Services. All methods block for milliseconds and speak of the network namespace
    of the thread that calls them; `record` is the file that remembers changed settings."""

    def __init__(self, node: NodeNetwork, *, record: Path) -> None:
        self._node = node
        self._sysctls = Sysctls(record)

    @property
    def sees_bridged_packets(self) -> bool:
        """Whether bridged packets pass the rules (br_netfilter); if not, rules must masquerade everything."""
        return self._sysctls.exists(BRIDGE_NETFILTER)

    def prepare(self) -> None:
        """Forwarding, bridge settings, routes, Docker. KtoolError says what could not be done."""
        self._sysctls.set(IP_FORWARD, "1")
        if not self.sees_bridged_packets and shutil.which("modprobe"):
            # stays loaded afterwards: who else has come to rely on it cannot be known
            _run(["modprobe", "br_netfilter"], check=False)
        if self.sees_bridged_packets:
            self._sysctls.set(BRIDGE_NETFILTER, "1")
        else:
            log.warning("br_netfilter is missing: Services will hide the addresses of their clients")
        self.connect_bridge()
        self.open_firewall()

    def connect_bridge(self) -> None:
        """Routes of the Service range and hairpin mode of the bridge's ports, as far as the bridge exists now."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        node = self._node
        try:
            with IPRoute() as netlink:
                netlink.route(
                    "replace",
                    dst=node.service_cidr,
                    type="unreachable",
                    priority=_FALLBACK_METRIC,
                    proto=ROUTE_PROTOCOL,
                )
                bridge = next(iter(netlink.link_lookup(ifname=node.bridge)), None)
                if bridge is None:
                    return
                if netlink.get_links(bridge)[0]["state"] == "up":
                    netlink.route("replace", dst=node.service_cidr, oif=bridge, scope="link", proto=ROUTE_PROTOCOL)
                for port in netlink.get_links(master=bridge):
                    if _hairpin_mode(port) != _HAIRPIN:
                        # a pod's port may go while we look at it
                        with contextlib.suppress(NetlinkError):
                            netlink.brport("set", index=port["index"], mode=_HAIRPIN)
        except NetlinkError as error:
            raise KtoolError(
                "cannot set the routes of the Service range",
                found=str(error),
                wanted=f"{node.service_cidr} dev {node.bridge}",
            ) from error

    def allow_localhost(self) -> None:
        """Let NodePorts answer on 127.0.0.1, once the bridge exists. Only with the table in place: see its guard."""
        name = f"net/ipv4/conf/{self._node.bridge}/route_localnet"
        if self._sysctls.exists(name):
            self._sysctls.set(name, "1")

    def open_firewall(self) -> None:
        """Add what is missing in DOCKER-USER (or FORWARD, if its policy is DROP)."""
        if shutil.which("iptables") is None:
            return
        for arguments in reversed(docker_user.insertions(_iptables("-S"), self._node)):
            _iptables(*arguments)
            log.info("iptables %s", " ".join(arguments))

    def remove(self) -> None:
        """Take everything back: firewall rules, routes, settings. (Hairpin mode goes with the pods' ports.)"""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        self._sysctls.restore()
        if shutil.which("iptables") is not None:
            for arguments in docker_user.deletions(_iptables("-S")):
                _iptables(*arguments)
        try:
            with IPRoute() as netlink:
                for route in netlink.get_routes(family=socket.AF_INET, proto=ROUTE_PROTOCOL):
                    if f"{route.get_attr('RTA_DST')}/{route['dst_len']}" == self._node.service_cidr:
                        netlink.route("del", **_as_found(route, self._node.service_cidr))
        except NetlinkError as error:
            raise KtoolError("cannot remove the routes of the Service range", found=str(error)) from error


def _as_found(route: Any, destination: str) -> dict[str, Any]:
    """What names exactly this route."""
    if route["type"] == _RTN_UNREACHABLE:
        return {"dst": destination, "type": "unreachable", "priority": route.get_attr("RTA_PRIORITY")}
    return {"dst": destination, "oif": route.get_attr("RTA_OIF"), "scope": "link"}


def _hairpin_mode(port: Any) -> int:
    info = port.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_SLAVE_DATA") if info is not None else None
    return int(data.get_attr("IFLA_BRPORT_MODE") or 0) if data is not None else 0


def _iptables(*arguments: str) -> str:
    return _run([*_IPTABLES, *arguments])


def _run(command: Sequence[str], *, check: bool = True) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KtoolError(f"cannot run {command[0]}", found=str(error)) from error
    if check and done.returncode:
        raise KtoolError(f"{' '.join(command)} failed", found=done.stderr.strip()[:300])
    return done.stdout
