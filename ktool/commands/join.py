"""`ktool join`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.commands.up import local_config, node_options
from ktool.output.report import output_option, reporting
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from kube.join import JoinConfig


@click.command("join")
@click.argument("file")
@node_options
@output_option
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Make this machine a node of a cluster: Docker Engine and the agent, as `up` starts them.

    FILE is a join file from `ktool token create --join-file` on the master, or - for standard input. It is needed
    until the machine has joined; running the command again mends what is missing and changes nothing else.

    \b
    ktool token create --node worker-1 --join-file - | ssh root@worker-1 ktool join -
    """
    run(_join(session, **options))


async def _join(session: Session, *, file: str, output: str | None, **options: Any) -> None:
    from provision import local_cluster

    started = time.monotonic()
    with reporting(output) as (progress, report):
        invitation = _read(file)
        options["node_name"] = options["node_name"] or invitation.node_name
        config = local_config(session, **options)
        cluster = await local_cluster.enrol(config, invitation, progress)
        report.fields |= {
            "node": cluster.node_name,
            "address": cluster.node_address,
            "server": cluster.server,
            "kubeconfig": str(cluster.kubeconfig),
        }
    if not output:
        click.echo(f"\nThis machine is node {cluster.node_name} ({time.monotonic() - started:.1f} s).")


def _read(file: str) -> JoinConfig:
    from kube import join

    if file == "-":
        return join.parse(sys.stdin.buffer.read(), source="on standard input")
    return join.read(Path(file))
