"""May these machines become a cluster together? All that can be known before anything is changed on them.

`check_lab` tries the ports between the machines and hands everything to `findings`, which decides from facts alone.
A machine with an ERROR is left out, the others go on. What ktool itself will mend (packages to install, modules to
load) is no finding unless it cannot.
"""

from __future__ import annotations

import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from provision import preflight
from provision.etcd.membership import CLIENT_PORT, PEER_PORT
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, Store
from provision.preflight import reachability
from provision.preflight.machine import MIB, PACKAGES, Finding, Severity, Wanted, check, error, warning
from provision.preflight.reachability import Attempt
from provision.ssh.shell import Shell

SKEW_ERROR_SECONDS = 60.0
SKEW_WARNING_SECONDS = 5.0
FAMILIES = frozenset({"debian", "ubuntu", "rhel", "fedora", "centos"})
# Features without which pods cannot run; vxlan is only for clusters over several segments.
FEATURES = ("overlay", "br_netfilter", "nf_tables", "veth", "bridge")
# The agent's bridge of pods (agent/runtime/docker_network.py).
OWN_INTERFACES = frozenset({"ktool0"})
WORKER_MEMORY = 200 * MIB
# What is said of one machine on its own, and is otherwise decided here.
_REPLACED = frozenset({"root", "os", "commands"})
_IN_AN_INVENTORY = {
    "--pod-cidr": "ktool_pod_cidr",
    "--service-cidr": "ktool_service_cidr",
    "choose another --data-dir, or empty this one": "empty it",
    "make room, or choose another --data-dir": "make room",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workstation:
    """This side: the node runtime is made for its version of Python ("3.11") and its architecture."""

    python: str = field(default_factory=lambda: f"{sys.version_info[0]}.{sys.version_info[1]}")
    arch: str = field(default_factory=platform.machine)


def check_lab(
    lab: Lab,
    facts: Mapping[str, RemoteFacts],
    shells: Mapping[str, Shell],
    *,
    nodes: Mapping[str, str] | None = None,
) -> dict[str, list[Finding]]:
    """Findings of each machine that there are facts of, errors first. Blocks: ports between machines are tried.

    `nodes` are the cluster's Nodes as far as it exists, by name, with their machine ids.
    """
    tried = reachability.attempt(shells, reachability.wanted(lab, facts), limit=lab.forks)
    return findings(lab, facts, tried, nodes=nodes or {})


def findings(
    lab: Lab,
    facts: Mapping[str, RemoteFacts],
    reached: Sequence[Attempt] = (),
    *,
    nodes: Mapping[str, str] | None = None,
    workstation: Workstation | None = None,
) -> dict[str, list[Finding]]:
    """The same from facts, and connections that were tried."""
    here = workstation or Workstation()
    everything: dict[str, list[Finding]] = {}
    for machine in lab.machines:
        seen = facts.get(machine.name)
        if seen is not None:
            everything[machine.name] = [
                *_rights(machine, seen),
                *_system(seen, here),
                *_alone(lab, machine, seen),
                *_foreign(seen),
                *_packages(seen),
            ]
    for name, finding in [
        *_clocks(facts),
        *_duplicates(lab, facts, nodes or {}),
        *_clusters(lab, facts),
        *_ports(lab, reached),
    ]:
        everything[name].append(finding)
    return {
        name: sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)
        for name, found in everything.items()
    }


def _rights(machine: Machine, seen: RemoteFacts) -> Iterator[Finding]:
    if not seen.sudo:
        user = machine.ssh.user
        yield error(
            "sudo",
            f"{user} may not become root",
            found=f"user id {seen.euid}, and sudo refuses",
            wanted="root, or a user who may use sudo",
            mend=f"on the machine: echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}; or give the "
            "password (ansible_become_password), or set ansible_user: root",
        )


