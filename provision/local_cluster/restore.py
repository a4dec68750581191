"""`ktool restore`: a cluster as it was when a backup was made, on this machine.

    backup checked → other masters out of the way? → agent, master, etcd stopped → old store moved aside → the cluster's
    keys, where they are missing → objects into a new store → what ran before is started again

Nothing is stopped before the whole backup has been read. What the store held before stays beside it
(`REPLACED`) until the next restore, and comes back if the objects cannot be written. Where nothing ran before (a bare
machine) `ktool up` does the rest. The new store begins with one member of etcd: other masters join it anew.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kube import pki
from kube.errors import KtoolError
from kube.files import write_atomic, write_secret
from provision import backup_file, data_dir, lock, machine
from provision.backup_file import Backup
from provision.journal import ChangeKind, Journal
from provision.local_cluster.config import AGENT, ETCD, MASTER, LocalClusterConfig
from provision.progress import Progress, Step, step
from provision.services.detect import detect
from provision.services.service import ServiceSupervisor

if TYPE_CHECKING:
    from kube.client import Client

# What the store held before the last restore.
REPLACED = "replaced"
_STORES = ("store", "etcd", "etcd.yml")
# How long this machine's etcd may take to say who else is a member.
ASK_SECONDS = 15.0

Load = Callable[[LocalClusterConfig, Iterable[bytes]], Awaitable[int]]
"""Writes objects into the store of that cluster, which is new; how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored: how many objects, of when, into which engine; whether the cluster runs again by itself."""

    objects: int
    made: str
    store: str
    running: bool
    replaced: Path | None


async def restore(
    config: LocalClusterConfig, path: Path, load: Load, progress: Progress = lambda event: None
) -> Restored:
    """Have this machine's master serve what the backup in `path` holds; `config.store` empty means the backup's engine.

    KtoolError with the machine untouched if the backup is not whole, is another cluster's than this machine's, or other
    masters serve what there is now.
    """
    async with step(progress, "backup", "Reading the backup") as doing:
        backup = await asyncio.to_thread(backup_file.check, path)
        header = backup.header
        doing.unchanged(f"{header.objects} objects of {header.made}, from {header.node}")
    config = replace(config, store=config.store or header.store)
    supervisor = detect(config.data_dir, wanted=config.supervisor)
    services = _services(config, supervisor)
    _check(config, backup, services)
    with lock.held(config.data_dir):
        if config.store_there == ETCD:
            await _require_alone(config, supervisor, services)
        return await _Restore(config, supervisor, path, load, progress, services).run()


def _services(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> list[str]:
    """What runs here, or did; not what was started ahead, and serves nothing until `up` tells it what."""
    from provision.local_cluster import steps

    there = [name for name in (ETCD, MASTER, AGENT) if name in supervisor.names()]
    return [name for name in there if name == ETCD or not steps.waits(config, supervisor, name)]


def _check(config: LocalClusterConfig, backup: Backup, services: list[str]) -> None:
    if os.geteuid() != 0:
        raise KtoolError(
            "ktool restore needs root", found=f"user id {os.geteuid()}", wanted="root", mend="sudo ktool restore FILE"
        )
    there = data_dir.read_state(config.data_dir)
    if there.exists and not there.empty and there.version is None:
        raise KtoolError(
            f"{config.data_dir} holds something that is not ktool's", wanted="ktool's data directory, or none"
        )
    for certificate in (config.ca_certificate, config.agent_ca_certificate):
        if certificate.exists() and (pin := pki.ca_pin(pki.load_cert(certificate))) != backup.header.ca:
            raise KtoolError(
                "this machine belongs to another cluster than the backup",
                found=f"the CA {pin} in {certificate}",
                wanted=f"no cluster, or the one with the CA {backup.header.ca}",
                mend="take it out of that cluster first: ktool down --no-leave",
            )
    if services and config.store_there and config.store != config.store_there:
        raise KtoolError(
            f"the master here runs with {config.store_there}, and the store is to become {config.store}",
            found=", ".join(services),
            wanted="a machine on which no service of ktool's runs",
            mend=f"ktool down --keep-data, restore, then ktool up --store {config.store}",
        )
    if config.store == ETCD and not machine.find_command("etcd"):
        from provision.local_cluster.steps import missing_etcd

        raise missing_etcd()


async def _require_alone(config: LocalClusterConfig, supervisor: ServiceSupervisor, services: list[str]) -> None:
    """KtoolError if other members of etcd are well: they would go on with the state that is to be replaced."""
    from provision.etcd.client import NoEtcd
    from provision.local_cluster import etcd

    if ETCD not in services:
        return
    if not (await asyncio.to_thread(supervisor.status, ETCD)).running:
        await asyncio.to_thread(supervisor.start, ETCD)
    deadline = time.monotonic() + ASK_SECONDS
    while True:
        try:
            found, healthy = await etcd.members(config)
            break
        except NoEtcd:
            if time.monotonic() > deadline:
                return  # it is beyond telling, which is why somebody restores
        await asyncio.sleep(etcd.PAUSE_SECONDS)
    own = etcd.own_name(config)
    others = [one.name or one.id for one in found if one.id in healthy and one.name != own]
    if others:
        raise KtoolError(
            "other masters serve what is to be replaced",
            found=f"members of etcd that are well: {', '.join(others)}",
            wanted="none but this machine's",
            mend="on each of them: ktool down --no-leave; they join anew after the restore",
        )


class _Restore:
    def __init__(
        self,
        config: LocalClusterConfig,
        supervisor: ServiceSupervisor,
        path: Path,
        load: Load,
        progress: Progress,
        services: list[str],
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._path = path
        self._load = load
        self._progress = progress
        self._services = services
        self._journal = Journal(config.journal_file)

    async def run(self) -> Restored:
        config = self._config
        address = await asyncio.to_thread(self._address)
        async with step(self._progress, "stop", "Stopping agent, master and store") as doing:
            await asyncio.to_thread(self._stop)
            doing.result = ", ".join(self._services) or "nothing ran"
        async with step(self._progress, "files", "The old store, and the cluster's keys") as doing:
            replaced = await asyncio.to_thread(self._files, doing)
        try:
            if config.store == ETCD:
                from provision.local_cluster import etcd

                await etcd.begin(config, self._supervisor, self._journal, address, self._progress)
            async with step(self._progress, "objects", f"Objects into {config.store}") as doing:
                with self._path.open("rb") as source, backup_file.read(source, name=str(self._path)) as backup:
                    header = backup.header
                    count = await self._load(config, backup.objects)
                doing.result = f"{count} objects"
        except BaseException:
            await asyncio.to_thread(self._put_back, replaced)
            raise
        running = MASTER in self._services
        if running:
            await self._start()
        return Restored(objects=count, made=header.made, store=config.store, running=running, replaced=replaced)

    def _address(self) -> str:
        """Where other masters reach this one's etcd: as before, if it had one."""
        config = self._config
        if config.store != ETCD:
            return ""
        from provision.local_cluster import etcd

        address = config.node_address or etcd.own_address(config) or machine.node_address()
        if not address:
            raise KtoolError("this machine has no address that others could reach", mend="name one with --node-address")
        return address

    def _stop(self) -> None:
        for name in reversed(self._services):
            self._supervisor.stop(name)

    def _files(self, doing: Step) -> Path | None:
        config = self._config
        if not (config.data_dir / data_dir.VERSION_FILE).exists():
            self._journal.record(ChangeKind.DIRECTORY, str(config.data_dir))
        data_dir.create(config.data_dir, ktool_version=config.ktool_version)
        aside = config.data_dir / REPLACED
        there = [name for name in _STORES if (config.data_dir / name).exists()]
        if there:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700)
            for name in there:
                (config.data_dir / name).rename(aside / name)
        with self._path.open("rb") as source, backup_file.read(source, name=str(self._path)) as backup:
            for name, content in backup.files.items():
                path = config.data_dir / "pki" / name
                if not path.exists():
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    (write_secret if name.endswith(".key") else write_atomic)(path, content)
        doing.result = f"{', '.join(there)} moved to {aside}" if there else "there was no store"
        return aside if there else None

    def _put_back(self, replaced: Path | None) -> None:
        """The machine as it was, with what was begun instead taken away."""
        if self._config.store == ETCD and ETCD in self._supervisor.names():
            (self._supervisor.stop if ETCD in self._services else self._supervisor.remove)(ETCD)
        for name in _STORES:
            path = self._config.data_dir / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if replaced is not None and (replaced / name).exists():
                (replaced / name).rename(path)
        for name in self._services:
            self._supervisor.start(name)

    async def _start(self) -> None:
        config = self._config
        async with step(self._progress, MASTER, "Master") as doing, AsyncExitStack() as stack:
            from provision.local_cluster import waiting

            await asyncio.to_thread(self._supervisor.start, MASTER)
            answers: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            await waiting.for_api(config, self._supervisor, stack, answers)
            doing.result = f"{config.server} is ready"
        if AGENT in self._services:
            async with step(self._progress, AGENT, "Agent") as doing:
                await asyncio.to_thread(self._supervisor.start, AGENT)
                doing.result = "started"
