"""`ktool join`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.commands.up import local_config, master_options, node_options
from ktool.output.report import output_option, reporting
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from kube.join import JoinConfig


OF_MASTERS = ("agent", "schedulable", "advertise_address", "api_port", "tls_sans")


@click.command("join")
@click.argument("file", required=False)
@click.option("--server", default="", metavar="URL", help="Where the API server is, if not where FILE says.")
@click.option(
    "--prepare",
    is_flag=True,
    help="Only what needs no FILE: Docker Engine, and an agent that waits for it. Join with the same options later.",
)
@click.option("--pod-cidr", default="10.244.0.0/16", help="With --prepare: addresses of pods in that cluster.")
@click.option("--service-cidr", default="10.96.0.0/16", help="With --prepare: addresses of its Services.")
@click.option("--control-plane", is_flag=True, help="Make it a master as well: one more of those that share etcd.")
@node_options
@master_options
@output_option
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Make this machine a node of a cluster: Docker Engine and the agent, as `up` starts them.

    FILE is a join file from `ktool token create --join-file` on the master, or - for standard input. It is needed
    until the machine has joined; running the command again, without it, mends what is missing and changes nothing else.

    With --prepare, a machine gets ready while its master is still being made; to join takes it half as long then.

    With --control-plane the machine becomes a master, too, and the options of `up` about masters count. Its join file
    holds the keys of the whole cluster: better no file at all. One machine after the other.

    \b
    ktool token create --node worker-1 --join-file - | ssh root@worker-1 ktool join -
    ktool token create --node master-2 --control-plane --join-file - | ssh root@master-2 ktool join --control-plane -
    """
    networks = {name: options.pop(name) for name in ("pod_cidr", "service_cidr")}
    run(_prepare(session, **networks, **options) if options.pop("prepare") else _join(session, **options))


async def _prepare(
    session: Session, *, file: str | None, server: str, control_plane: bool, output: str | None, **options: Any
) -> None:
    if file or server or control_plane:
        raise click.UsageError("--prepare is for nodes without an invitation: found FILE, --server or --control-plane")
    for name in OF_MASTERS:
        _only_for_masters(name)
        options.pop(name)
    from provision.local_cluster.preparation import prepare

    with reporting(output) as (progress, report):
        config = local_config(session, **options)
        report.fields |= {"node": config.node_name, "address": await prepare(config, progress)}
    if not output:
        click.echo("\nThis machine is ready to join.")


async def _join(
    session: Session, *, file: str | None, server: str, control_plane: bool, output: str | None, **options: Any
) -> None:
    started = time.monotonic()
    if not control_plane:
        for name in OF_MASTERS:
            _only_for_masters(name)
            options.pop(name)
    from kube import join

    with reporting(output) as (progress, report):
        invitation = _read(file, session.data_dir)
        if server:
            invitation = join.at(invitation, server)
        options["node_name"] = options["node_name"] or invitation.node_name
        config = local_config(session, **options, control_plane=control_plane)
        if control_plane:
            from provision.local_cluster import control_plane as joining

            cluster = await joining.join(config, invitation, progress)
        else:
            from provision.local_cluster.enrolment import enrol

            cluster = await enrol(config, invitation, progress)
        report.fields |= {
            "node": cluster.node_name,
            "address": cluster.node_address,
            "server": cluster.server,
            "kubeconfig": str(cluster.kubeconfig),
        }
    if not output:
        what = "a master, and node" if control_plane and options["agent"] else "a master," if control_plane else "node"
        click.echo(f"\nThis machine is {what} {cluster.node_name} ({time.monotonic() - started:.1f} s).")


def _only_for_masters(name: str) -> None:
    context = click.get_current_context()
    if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        option = next(p.opts[0] for p in context.command.params if p.name == name)
        raise click.UsageError(f"{option} is for masters: found no --control-plane")


def _read(file: str | None, data_dir: Path) -> JoinConfig:
    """The join file that was given, or the one by which this machine joined."""
    from kube import join
    from kube.errors import KtoolError
    from provision.local_cluster.config import LocalClusterConfig

    if file == "-":
        return join.parse(sys.stdin.buffer.read(), source="on standard input")
    if file:
        return join.read(Path(file))
    known = LocalClusterConfig(data_dir=data_dir).join_file
    if not known.exists():
        raise KtoolError(
            "this machine has not joined a cluster yet",
            found=f"no FILE, and no {known}",
            wanted="a join file",
            mend="ktool token create --node NAME --join-file - | ssh root@NAME ktool join -  (on the master)",
        )
    return join.read(known)
