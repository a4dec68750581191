"""`ktool down`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ktool.commands.up import SUPERVISOR, local_config
from ktool.output.report import output_option, reporting
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from provision.local_cluster.removal import Removal


@click.command("down")
@click.option("--keep-data", is_flag=True, help="Keep the cluster's state (store, certificates) for a later `up`.")
@click.option(
    "--leave/--no-leave",
    default=True,
    help="Whether one of several masters is taken out of their etcd first [default: it is]. Not where all of them go.",
)
@click.option("--docker-socket", type=click.Path(path_type=Path), help="As given to `up`.")
@click.option("--docker-root", type=click.Path(path_type=Path), help="As given to `up`.")
@click.option("--supervisor", **SUPERVISOR, help="As given to `up`.")
@output_option
@pass_session
def command(session: Session, /, keep_data: bool, leave: bool, output: str | None, **paths: Any) -> None:
    """Remove the cluster, or this machine's part of one: containers, networks, rules, mounts, processes, state.

    Only what ktool made is removed; what should remain is told. Running it again is fine. A master that the others
    could not do without (etcd's quorum) stays.
    """
    from provision.local_cluster.removal import down

    with reporting(output) as (progress, report):
        config = local_config(session, **paths)
        removal = run(down(config, keep_data=keep_data, leave=leave, progress=progress))
        report.fields |= {
            "node": removal.node_name,
            "removed": removal.removed,
            "kept": removal.kept,
            "remaining": [
                {"what": one.what, "found": one.found, "wanted": one.wanted, "mend": one.mend}
                for one in removal.remaining
            ],
        }
    if not output:
        _tell(removal)
    if removal.remaining:
        raise SystemExit(1)


def _tell(removal: Removal) -> None:
    for item in removal.kept:
        click.echo(f"kept: {item}")
    for finding in removal.remaining:
        click.secho(f"left: {finding.what}", fg="red", err=True)
        for name in ("found", "wanted", "mend"):
            if text := getattr(finding, name):
                click.echo(f"  {name}: {text}", err=True)
    if not removal.remaining and not removal.kept:
        click.echo("Nothing of the cluster is left." if removal.removed else "There was nothing to remove.")
    if removal.node_name and removal.complete:
        click.echo(f"The cluster still knows this machine; its administrator: kubectl delete node {removal.node_name}")
