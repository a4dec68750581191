"""Machines as Ansible's inventory has them: groups, variables, and how they are reached over SSH. Pure functions."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, Role, Store
from provision.ssh.endpoint import Endpoint

PYTHON = "/usr/bin/python3"
JUMP = "ktool-jump-"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
# What an inventory says of the way to a machine is in its endpoint already, checked and complete.
_CONNECTION_VARIABLES = frozenset(
    {
        "ansible_become",
        "ansible_become_pass",
        "ansible_become_password",
        "ansible_connection",
        "ansible_control_path",
        "ansible_host",
        "ansible_password",
        "ansible_port",
        "ansible_private_key_file",
        "ansible_user",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine for Ansible. One whose endpoint is `local` is the machine on which Ansible runs; so is one without an
    endpoint, whose tasks run as whoever runs Ansible. `variables` may hold secrets."""

    name: str
    endpoint: Endpoint | None
    groups: Sequence[str] = ()
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SSHFiles:
    """Where a run's own files are: `config` for ssh (jump hosts), `known_hosts` with the keys that are pinned;
    `sockets` is the folder of connections that stand already (None: Ansible has one of its own)."""

    config: Path
    known_hosts: Path
    sockets: Path | None = None


def of_machine(
    lab: Lab,
    machine: Machine,
    endpoint: Endpoint | None,
    *,
    address: str = "",
    server: str = "",
    master: str = "",
    backends: Mapping[str, str] | None = None,
    tls_sans: Sequence[str] = (),
    facts: RemoteFacts | None = None,
) -> Host:
    """A lab's machine, with the variables that the roles want of it.

    `address` is where the other machines reach it (empty: its default route's), `server` the API server's URL as nodes
    reach it (empty: the master's own address), `master` the one by which others join, `backends` the masters' addresses
    by name for a load balancer (None: as the inventory has them), `tls_sans` more names for the API server's
    certificate; `facts` what was seen of the machine just now, which spares the roles a look.
    """
    keys = {taint.key for taint in machine.taints}
    wanted: dict[str, Any] = {
        "ktool_node_name": machine.name,
        "ktool_node_address": address,
        "ktool_labels": dict(machine.labels),
        "ktool_taints": [str(taint) for taint in machine.taints],
        "ktool_agent": machine.runs_agent,
        "ktool_schedulable": CONTROL_PLANE not in keys,
        "ktool_api_port": lab.api_port,
        "ktool_pod_cidr": lab.pod_cidr,
        "ktool_service_cidr": lab.service_cidr,
        "ktool_tls_sans": list(tls_sans),
    }
    if lab.store is Store.ETCD:
        wanted["ktool_store"] = str(lab.store)
    if server:
        wanted["ktool_server"] = server
    if backends is not None and Role.LOAD_BALANCER in machine.roles:
        wanted["ktool_backends"] = [{"name": name, "address": address} for name, address in backends.items()]
    if master:
        wanted["ktool_master"] = master
    if facts is not None:
        wanted["ktool_seen"] = seen(facts)
    return Host(name=machine.name, endpoint=endpoint, groups=machine.groups, variables={**machine.variables, **wanted})


def seen(facts: RemoteFacts) -> dict[str, Any]:
    """What the role `runtime` wants to know of a machine."""
    return {
        "runtime": facts.runtime_key,
        "linked": facts.runtime_linked,
        "joined": facts.member,
        "master": facts.has_master,
        "arch": facts.arch,
        "interpreters": [f"cp{version.replace('.', '')}" for version in facts.pythons],
        "commands": sorted(facts.commands),
    }


def inventory(hosts: Sequence[Host], files: SSHFiles) -> dict[str, Any]:
    """The inventory of a run, as Ansible's YAML and JSON inventories are nested."""
    groups = {group for host in hosts for group in host.groups} - {"all", "ungrouped"}
    children = {
        group: {"hosts": {host.name: None for host in hosts if group in host.groups}}
        for group in sorted(groups | {"masters", "workers", "load_balancers"})
    }
    return {"all": {"hosts": {host.name: host_variables(host, files) for host in hosts}, "children": children}}


def host_variables(host: Host, files: SSHFiles) -> dict[str, Any]:
    """A host's variables: its own, and those of Ansible by which it is reached."""
    own = {
        name: value
        for name, value in host.variables.items()
        if name not in _CONNECTION_VARIABLES and not name.startswith("ansible_ssh_")
    }
    own.setdefault("ansible_python_interpreter", PYTHON)
    if host.endpoint is None or host.endpoint.local:
        return {**own, "ansible_connection": "local", **_become(host.endpoint, user=here())}
    endpoint = host.endpoint
    reached: dict[str, Any] = {
        "ansible_connection": "ssh",
        "ansible_host": endpoint.address,
        "ansible_port": endpoint.port,
        "ansible_user": endpoint.user,
        # Ansible gives ssh an option of its own for it, before ours.
        "ansible_ssh_timeout": max(1, round(endpoint.connect_timeout)),
        "ansible_ssh_common_args": shlex.join(ssh_arguments(host.name, endpoint, files)),
    }
    if endpoint.password:
        reached["ansible_password"] = endpoint.password
    if files.sockets is not None:
        reached["ansible_control_path"] = str(socket_path(host.name, files.sockets))
    return {**own, **reached, **_become(endpoint, user=endpoint.user)}


