"""Ansible's roles on a lab's machines, told as the lab's steps.

The machines that need nothing are known to Ansible (a token for a worker is made on the master), but nothing is done
on them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision.ansible.events import RunEvent, RunResult, TaskState
from provision.ansible.hosts import Host, of_machine
from provision.ansible.run import run
from provision.bundle.archive import Archive, ArchiveRole
from provision.facts.probe import APPLIED, APPLIED_BALANCER
from provision.lab.events import Doing, LabJournal, LabProgress, LabStep, doing
from provision.lab.marks import leave
from provision.lab.open_lab import OpenLab
from provision.lab.plan import Wanted


@dataclass(slots=True)
class Applied:
    """What the roles did on a machine, in words; what remains there; why it failed."""

    did: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    error: KtoolError | None = None


async def apply(
    open_lab: OpenLab,
    wants: Mapping[str, Wanted],
    archives: Mapping[ArchiveRole, Archive],
    todo: Mapping[str, Sequence[str]],
    *,
    progress: LabProgress,
    journal: LabJournal,
    sockets: Path | None = None,
) -> dict[str, Applied]:
    """Run the roles on the machines of `todo` (which maps to what is missing there, in words); all must have been
    reached, and the master too. A machine's failure is in its result. `sockets`: see provision.ansible.run."""
    ended = await _run(
        open_lab,
        "site",
        wants,
        list(todo),
        step=LabStep.INSTALL,
        archives=[archives[role] for role in ArchiveRole],
        progress=progress,
        journal=journal,
        sockets=sockets,
    )
    _require_master(open_lab, ended)
    # Only a machine on which everything went well needs no second look.
    well = [name for name, one in ended.items() if one.error is None]
    await asyncio.gather(*(asyncio.to_thread(_note, open_lab, name, wants[name]) for name in well))
    for name in well:
        if ended[name].did and todo[name]:
            ended[name].did = list(todo[name])
    return ended


async def reset(
    open_lab: OpenLab, names: Sequence[str], *, progress: LabProgress, journal: LabJournal, leave: bool = True
) -> dict[str, Applied]:
    """Undo on machines what ktool did to them; they must have been reached. `leave`: a master is taken out of the etcd
    of those that stay, or refuses."""
    return await _run(
        open_lab,
        "reset",
        {},
        names,
        step=LabStep.RESET,
        archives=[],
        progress=progress,
        journal=journal,
        extra={"ktool_leave": leave},
    )


def _require_master(open_lab: OpenLab, ended: Mapping[str, Applied]) -> None:
    """Ansible ends where all masters have failed, and says of the nodes that come after them that all went well."""
    machines = {machine.name: machine for machine in open_lab.lab.machines}
    failures = [one.error for name, one in ended.items() if machines[name].is_master]
    if not failures or None in failures:
        return
    for name, one in ended.items():
        if one.error is None and machines[name].runs_agent:
            one.error = KtoolError(
                f"{name}: there is no master to join",
                found=str(failures[0]),
                wanted="a master that works",
                mend="mend the master, then run the same command again",
            )


def hosts(open_lab: OpenLab, wants: Mapping[str, Wanted]) -> list[Host]:
    """The reached machines as Ansible has them."""
    lab = open_lab.lab
    server = open_lab.balanced_server
    found = []
    for machine in lab.machines:
        if machine.name not in open_lab.facts:
            continue
        want = wants.get(machine.name)
        found.append(
            of_machine(
                lab,
                machine,
                open_lab.endpoints[machine.name],
                address=open_lab.address(machine),
                server=server,
                master=open_lab.master.name,
                backends=open_lab.backends,
                tls_sans=want.tls_sans if want else (),
                facts=open_lab.facts[machine.name],
            )
        )
    return found


async def _run(
    open_lab: OpenLab,
    playbook: str,
    wants: Mapping[str, Wanted],
    names: Sequence[str],
    *,
    step: LabStep,
    archives: Sequence[Archive],
    progress: LabProgress,
    journal: LabJournal,
    extra: Mapping[str, Any] | None = None,
    sockets: Path | None = None,
) -> dict[str, Applied]:
    if not names:
        return {}  # no limit at all would be every machine
    ended = {name: Applied() for name in names}
    cancel = threading.Event()
    stacks = {name: ExitStack() for name in names}
    steps = {name: stacks[name].enter_context(doing(progress, journal, name, step)) for name in names}
    try:
        result = await asyncio.to_thread(
            run,
            playbook,
            hosts(open_lab, wants),
            state=open_lab.state,
            extra_vars=extra,
            on_event=lambda event: _tell(steps, event),
            archives=archives,
            limit=list(names),
            forks=open_lab.lab.forks,
            cancel=cancel,
            sockets=sockets,
        )
    except BaseException as error:
        cancel.set()
        _close(stacks, dict.fromkeys(names, error))
        if isinstance(error, KtoolError):
            return {name: Applied(error=error) for name in names}
        raise
    failures: dict[str, BaseException] = {}
    for name, one in ended.items():
        _take(name, one, result)
        steps[name].changed = bool(one.did)
        steps[name].result = "; ".join(one.did) or "as it should be"
        if one.error is not None:
            failures[name] = one.error
    _close(stacks, failures)
    return ended


def _take(name: str, applied: Applied, result: RunResult) -> None:
    host = result.hosts.get(name)
    if host is None:
        applied.error = KtoolError(f"{name}: Ansible did nothing there", found=f"see {result.log}")
        return
    applied.error = host.error(name)
    applied.did += host.did
    applied.remains += host.remains
    if host.changed and not applied.did:
        applied.did.append(f"{host.changed} of {host.ok} tasks changed something")


def _tell(steps: Mapping[str, Doing], event: RunEvent) -> None:
    step = steps.get(event.host)
    if step is None:
        return
    if event.state is TaskState.STARTED:
        step.report(event.task)
    elif event.message:
        step.report(f"{event.task}: {event.message}")


def _close(stacks: Mapping[str, ExitStack], failures: Mapping[str, BaseException]) -> None:
    """End each machine's step, well or with its failure."""
    for name, stack in stacks.items():
        error = failures.get(name)
        try:
            if error is None:
                stack.close()
            else:
                stack.__exit__(type(error), error, error.__traceback__)
        except BaseException as raised:
            if raised is not error:
                raise


def _note(open_lab: OpenLab, name: str, want: Wanted) -> None:
    """Leave the digest of what was applied on the machine."""
    if want.services:
        path = APPLIED if want.has_runtime else APPLIED_BALANCER
        leave(open_lab.connections[name], want.digest, path)
