"""`lab destroy`: nothing of the lab is left, on this machine and on the lab's.

Machines that ktool made are removed with their disks and networks. Machines that were there before lose ktool and
what it changed, by their own journals (the role `reset`), and stay otherwise as they are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from kube.errors import KtoolError
from provision import lock
from provision.inventory.lab import Lab, Machine
from provision.lab import apply
from provision.lab.errors import machine_errors
from provision.lab.events import LabJournal, LabProgress, LabStep, doing
from provision.lab.open_lab import LOOK_SECONDS, NO_PASSWORDS, OpenLab, Passwords, opened
from provision.lab.ownership import is_bare, pin_of, stranger
from provision.lab.plan import MAKING
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState


@dataclass(slots=True)
class Destroyed:
    """What was removed, and what remains on machines that stay, in words; what could not be removed, by machine name,
    or "" for the lab as a whole."""

    removed: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    errors: dict[str, KtoolError] = field(default_factory=dict)


async def what_there_is(lab: Lab, state: LabState, passwords: Passwords = NO_PASSWORDS) -> list[Found]:
    """Machines that `destroy` would remove or clear."""
    async with opened(lab, state, passwords=passwords) as open_lab:
        return [one for one in (await open_lab.find()).values() if one.state is not MachineState.ABSENT]


async def destroy(
    lab: Lab,
    state: LabState,
    progress: LabProgress = lambda event: None,
    passwords: Passwords = NO_PASSWORDS,
) -> Destroyed:
    """Remove the lab. The state directory goes only when everything else has gone; a second run does the rest."""
    result = Destroyed()
    with lock.held(state.path):
        async with opened(lab, state, passwords=passwords) as open_lab:
            await _Destruction(open_lab, progress, result).run()
        if not result.errors:
            await asyncio.to_thread(state.remove)
    return result


class _Destruction:
    def __init__(self, open_lab: OpenLab, progress: LabProgress, result: Destroyed) -> None:
        self._open = open_lab
        self._progress = progress
        self._result = result
        self._journal = LabJournal(open_lab.state.journal)

    async def run(self) -> None:
        found = await self._open.find()
        foreign = [m for m in self._open.lab.machines if m.provider not in MAKING and m.name in found]
        made = {one.name: one for name, one in found.items() if name not in {m.name for m in foreign}}
        await asyncio.gather(self._reset(foreign), *(self._remove(one) for one in made.values()))
        for name, provider in self._open.providers.items():
            if name in MAKING and not any(one in self._result.errors for one in made):
                try:
                    self._result.removed += await asyncio.to_thread(provider.cleanup, lambda line: None)
                except KtoolError as error:
                    self._result.errors[""] = error

    async def _remove(self, found: Found) -> None:
        # All of them: the machine may have been another provider's before the inventory changed.
        providers = [provider for name, provider in self._open.providers.items() if name in MAKING]
        try:
            with (
                machine_errors(found.name),
                doing(self._progress, self._journal, found.name, LabStep.REMOVE) as step,
            ):
                step.changed = False
                for provider in providers:
                    step.changed |= await asyncio.to_thread(provider.remove, found.name, step.report)
                step.result = "removed" if step.changed else "was not there"
            self._journal.forget(found.name)
            if step.changed:
                self._result.removed.append(f"machine {found.name}")
        except KtoolError as error:
            self._result.errors[found.name] = error

    async def _reset(self, machines: list[Machine]) -> None:
        """Clear machines that were there before; those that cannot be reached, or are not this lab's, are errors."""
        state = self._open.state
        pin = pin_of(state.kubeconfig)
        reached = []
        for machine in machines:
            try:
                with machine_errors(machine.name), doing(self._progress, None, machine.name, LabStep.REACH) as step:
                    facts = await self._open.reach(machine, step.report, timeout=LOOK_SECONDS)
                    if foreign := stranger(machine.name, facts, lab_id=state.id, ca_pin=pin):
                        raise foreign
                    step.unchanged("nothing of ktool is there" if is_bare(facts) else "")
                if not is_bare(facts):
                    reached.append(machine.name)
            except KtoolError as error:
                self._result.errors[machine.name] = error
        if not reached:
            return
        for name, one in (
            await apply.reset(self._open, reached, progress=self._progress, journal=self._journal, leave=False)
        ).items():
            if one.error is not None:
                self._result.errors[name] = one.error
            else:
                self._journal.forget(name)
                self._result.removed += [f"{name}: {what}" for what in one.did]
                self._result.remains += [f"{name}: {what}" for what in one.remains]
