"""`ktool down`"""

from __future__ import annotations

from pathlib import Path

import click

from ktool.commands.up import local_config
from ktool.session import Session, pass_session, run


@click.command("down")
@click.option("--keep-data", is_flag=True, help="Keep the cluster's state (store, certificates) for a later `up`.")
@click.option("--docker-socket", type=click.Path(path_type=Path), help="As given to `up`.")
@click.option("--docker-root", type=click.Path(path_type=Path), help="As given to `up`.")
@click.option(
    "--supervisor", type=click.Choice(("auto", "systemd", "supervisord")), default="auto", help="As given to `up`."
)
@pass_session
def command(
    session: Session, keep_data: bool, docker_socket: Path | None, docker_root: Path | None, supervisor: str
) -> None:
    """Remove the cluster from this machine: containers, networks, rules, mounts, processes, state.

    Only what ktool made is removed; what should remain is told. Running it again is fine.
    """
    from ktool.output.progress import shown
    from provision import local_cluster

    config = local_config(session, docker_socket=docker_socket, docker_root=docker_root, supervisor=supervisor)
    with shown() as progress:
        removal = run(local_cluster.down(config, keep_data=keep_data, progress=progress))
    for item in removal.kept:
        click.echo(f"kept: {item}")
    for finding in removal.remaining:
        click.secho(f"left: {finding.what}", fg="red", err=True)
        for name in ("found", "wanted", "mend"):
            if text := getattr(finding, name):
                click.echo(f"  {name}: {text}", err=True)
    if removal.remaining:
        raise SystemExit(1)
    if not removal.kept:
        click.echo("Nothing of the cluster is left." if removal.removed else "There was nothing to remove.")