def _system(seen: RemoteFacts, here: Workstation) -> Iterator[Finding]:
    if FAMILIES.isdisjoint({seen.os_id, *seen.os_like}):
        yield error(
            "os",
            "ktool does not know this operating system",
            found=f"{seen.os_id} {seen.os_version}".strip(),
            wanted="Debian, Ubuntu, or one like RHEL",
            mend="install one of these",
        )
    if here.python not in seen.pythons:
        yield error(
            "python",
            f"there is no Python {here.python}, for which the node runtime is made",
            found=", ".join(f"/usr/bin/python{version}" for version in seen.pythons) or f"Python {seen.python}",
            wanted=f"/usr/bin/python{here.python}, the version that ktool runs with here",
            mend=f"install python{here.python} on the machine, or run ktool with the machine's version",
        )
    if seen.arch != here.arch:
        yield error(
            "arch",
            "the machine has another kind of processor than this one",
            found=seen.arch,
            wanted=f"{here.arch}, for which the node runtime is made",
            mend=f"run ktool on a machine with {seen.arch}",
        )
    if not seen.machine_id:
        yield error(
            "machine-id",
            "the machine has no id",
            found="/etc/machine-id is empty or missing",
            wanted="an id of its own",
            mend="on the machine: systemd-machine-id-setup",
        )
    absent = [name for name in FEATURES if seen.features.get(name) is False]
    if absent:
        yield error(
            "kernel",
            "the kernel lacks what pods need",
            found=f"{seen.kernel} without {', '.join(absent)}",
            wanted=", ".join(FEATURES),
            mend="install the distribution's full kernel (not a cloud or minimal one) and reboot",
        )
    if seen.swap_total:
        yield warning(
            "swap",
            "swap is on: memory limits of pods are not kept strictly",
            found=f"{seen.swap_total // MIB} MiB of swap",
            wanted="none",
            mend="swapoff -a, and take it out of /etc/fstab",
        )


def _alone(lab: Lab, machine: Machine, seen: RemoteFacts) -> Iterator[Finding]:
    """What preflight says of any single machine, in the words of an inventory."""
    ports = {}
    if machine.is_master:
        ports[lab.api_port] = "the API server"
        if lab.store is Store.ETCD and not seen.services.get("etcd"):
            ports |= {CLIENT_PORT: "etcd's clients", PEER_PORT: "etcd's other members"}
    if machine.runs_agent:
        ports[lab.kubelet_port] = "the kubelet"
    runs = any(seen.services.get(name) for name in ("master", "agent"))
    memory = preflight.MEMORY_AVAILABLE if machine.is_master else WORKER_MEMORY
    wanted = Wanted(
        ports=ports,
        pod_cidr=lab.pod_cidr,
        service_cidr=lab.service_cidr,
        own_pids=frozenset(pid for pids in seen.service_pids.values() for pid in pids),
        own_interfaces=OWN_INTERFACES,
        memory_available=0 if runs else memory,
        memory_total=(900 if machine.is_master else 600 if machine.runs_agent else 300) * MIB,
    )
    for finding in check(seen.machine(), wanted):
        if finding.name in _REPLACED or (finding.name == "docker" and not seen.docker.version):
            continue
        if finding.name == "state" and not seen.sudo:
            continue  # it could not be looked at
        mend = finding.mend
        for option, variable in _IN_AN_INVENTORY.items():
            mend = mend.replace(option, variable)
        yield replace(finding, mend=mend)
    if not seen.address(machine.address):
        yield error(
            "address",
            "no address by which other machines could reach it",
            found=", ".join(seen.addresses) or "loopback only",
            wanted="an IPv4 address on a network that the lab's machines share",
            mend="configure one; ktool_address in the inventory says which",
        )


def _foreign(seen: RemoteFacts) -> Iterator[Finding]:
    if seen.kubernetes_files and not seen.kubernetes:
        yield error(
            "kubernetes",
            "this machine was set up for another Kubernetes",
            found=", ".join(seen.kubernetes_files),
            wanted="a machine of its own: what was set up would come back at the next boot",
            mend="remove it by its own means (kubeadm reset, k3s-uninstall.sh), and its files; or use another machine",
        )
    if seen.docker.swarm:
        yield error(
            "swarm",
            "this machine is part of a Docker Swarm",
            found="Swarm: active",
            wanted="an engine that nobody else gives work to",
            mend="docker swarm leave, or use another machine",
        )


def _packages(seen: RemoteFacts) -> Iterator[Finding]:
    absent = sorted(name for name in PACKAGES if name not in seen.commands)
    if not seen.docker.installed and not seen.docker.version:
        absent.append("dockerd")
    if not absent or (seen.package_manager and seen.package_sources):
        return
    packages = sorted({PACKAGES.get(name, "docker.io") for name in absent})
    yield error(
        "packages",
        "packages are missing, and the machine knows no place to take them from",
        found=f"no {', '.join(absent)}; "
        + (f"no sources for {seen.package_manager}" if seen.package_manager else "no apt-get, dnf, yum or zypper"),
        wanted=f"the packages {' '.join(packages)}, or sources of packages",
        mend=f"configure sources, or install by hand: {' '.join(packages)}",
    )