def socket_path(name: str, folder: Path) -> Path:
    """The socket of a machine's connection (ssh_config(5): ControlPath): short, as paths of sockets have to be, and
    with nothing in it that ssh replaces."""
    return folder / hashlib.sha256(name.encode()).hexdigest()[:10]


def here() -> str:
    """Who runs Ansible: "root", or an empty string for anybody else, whose name does not matter."""
    return "root" if os.geteuid() == 0 else ""


def _become(endpoint: Endpoint | None, *, user: str) -> dict[str, Any]:
    """Ansible's variables about becoming root."""
    found: dict[str, Any] = {"ansible_become": endpoint is not None and endpoint.become and user != "root"}
    if endpoint is not None and endpoint.become_password:
        found["ansible_become_password"] = endpoint.become_password
    return found


def ssh_arguments(name: str, endpoint: Endpoint, files: SSHFiles) -> list[str]:
    """Arguments for ssh, sftp and scp. Host keys are always checked, pinned ones by the machine's name."""
    arguments = ["-F", str(files.config), *_options(options(name, endpoint, files))]
    if endpoint.jump is not None:
        arguments += _options({"ProxyJump": jump_name(name, 0)})
    return arguments


def options(name: str, endpoint: Endpoint, files: SSHFiles) -> dict[str, str | list[str]]:
    """Options of ssh_config(5) for an endpoint; a list stands for an option that is given several times."""
    found: dict[str, str | list[str]] = {
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": f"{max(1, round(endpoint.connect_timeout))}",
        "ServerAliveInterval": "15",
        "UpdateHostKeys": "no",
    }
    if endpoint.host_keys:
        found |= {"UserKnownHostsFile": str(files.known_hosts), "GlobalKnownHostsFile": "none", "HostKeyAlias": name}
    elif endpoint.known_hosts:
        found["UserKnownHostsFile"] = " ".join(map(str, endpoint.known_hosts))
    if endpoint.identity_files:
        found["IdentityFile"] = [str(path) for path in endpoint.identity_files]
    if not endpoint.agent:
        found |= {"IdentitiesOnly": "yes", "IdentityAgent": "none"}
    return found


def ssh_config(hosts: Sequence[Host], files: SSHFiles) -> str:
    """An ssh_config(5) with the jump hosts of all machines; whoever passes through several passes them in order."""
    lines = ["# Jump hosts of one run of Ansible; the machines' own options are arguments."]
    for host in hosts:
        chain = jumps(host.endpoint)
        for number, endpoint in enumerate(chain):
            name = jump_name(host.name, number)
            lines += [f"Host {name}", f"  HostName {endpoint.address}", f"  Port {endpoint.port}"]
            lines.append(f"  User {endpoint.user}")
            for option, value in options(name, endpoint, files).items():
                lines += [f"  {option} {one}" for one in (value if isinstance(value, list) else [value])]
            if number + 1 < len(chain):
                lines.append(f"  ProxyJump {jump_name(host.name, number + 1)}")
    return "\n".join(lines) + "\n"


def known_hosts(hosts: Sequence[Host]) -> str:
    """The pinned keys of machines and jump hosts, a line each, under the names that HostKeyAlias gives them."""
    lines = []
    for host in hosts:
        if host.endpoint is None or host.endpoint.local:
            continue
        lines += [f"{host.name} {key}" for key in host.endpoint.host_keys]
        for number, endpoint in enumerate(jumps(host.endpoint)):
            lines += [f"{jump_name(host.name, number)} {key}" for key in endpoint.host_keys]
    return "".join(f"{line}\n" for line in lines)


def jumps(endpoint: Endpoint | None) -> list[Endpoint]:
    """The servers to pass through, the one next to the machine first."""
    found = []
    while endpoint is not None and endpoint.jump is not None:
        endpoint = endpoint.jump
        found.append(endpoint)
    return found


def jump_name(host: str, number: int) -> str:
    """What a jump host is called in the configuration."""
    return f"{JUMP}{number}.{host}"


def _options(given: Mapping[str, str | list[str]]) -> list[str]:
    words = []
    for option, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += ["-o", f"{option}={one}"]
    return words
