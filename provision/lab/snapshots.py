"""Snapshots of a lab: the state of its machines, all under one name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from kube.errors import KtoolError
from provision import lock
from provision.inventory.lab import Lab, Machine
from provision.lab.events import LabJournal, LabProgress, LabStep, doing
from provision.lab.open_lab import NO_PASSWORDS, Passwords, opened
from provision.lab.plan import MAKING
from provision.lab_state import LabState


def _made(lab: Lab, only: Collection[str]) -> list[Machine]:
    """The machines that can have snapshots. KtoolError if there are none."""
    found = [m for m in lab.machines if m.provider in MAKING and (not only or m.name in only)]
    if not found:
        raise KtoolError(
            "these machines have no snapshots",
            found=", ".join(f"{m.name} ({m.provider})" for m in lab.machines),
            wanted="machines that ktool makes (libvirt, nspawn)",
        )
    return found


async def list_snapshots(
    lab: Lab, state: LabState, only: Collection[str] = (), passwords: Passwords = NO_PASSWORDS
) -> dict[str, list[str]]:
    """Names of the snapshots of each machine."""
    async with opened(lab, state, passwords=passwords) as open_lab:
        machines = _made(lab, only)
        names = await asyncio.gather(*(asyncio.to_thread(open_lab.provider(m).snapshots, m) for m in machines))
        return dict(zip((m.name for m in machines), names, strict=True))


async def snapshot(
    lab: Lab,
    state: LabState,
    name: str,
    only: Collection[str],
    progress: LabProgress,
    passwords: Passwords = NO_PASSWORDS,
) -> None:
    """Keep the present state of the machines. KtoolError from the first machine that fails, after all were tried."""
    await _each(lab, state, name, only, progress, passwords, step=LabStep.SNAPSHOT)


async def restore(
    lab: Lab,
    state: LabState,
    name: str,
    only: Collection[str],
    progress: LabProgress,
    passwords: Passwords = NO_PASSWORDS,
) -> None:
    """Bring a kept state back on all machines. KtoolError, before anything is changed, if one does not have it."""
    missing = [m for m, names in (await list_snapshots(lab, state, only, passwords)).items() if name not in names]
    if missing:
        raise KtoolError(
            f"there is no snapshot {name!r}",
            found=f"none on {', '.join(missing)}",
            wanted="one on every machine",
            mend=f"ktool lab snapshot -i {lab.source} lists what there is",
        )
    await _each(lab, state, name, only, progress, passwords, step=LabStep.RESTORE)


async def _each(
    lab: Lab,
    state: LabState,
    name: str,
    only: Collection[str],
    progress: LabProgress,
    passwords: Passwords,
    *,
    step: LabStep,
) -> None:
    with lock.held(state.path):
        journal = LabJournal(state.journal)
        async with opened(lab, state, passwords=passwords) as open_lab:

            async def one(machine: Machine) -> None:
                provider = open_lab.provider(machine)
                act = provider.snapshot if step is LabStep.SNAPSHOT else provider.restore
                with doing(progress, journal, machine.name, step, result=name) as it:
                    await asyncio.to_thread(act, machine, name, it.report)

            ended = await asyncio.gather(*(one(m) for m in _made(lab, only)), return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException):
            raise error
