"""How Ansible reaches the nodes of a lab: variables from the lab's inventory and from what ktool keeps of the lab."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision.inventory.cluster_hosts import ClusterHost
from provision.inventory.lab import Lab, Machine, ProviderName, SSHSettings
from provision.lab_state import LabState, labs_dir


def find_lab(named: str, folder: Path) -> tuple[LabState, Lab | None]:
    """The lab that is meant by a name (`lab`), or by its inventory's path (`lab.yml`, relative to a folder).

    With a path the inventory is read, so that its users, ports and jump hosts count. KtoolError if there is no such
    lab on this machine, or it is another inventory's.
    """
    if "/" in named or Path(named).suffix:
        from provision.inventory.read import read

        lab = read(folder / Path(named).expanduser())
        state = LabState.of(lab.name)
        state.require_source(lab.source)
        return state, lab
    state = LabState.of(named)
    if not state.kubeconfig.exists():
        known = sorted(path.name for path in labs_dir().glob("*") if (path / "kubeconfig").exists())
        raise KtoolError(
            f"there is no lab {named!r} with a cluster on this machine",
            found=f"labs: {', '.join(known)}" if known else f"no labs in {labs_dir()}",
            mend="`ktool lab create -i FILE` makes one; an inventory's path is understood here as well.",
        )
    return state, None


def with_access(hosts: list[ClusterHost], state: LabState, lab: Lab | None) -> list[ClusterHost]:
    """The hosts, with the variables by which Ansible gets into them."""
    pinned = _pinned(state)

    def of(host: ClusterHost) -> dict[str, Any]:
        machine = lab.machine(host.name) if lab is not None else None
        return access(host.name, machine, state, pinned=host.name in pinned)

    return [replace(host, variables=host.variables | of(host)) for host in hosts]


def access(name: str, machine: Machine | None, state: LabState, *, pinned: bool) -> dict[str, Any]:
    """Ansible's connection variables for a node; `machine` is None where no inventory describes it."""
    if machine is not None and machine.provider is ProviderName.LOCAL:
        return {"ansible_connection": "local"}
    ssh = machine.ssh if machine is not None else SSHSettings()
    found: dict[str, Any] = {"ansible_user": ssh.user, "ansible_port": ssh.port, "ansible_become": ssh.become}
    if ssh.address:
        found["ansible_host"] = ssh.address
    if ssh.user == "root":
        found["ansible_become"] = False
    if identity := ssh.identity_file or (state.identity if state.identity.exists() else None):
        found["ansible_ssh_private_key_file"] = str(identity)
    options = []
    if ssh.host_key:
        # OpenSSH takes known hosts from a file or from a command (8.5 or newer), and there is no file with this one
        options += [f"KnownHostsCommand=/bin/echo {name} {ssh.host_key}", "UserKnownHostsFile=none"]
        options += ["GlobalKnownHostsFile=none", f"HostKeyAlias={name}", "StrictHostKeyChecking=yes"]
    elif pinned:
        # the keys are kept by the machine's name, whatever address it has today
        options += [f"UserKnownHostsFile={state.known_hosts}", f"HostKeyAlias={name}", "StrictHostKeyChecking=yes"]
    if ssh.jump:
        options.append("ProxyJump=" + ",".join(ssh.jump))
    if options:
        found["ansible_ssh_common_args"] = " ".join(f"-o {shlex.quote(option)}" for option in options)
    return found


def _pinned(state: LabState) -> frozenset[str]:
    """Names of machines whose host keys are kept."""
    try:
        lines = state.known_hosts.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
