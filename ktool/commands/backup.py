"""`ktool backup`"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from ktool.session import Session, pass_session, run

if TYPE_CHECKING:
    from control.store.backup import Dumped
    from control.store.store import Store
    from provision.local_cluster.config import LocalClusterConfig


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_session
def command(session: Session, /, file: Path) -> None:
    """Write the cluster's state and keys into FILE (0600; `-`: standard output), while it runs. On a master, as root.

    \b
      ktool backup /var/backups/ktool.tar.gz
      ktool node ssh master-1 -i inventories/lab.yml 'ktool backup -' > lab.tar.gz

    All objects of one moment, from SQLite or etcd, and the keys that masters share: whoever has FILE has the cluster.
    Not in it: events, images, and what pods keep on their nodes. `ktool restore` brings it back, also into the other
    engine.
    """
    from ktool.commands.up import local_config

    config = local_config(session)
    if str(file) == "-":
        if sys.stdout.isatty():
            raise click.UsageError("a backup is nothing for a terminal: name a file, or redirect the output")
        dumped = run(_backup(config, sys.stdout.buffer))
        sys.stdout.buffer.flush()
    else:
        dumped = _into(file, config)
    click.echo(f"{dumped.objects} objects, at revision {dumped.revision}", err=str(file) == "-")


def _into(file: Path, config: LocalClusterConfig) -> Dumped:
    """A whole file or none: the one that was there stays until this one is written."""
    from kube.errors import KtoolError

    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)  # 0600
    except OSError as error:
        raise KtoolError("the backup cannot be written", found=f"{file}: {error.strerror or error}") from error
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            dumped = run(_backup(config, target))
            target.flush()
            os.fsync(target.fileno())
        beside.replace(file)
    except OSError as error:
        raise KtoolError("the backup cannot be written", found=f"{file}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return dumped


async def _backup(config: LocalClusterConfig, target: IO[bytes]) -> Dumped:
    from control.store.backup import dump
    from kube import pki, times
    from kube.clock import SystemClock
    from kube.errors import KtoolError
    from provision import backup_file

    files = backup_file.shared_files(config.data_dir / "pki")
    if not config.store_there:
        raise KtoolError(
            "there is no cluster here to back up",
            found=f"no store in {config.data_dir}",
            wanted="a machine with a master",
        )
    with (
        tempfile.TemporaryDirectory(prefix=".backup-", dir=config.data_dir) as folder,  # 0700
        (Path(folder) / "objects").open("w+b") as objects,
    ):
        async with _store(config, Path(folder)) as store:
            dumped = await dump(store, objects.write)
        header = backup_file.Header(
            made=times.now_rfc3339(SystemClock()),
            ktool=config.ktool_version,
            node=config.node_name,
            store=config.store_there,
            ca=pki.ca_pin(pki.parse_cert(files["ca.crt"], source="ca.crt")),
            objects=dumped.objects,
            revision=dumped.revision,
        )
        backup_file.write(target, header, files, objects)
    return dumped


@asynccontextmanager
async def _store(config: LocalClusterConfig, folder: Path) -> AsyncIterator[Store]:
    """The machine's store, beside a master that goes on with it."""
    from provision.local_cluster.config import ETCD

    if config.store_there == ETCD:
        store = await etcd_store(config)
    else:
        from control.store.sqlite import SqliteStore

        # The master's own is locked; a copy of it, as SQLite makes one from a file in use, is nobody's.
        copy = folder / "state.db"
        copy.touch(mode=0o600)
        _copy(config.data_dir / "store" / "state.db", copy)
        store = await SqliteStore.open(copy)
    try:
        yield store
    finally:
        await store.close()


def _copy(source: Path, target: Path) -> None:
    from contextlib import closing

    from kube.errors import KtoolError

    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise KtoolError(
            "the store cannot be read",
            found=f"{source}: {error}",
            wanted="a whole store",
            mend="restore an older backup",
        ) from error


async def etcd_store(config: LocalClusterConfig) -> Store:
    """The store in this machine's etcd."""
    from control.etcd_store import open_etcd
    from control.store.etcd.config import EtcdConfig, parse_endpoints
    from kube.clock import SystemClock
    from provision.etcd.settings import LOCAL

    certificates = config.etcd_certificates
    how = EtcdConfig(
        endpoints=parse_endpoints(LOCAL),
        ca=certificates.ca_cert,
        cert=certificates.client_cert,
        key=certificates.client_key,
    )
    return await open_etcd(how, SystemClock())
