"""`ktool inventory`: what an inventory says, whether it is right, and where reality differs from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from kube.models import core_v1
    from provision.inventory.lab import Lab, Machine
    from provision.lab_state import LabState

LAB_VARIABLE = "KTOOL_INVENTORY_LAB"

# providers that make machines
MADE = ("libvirt", "nspawn")


def inventory_option(function: Any) -> Any:
    """`-i/--inventory`"""
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path),
        required=True,
        help="An inventory: a file or folder in Ansible's format.",
    )(function)


def output_option(function: Any) -> Any:
    """`-o/--output`"""
    choice = click.Choice(["yaml", "json"])
    return click.option("-o", "--output", type=choice, help="What to print [default: a table].")(function)


@click.group("inventory")
def command() -> None:
    """Show and check inventories, compare them with what there is, or give the live cluster to Ansible.

    \b
      ktool inventory check -i inventories/lab.yml    all errors at once
      ktool inventory show  -i inventories/lab.yml    what ktool understood
      ktool inventory diff  -i inventories/lab.yml    drift between file, machines and cluster
      ansible -i inventories/cluster.ktool.yml all -m ping

    docs/inventories.md describes the variables.
    """


@command.command("show")
@inventory_option
@output_option
def show(inventory: Path, output: str | None) -> None:
    """Show what ktool understood of an inventory, with defaults filled in; passwords are left out."""
    from provision.inventory.read import read

    lab = read(inventory)
    if output is not None:
        _print_data(lab_data(lab), output)
        return
    from ktool.output.table import print_rows

    network = lab.network
    made = any(machine.provider in MADE for machine in lab.machines)
    own = f"network {network.name or network.bridge or lab.name} ({network.mode}, {network.cidr}), " if made else ""
    click.echo(f"lab {lab.name}: {own}pods {lab.pod_cidr}, services {lab.service_cidr}")
    header = ["NAME", "ROLES", "PROVIDER", "ADDRESS", "CPUS", "MEMORY", "DISK", "LABELS", "TAINTS"]
    print_rows([header, *(_row(machine) for machine in lab.machines)])


def _row(machine: Machine) -> list[str]:
    # a machine that exists has what it has; sizes are only for those that are made
    made = machine.provider in MADE
    sizes = [str(machine.cpus), f"{machine.memory_mib} MiB", f"{machine.disk_gib} GiB"] if made else ["-"] * 3
    return [
        machine.name,
        ",".join(sorted(machine.roles)),
        machine.provider,
        machine.ssh.address or machine.address or "-",
        *sizes,
        ",".join(f"{k}={v}" if v else k for k, v in machine.labels.items()) or "-",
        ",".join(map(str, machine.taints)) or "-",
    ]


def lab_data(lab: Lab) -> dict[str, Any]:
    """A lab as plain data, without Ansible's own variables, which may hold passwords."""
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(lab, enc_hook=str)
    for machine in data["machines"]:
        del machine["variables"]
        machine["roles"] = sorted(machine["roles"])
    return data


def _print_data(data: Any, output: str) -> None:
    if output == "json":
        import orjson

        click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return
    import yaml

    click.echo(yaml.safe_dump(data, sort_keys=False, default_flow_style=False), nl=False)


@command.command("check")
@inventory_option
def check(inventory: Path) -> None:
    """Check an inventory; exit status 1 with all of its errors if there are any."""
    from provision.inventory.read import read

    lab = read(inventory)
    count = f"{len(lab.machines)} machines" if len(lab.machines) != 1 else "1 machine"
    click.echo(f"{inventory} is right: lab {lab.name}, {count}")


@command.command("diff")
@inventory_option
@output_option
@pass_session
def diff(session: Session, inventory: Path, output: str | None) -> None:
    """Show drift between an inventory, its machines and the cluster's Nodes.

    Reads only. Exit status 0 if there is none, 1 if there is some, as diff's.
    """
    from provision.inventory.drift import drift
    from provision.inventory.read import read
    from provision.lab_state import LabState
    from provision.providers.factory import providers_for

    lab = read(inventory)
    state = LabState.of(lab.name)
    found = [one for provider in providers_for(lab, state).values() for one in provider.find()]
    nodes = _nodes(lab, state, session.kubeconfig)
    differences = drift(lab, found, nodes)
    if output is not None:
        import dataclasses

        _print_data([dataclasses.asdict(one) for one in differences], output)
    elif differences:
        from ktool.output.table import print_rows

        rows = [[d.machine, d.side, d.field or "-", d.found, d.wanted] for d in differences]
        print_rows([["MACHINE", "WHERE", "WHAT", "FOUND", "WANTED"], *rows])
    else:
        click.echo(f"no drift: {len(lab.machines)} machines and {len(nodes or ())} Nodes are as {inventory} says")
    if differences:
        sys.exit(1)


def _nodes(lab: Lab, state: LabState, kubeconfig: Path | None) -> Sequence[core_v1.Node] | None:
    """The Nodes of the lab's cluster, or None if the lab has none yet."""
    from kube.errors import KtoolError
    from provision.inventory.cluster_hosts import read_nodes

    if kubeconfig is not None:
        return read_nodes(kubeconfig)
    if not state.kubeconfig.exists():
        return None
    try:
        return read_nodes(state.kubeconfig)
    except KtoolError as unreachable:
        # a lab behind a jump host, or a firewall: ask by way of the master's SSH, as the other commands do
        try:
            return run(_nodes_through_master(lab, state))
        except KtoolError as error:
            raise unreachable from error


async def _nodes_through_master(lab: Lab, state: LabState) -> Sequence[core_v1.Node]:
    from kube.models import core_v1
    from provision.lab.cluster import connected
    from provision.lab.open_lab import opened

    async with opened(lab, state) as open_lab:
        master = await open_lab.master_connection()
        async with connected(state, master, port=lab.api_port) as client:
            return (await client.list(core_v1.Node)).items


@command.command("script")
@click.option("--list", "everything", is_flag=True, help="All hosts, groups and variables [default].")
@click.option("--host", "host", help="The variables of one host.")
@click.option(
    "--lab",
    "named",
    envvar=LAB_VARIABLE,
    help="A lab on this machine, by name or by its inventory: its cluster, its SSH keys and users.",
)
@pass_session
def script(session: Session, everything: bool, host: str | None, named: str | None) -> None:
    """Give the live cluster as an Ansible inventory script would: JSON for `--list` and `--host NAME`.

    \b
    For an Ansible that runs elsewhere than in ktool's Python:
      ansible -i inventories/cluster.sh all -m ping
    """
    import orjson

    from provision.inventory import cluster_hosts, node_access

    if everything and host is not None:
        raise click.UsageError("--list or --host, not both")
    if named:
        state, lab = node_access.find_lab(named, Path.cwd())
        found = cluster_hosts.hosts(cluster_hosts.read_nodes(state.kubeconfig))
        found = node_access.with_access(found, state, lab)
    else:
        found = cluster_hosts.hosts(cluster_hosts.read_nodes(session.kubeconfig_path()))
    data: Any = cluster_hosts.listing(found)
    if host is not None:
        data = data["_meta"]["hostvars"].get(host, {})
    click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


@command.command("plugins")
def plugins() -> None:
    """Print the folder with ktool's inventory plugin for Ansible.

    \b
      export ANSIBLE_INVENTORY_PLUGINS=$(ktool inventory plugins)
      ansible -i cluster.ktool.yml all -m ping
    """
    from provision.inventory.ansible_source import PLUGINS

    click.echo(PLUGINS)
