"""`ktool reset`"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from ktool.commands.up import local_config
from ktool.output.progress import shown
from ktool.session import Session, pass_session, run

RUNTIMES = Path("/opt/ktool")
PACKAGES = ("dockerd", "nft", "conntrack", "haproxy", "etcd")


@click.command("reset")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--leave/--no-leave",
    default=True,
    help="Whether one of several masters is taken out of their etcd first [default: it is]. Not where all of them go.",
)
@pass_session
def command(session: Session, yes: bool, leave: bool) -> None:
    """Undo on this machine what ktool recorded that it did, and tell what remains.

    As `ktool down`, for machines that somebody else's `ktool lab create` made part of a cluster; works without it.
    Exit status 1 if something could not be undone.
    """
    from provision.local_cluster.removal import down

    if not yes:
        click.confirm("Take the cluster's part, its pods and its data off this machine?", abort=True)
    with shown() as progress:
        removal = run(down(local_config(session), leave=leave, progress=progress))
    for text in removal.removed:
        click.echo(f"undone: {text}")
    for finding in removal.remaining:
        click.secho(f"could not be undone: {finding}", fg="red", err=True)
    for text in remains():
        click.echo(f"remains: {text}")
    if removal.node_name:
        click.echo(f"The cluster still knows this machine: kubectl delete node {removal.node_name}")
    raise SystemExit(1 if removal.remaining else 0)


def remains(runtimes: Path = RUNTIMES) -> list[str]:
    """What ktool does not take away, with what would: programs that others may use by now, and itself."""
    found = []
    if runtimes.is_dir():
        found.append(f"ktool itself in {runtimes}: rm -r {runtimes} /usr/local/bin/ktool")
    there = [name for name in PACKAGES if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")]
    if there:
        found.append(f"programs from packages, in case nobody else uses them: {', '.join(there)}")
    return found
