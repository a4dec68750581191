"""`ktool restore`"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ktool.commands.up import SUPERVISOR, local_config
from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from provision.local_cluster.config import LocalClusterConfig
    from provision.local_cluster.restore import Restored


@click.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--store", type=click.Choice(("sqlite", "etcd")), help="The engine [default: the one of the backup].")
@click.option("--node-name", help="This machine's name in the cluster [default: its host name].")
@click.option("--node-address", default="", help="Where other masters reach its etcd [default: as before, or as `up`].")
@click.option("--supervisor", **SUPERVISOR, help="As given to `up`.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_session
def command(
    session: Session,
    /,
    file: Path,
    store: str | None,
    node_name: str | None,
    node_address: str,
    supervisor: str,
    yes: bool,
) -> None:
    """Have this machine's master serve what FILE holds (`-`: standard input), which `ktool backup` made. As root.

    What changed since then is gone; the store as it is stays in the data directory, under `replaced`. On a bare machine
    `ktool up` does the rest. Other masters have to be taken away first, and join anew.
    """
    from ktool.output.progress import shown
    from provision.local_cluster.restore import restore

    config = local_config(
        session, store=store, node_name=node_name, node_address=node_address, supervisor=supervisor, ready_timeout=120.0
    )
    if not yes and config.store_there:
        if str(file) == "-":
            raise click.UsageError("standard input is the backup: nobody can be asked, add --yes")
        click.confirm(f"Replace the state of the cluster in {config.data_dir} by {file}?", abort=True)
    with tempfile.TemporaryDirectory(prefix="ktool-restore-") as folder:  # 0700
        if str(file) == "-":
            file = Path(folder) / "backup"
            with file.open("wb") as target:
                shutil.copyfileobj(sys.stdin.buffer, target)
        with shown() as progress:
            restored = run(restore(config, file, _load, progress))
    _tell(restored)


async def _load(config: LocalClusterConfig, lines: Iterable[bytes]) -> int:
    from control.store.backup import load
    from control.store.store import Store
    from provision.local_cluster.config import ETCD

    store: Store
    if config.store == ETCD:
        from ktool.commands.backup import etcd_store

        store = await etcd_store(config)
    else:
        from control.store.sqlite import SqliteStore

        store = await SqliteStore.open(config.data_dir / "store" / "state.db")
    try:
        return await load(store, lines)
    finally:
        await store.close()


def _tell(restored: Restored) -> None:
    click.echo(f"{restored.objects} objects of {restored.made} are in {restored.store}.")
    if restored.replaced is not None:
        click.echo(f"What was there before: {restored.replaced}")
    if restored.running:
        click.echo("The cluster runs. On its other nodes: systemctl restart ktool-agent (pods run on).")
    else:
        click.echo(f"Next: ktool up --store {restored.store}, with the options that this master had.")