def _clocks(facts: Mapping[str, RemoteFacts]) -> Iterator[tuple[str, Finding]]:
    """Clocks against the middle of all, this machine's included: so one that is wrong is named, whichever it is."""
    middle = statistics.median([0.0, *(seen.skew for seen in facts.values())])
    for name, seen in facts.items():
        off = seen.skew - middle
        sure = abs(off) - seen.skew_error
        if sure <= SKEW_WARNING_SECONDS:
            continue
        bad = sure > SKEW_ERROR_SECONDS
        yield (
            name,
            (error if bad else warning)(
                "clock",
                "the clock is wrong" + (": certificates would seem expired, or not valid yet" if bad else ""),
                found=f"{_duration(abs(off))} {'ahead of' if off > 0 else 'behind'} the others",
                wanted=f"less than {SKEW_WARNING_SECONDS:g} s",
                mend="on the machine: timedatectl set-ntp true (or install chrony)",
            ),
        )


def _duplicates(lab: Lab, facts: Mapping[str, RemoteFacts], nodes: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    names = {machine.name for machine in lab.machines}
    by_id: dict[str, list[str]] = defaultdict(list)
    by_host: dict[str, list[str]] = defaultdict(list)
    by_address: dict[str, list[str]] = defaultdict(list)
    for machine in lab.machines:
        seen = facts.get(machine.name)
        if seen is None:
            continue
        if seen.machine_id:
            by_id[seen.machine_id].append(machine.name)
        by_host[seen.hostname.lower()].append(machine.name)
        if address := seen.address(machine.address):
            by_address[address].append(machine.name)
    for node, machine_id in nodes.items():
        if machine_id in by_id and node not in names:
            by_id[machine_id].insert(0, f"node {node}")
    for machine_id, same in by_id.items():
        # The first keeps it: one of them may stay.
        for name in same[1:]:
            yield (
                name,
                error(
                    "machine-id",
                    f"has the same machine id as {same[0]}",
                    found=machine_id,
                    wanted="an id of its own: copies of a disk are told apart by it",
                    mend="on the machine: rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; "
                    "reboot. Or it stands in the inventory twice",
                ),
            )
    for address, same in by_address.items():
        for name in same[1:]:
            yield (
                name,
                error(
                    "address",
                    f"has the same address as {same[0]}",
                    found=address,
                    wanted="an address of its own, at which the others reach it",
                    mend="give each machine its own; machines on user networks (ktool_network_mode: user) cannot reach "
                    "each other",
                ),
            )
    for host, same in by_host.items():
        for name in same[1:]:
            yield (
                name,
                warning(
                    "hostname",
                    f"calls itself as {same[0]} does",
                    found=host,
                    wanted=f"a name of its own, such as {name}",
                    mend=f"on the machine: hostnamectl set-hostname {name}",
                ),
            )
    for name, seen in facts.items():
        if nodes.get(name) and seen.machine_id and nodes[name] != seen.machine_id:
            yield (
                name,
                warning(
                    "node-name",
                    "another machine is registered as this node",
                    found=f"node {name} has machine id {nodes[name]}, the machine {seen.machine_id}",
                    wanted="one machine a node",
                    mend=f"if it was made anew, all is well; otherwise give it another name than {name}",
                ),
            )


def _clusters(lab: Lab, facts: Mapping[str, RemoteFacts]) -> Iterator[tuple[str, Finding]]:
    """Machines that belong to a cluster of ktool's already, but not to this one."""
    pins = {name: pin for name, seen in facts.items() if (pin := seen.ca_pin)}
    own = {pins.get(machine.name, "") for machine in lab.masters if machine.name in facts} - {""}
    masters = {machine.name for machine in lab.masters}
    if not any(name in facts for name in masters):
        return
    for name, pin in pins.items():
        if name not in masters and pin not in own:
            yield (
                name,
                error(
                    "other-cluster",
                    "is a node of another ktool cluster",
                    found=f"it trusts the CA {pin[:23]}... of {facts[name].joined.server or 'its own master'}",
                    wanted=f"the CA of {lab.masters[0].name}" if own else "no cluster yet: this lab's is to be made",
                    mend="remove what it is part of, on the machine: ktool down --yes",
                ),
            )


def _ports(lab: Lab, reached: Sequence[Attempt]) -> Iterator[tuple[str, Finding]]:
    masters = [machine.name for machine in lab.masters]
    for one in reached:
        if not one.error:
            continue
        # Of a master and a worker it is the worker that has to stay out; the first master stays in any case.
        blamed = one.source if one.target in masters and one.source not in masters[:1] else one.target
        yield (
            blamed,
            error(
                "reach",
                f"{one.source} cannot reach {one.target}'s {one.purpose} port",
                found=f"{one.address}:{one.port}: {one.error}",
                wanted=f"connections from {one.source} to {one.address}:{one.port}",
                mend=f"let them pass through firewalls (on {one.target}: tcp dport {one.port} accept), or set "
                f"ktool_address of {one.target} to an address that {one.source} reaches",
            ),
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
