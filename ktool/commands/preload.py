"""`ktool preload`"""

from __future__ import annotations

from typing import Any

import click

from ktool.commands.up import SUPERVISOR
from ktool.output.report import output_option, reporting
from ktool.session import Session, pass_session, run


@click.command("preload")
@click.option("--control-plane", is_flag=True, help="The master as well.")
@click.option("--agent/--no-agent", default=True, help="The agent [default: it is].")
@click.option("--supervisor", **SUPERVISOR, show_default=True, help="What keeps the services running.")
@output_option
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Start this machine's agent ahead of all that is known about it: it is loaded, and waits for `join` or `up`.

    This is for images and kept memory (`ktool lab` does it by itself for emulated machines): what takes seconds there
    is done once for all machines of one kind. A machine that is part of a cluster is left as it is.
    """
    run(_preload(session, **options))


async def _preload(session: Session, *, control_plane: bool, agent: bool, supervisor: str, output: str | None) -> None:
    if not agent and not control_plane:
        raise click.UsageError("--no-agent wants --control-plane: found neither agent nor master")
    from provision.local_cluster.config import AGENT, MASTER, LocalClusterConfig
    from provision.local_cluster.preparation import preload

    roles = frozenset(({MASTER} if control_plane else set()) | ({AGENT} if agent else set()))
    with reporting(output) as (progress, _):
        config = LocalClusterConfig(data_dir=session.data_dir, roles=roles, supervisor=supervisor)
        loaded = await preload(config, progress)
    if not output:
        said = "\nLoaded; waiting for `ktool up` or `ktool join`."
        click.echo(said if loaded else "This machine is part of a cluster (or was): it is left as it is.")
