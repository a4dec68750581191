"""The lab's network on this host: a bridge with an address, and what lets its machines out, or does not.

Everything is tagged: interfaces by their alias, rules by the name of their table or by a comment. An interface of our
name without our tag is somebody else's and stops the work. All of it vanishes when the host reboots; the first machine
that starts makes it anew.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision import sysctl
from provision.command import CommandFailed, Runner, run
from provision.inventory.lab import NetworkMode
from provision.journal import Journal
from provision.machine import find_command, routes
from provision.providers.nspawn.config import MachineConfig, NetworkConfig, hardware_address

FORWARDING = "net.ipv4.ip_forward"
OUR_TAG = "ktool-lab:"


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold the network's lock: machines that start at the same time make it once."""
    descriptor = os.open(folder / "network.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def completed(config: NetworkConfig, *, runner: Runner = run) -> NetworkConfig:
    """With what only the host knows: the gateway of an existing network. KtoolError if its bridge is not there."""
    if config.mode is not NetworkMode.EXISTING:
        return config
    link = _link(config.bridge, runner)
    if link is None or link.get("linkinfo", {}).get("info_kind") != "bridge":
        there = [str(one["ifname"]) for one in _links(runner, "type", "bridge")]
        raise KtoolError(
            "the lab's bridge does not exist",
            found=f"ktool_network_bridge: {config.bridge}; bridges here: {', '.join(there) or 'none'}",
            wanted="a bridge of this host",
            mend=f"ip link add {config.bridge} type bridge, or set ktool_network_mode: nat",
        )
    network = ipaddress.ip_network(config.cidr)
    own = next((address for address in _addresses(config.bridge, runner) if _within(address, network)), "")
    gateways = [
        one.get("gateway", "") for one in json.loads(runner(["ip", "-json", "route", "show", "default"]) or "[]")
    ]
    beyond = next((address for address in gateways if address and _within(address, network)), "")
    return NetworkConfig(
        lab=config.lab,
        identity=config.identity,
        mode=config.mode,
        bridge=config.bridge,
        cidr=config.cidr,
        host_address=own,
        gateway=beyond or own,
    )


def ensure(config: NetworkConfig, folder: Path, *, runner: Runner = run) -> bool:
    """Have the network; True if something was missing. `folder` is the provider's, for lock and journal.

    KtoolError if its range is in use on this host, or its bridge's name by somebody else.
    """
    if config.mode is NetworkMode.EXISTING:
        completed(config, runner=runner)
        return False
    with changing(folder):
        made = _ensure_bridge(config, runner)
        if config.mode is NetworkMode.NAT:
            made |= sysctl.ensure(Journal(folder / "journal.jsonl"), FORWARDING, "1", runner=runner)
            made |= _ensure_legacy_rules(config, runner)
        return _ensure_table(config, runner) or made


def remove(config: NetworkConfig, folder: Path, *, runner: Runner = run) -> list[str]:
    """Remove what `ensure` made; what was removed, in words."""
    removed: list[str] = []
    if config.mode is NetworkMode.EXISTING:
        return removed
    with changing(folder):
        if _table_exists(config, runner):
            runner(["nft", "delete", "table", "inet", table(config)])
            removed.append(f"firewall table {table(config)}")
        for rule in _legacy_rules(config, runner):
            runner(["iptables", "-w", "5", "-D", *rule])
            removed.append(f"iptables rule for {config.bridge}")
        link = _link(config.bridge, runner)
        if link is not None and link.get("ifalias") == config.tag:
            runner(["ip", "link", "delete", config.bridge])
            removed.append(f"bridge {config.bridge}")
        journal = Journal(folder / "journal.jsonl")
        for change in journal.open_changes():
            others = [one for one in _links(runner) if str(one.get("ifalias", "")).startswith(OUR_TAG)]
            # Another lab's machines need forwarding as well: it stays, as it stays when Docker has set it.
            if not others and sysctl.restore(change):
                removed.append(f"{change.target} is {change.before} again")
            journal.close(change)
    return removed


def connect(machine: MachineConfig, config: NetworkConfig, namespace: str, *, runner: Runner = run) -> None:
    """Lay the cable between the bridge and a machine's (new) network namespace, named as `ip netns` knows it.

    The machine's end is `eth0`, with its address and routes. It goes when the machine's namespace does.
    """
    stale = _link(machine.interface, runner)
    if stale is not None:
        _require_ours(stale, machine.interface, config)
        runner(["ip", "link", "delete", machine.interface])
    inside = ["ip", "-netns", namespace]
    peer = ["peer", "name", "eth0", "address", machine.mac, "netns", namespace]
    outside = hardware_address(machine.mac, "host")
    runner(["ip", "link", "add", machine.interface, "address", outside, "type", "veth", *peer])
    runner(["ip", "link", "set", machine.interface, "alias", config.tag, "master", config.bridge, "up"])
    runner([*inside, "link", "set", "lo", "up"])
    runner([*inside, "link", "set", "eth0", "up"])
    runner([*inside, "address", "add", f"{machine.address}/{config.prefix}", "broadcast", "+", "dev", "eth0"])
    if config.gateway:
        runner([*inside, "route", "add", "default", "via", config.gateway])


def disconnect(machine: MachineConfig, config: NetworkConfig, *, runner: Runner = run) -> bool:
    """Remove a cable that was left; True if there was one."""
    link = _link(machine.interface, runner)
    if link is None or link.get("ifalias") != config.tag:
        return False
    try:
        runner(["ip", "link", "delete", machine.interface])
    except CommandFailed:  # the kernel is just removing it with the machine's namespace
        return _link(machine.interface, runner) is None
    return True


def link_state(interface: str, *, runner: Runner = run) -> str:
    """How the kernel sees an interface of this host (`UP`, `DOWN`), empty if there is none."""
    link = _link(interface, runner)
    return "" if link is None else str(link.get("operstate", ""))


def table(config: NetworkConfig) -> str:
    """The name of the lab's nftables table."""
    return f"ktool_lab_{config.identity}"


def ruleset(config: NetworkConfig) -> str:
    """The lab's nftables table, which replaces an earlier one (nft(8)).

    Frames that stay on the bridge pass these chains too where br_netfilter hands them to the firewall.
    """
    bridge, cidr = config.bridge, config.cidr
    name = f"inet {table(config)}"
    lines = [f"table {name}", f"delete table {name}", f"table {name} {{"]
    if config.mode is NetworkMode.NAT:
        lines += [
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            f"    ip saddr {cidr} ip daddr != {{ {cidr}, 224.0.0.0/4, 255.255.255.255 }} masquerade",
            "  }",
        ]
    else:
        lines += [
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            f'    iifname "{bridge}" oifname != "{bridge}" drop',
            f'    oifname "{bridge}" iifname != "{bridge}" drop',
            "  }",
        ]
    return "\n".join([*lines, "}", ""])


def _ensure_bridge(config: NetworkConfig, runner: Runner) -> bool:
    link = _link(config.bridge, runner)
    made = link is None
    if link is None:
        _require_free(config, runner)
        address = hardware_address(config.identity, "bridge")
        runner(["ip", "link", "add", config.bridge, "address", address, "type", "bridge"])
        runner(["ip", "link", "set", config.bridge, "alias", config.tag])
    elif not link.get("ifalias"):
        # Killed between the two commands above; the name is a hash over our own folder.
        runner(["ip", "link", "set", config.bridge, "alias", config.tag])
    else:
        _require_ours(link, config.bridge, config)
    if config.host_address not in _addresses(config.bridge, runner):
        runner(["ip", "address", "add", f"{config.host_address}/{config.prefix}", "dev", config.bridge])
        made = True
    if link is None or "UP" not in link.get("flags", ()):
        runner(["ip", "link", "set", config.bridge, "up"])
        made = True
    return made


def _require_free(config: NetworkConfig, runner: Runner) -> None:
    network = ipaddress.ip_network(config.cidr)
    for route in routes(runner):
        if route.interface != config.bridge and network.overlaps(ipaddress.ip_network(route.destination)):
            raise KtoolError(
                "the lab's address range is in use on this host",
                found=f"a route to {route.destination} by {route.interface}",
                wanted=f"nothing else in {config.cidr}",
                mend="set ktool_network_cidr to a range that nothing else uses",
            )


def _require_ours(link: dict[str, Any], name: str, config: NetworkConfig) -> None:
    if link.get("ifalias") != config.tag:
        raise KtoolError(
            f"the interface {name} belongs to somebody else",
            found=f"alias: {link.get('ifalias') or 'none'}",
            wanted=config.tag,
            mend=f"ip link delete {name}, if nothing needs it",
        )


def _ensure_table(config: NetworkConfig, runner: Runner) -> bool:
    if _table_exists(config, runner):
        return False
    runner(["nft", "-f", "-"], stdin=ruleset(config))
    return True


def _table_exists(config: NetworkConfig, runner: Runner) -> bool:
    listed = json.loads(runner(["nft", "-j", "list", "tables"]) or "{}").get("nftables", ())
    return any(one.get("table", {}).get("name") == table(config) for one in listed)


def _ensure_legacy_rules(config: NetworkConfig, runner: Runner) -> bool:
    """Docker sets iptables' FORWARD policy to DROP, which no rule of another table overrides: accept there, too."""
    if not find_command("iptables") or len(_legacy_rules(config, runner)) == 2:
        return False
    for rule in _legacy_rules(config, runner):
        runner(["iptables", "-w", "5", "-D", *rule])
    for direction in ("-i", "-o"):
        comment = ["-m", "comment", "--comment", table(config)]
        runner(["iptables", "-w", "5", "-I", "FORWARD", direction, config.bridge, *comment, "-j", "ACCEPT"])
    return True


def _legacy_rules(config: NetworkConfig, runner: Runner) -> list[list[str]]:
    if not find_command("iptables"):
        return []
    listed = runner(["iptables", "-w", "5", "-S", "FORWARD"]).splitlines()
    return [line.split()[1:] for line in listed if table(config) in line.split()]


def _link(name: str, runner: Runner) -> dict[str, Any] | None:
    return next((link for link in _links(runner) if link["ifname"] == name), None)


def _links(runner: Runner, *options: str) -> list[dict[str, Any]]:
    found = json.loads(runner(["ip", "-json", "-details", "link", "show", *options]) or "[]")
    return [link for link in found if link]


def _addresses(interface: str, runner: Runner) -> list[str]:
    listed = json.loads(runner(["ip", "-json", "-4", "address", "show", "dev", interface]) or "[]")
    return [str(address["local"]) for link in listed for address in link.get("addr_info", ())]


def _within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return ipaddress.ip_address(address) in network
