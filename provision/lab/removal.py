"""Taking one machine out of a lab: its pods move away, its Node goes, ktool goes from it, and what ktool made goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from kube import removed_nodes
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.models import core_v1
from kube.status import ApiError
from provision import lock
from provision.inventory.lab import Lab, Machine, ProviderName
from provision.lab import apply, cluster, drain, etcd
from provision.lab.errors import machine_errors
from provision.lab.events import LabJournal, LabProgress, LabStep, doing
from provision.lab.open_lab import LOOK_SECONDS, NO_PASSWORDS, OpenLab, Passwords, opened
from provision.lab.ownership import is_bare, pin_of, stranger
from provision.lab.plan import MAKING
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalOptions:
    """How a machine is taken out: `drain_timeout` in seconds; `force` goes on where pods would be lost, or where the
    machine does not answer any more; `keep_machine` clears it and lets it be."""

    drain_timeout: float = 300.0
    force: bool = False
    keep_machine: bool = False
    passwords: Passwords = NO_PASSWORDS


@dataclass(slots=True)
class Removed:
    """What was done, and what remains, in words."""

    did: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)


async def remove_machine(
    lab: Lab,
    state: LabState,
    name: str,
    progress: LabProgress = lambda event: None,
    options: RemovalOptions = RemovalOptions(),
) -> Removed:
    """Take a machine out of its lab; it need not be in the inventory any more. KtoolError if it is the only master, or
    one without which etcd would lose its quorum; if there is no such machine, or where a step fails (a second call goes
    on)."""
    machine = lab.machine(name)
    if machine is not None and machine.is_master and len(lab.masters) == 1:
        raise KtoolError(
            f"{name} is the lab's master",
            found="the only one: the cluster lives there",
            wanted="a worker",
            mend=f"ktool lab destroy -i {lab.source} removes the whole lab",
        )
    result = Removed()
    with lock.held(state.path):
        async with opened(lab, state, passwords=options.passwords) as open_lab:
            with machine_errors(name):
                await _Removal(open_lab, name, progress, options, result).run()
    return result


class _Removal:
    def __init__(
        self, open_lab: OpenLab, name: str, progress: LabProgress, options: RemovalOptions, result: Removed
    ) -> None:
        self._open = open_lab
        self._name = name
        self._progress = progress
        self._options = options
        self._result = result
        self._journal = LabJournal(open_lab.state.journal)
        self._absent = False  # its provider has no such machine (any more)

    async def run(self) -> None:
        # It may be there twice: made by one provider, before the inventory named another.
        found = [one for one in (await self._open.find()).values() if one.name == self._name]
        machine = self._open.lab.machine(self._name)
        # What others are asked by must not be what goes.
        self._open.passed_over = self._name
        self._absent = bool(found) and all(one.state is MachineState.ABSENT for one in found)
        is_master = await self._may_leave(machine, found)
        had_node = await self._drain()
        if not found and not had_node:
            raise KtoolError(
                f"there is no machine {self._name}",
                found="neither in the inventory, nor made for this lab, nor a node of its cluster",
                wanted=", ".join(m.name for m in self._open.lab.machines),
            )
        if is_master:
            with doing(self._progress, self._journal, self._name, LabStep.RESET) as step:
                left = await etcd.remove(self._open, self._name)
                step.changed, step.result = bool(left), left or "is no member of etcd"
            self._result.did += [left] if left else []
        made = machine is None or machine.provider in MAKING
        if machine is not None and (not made or self._options.keep_machine):
            await self._clear()
        if not self._options.keep_machine and any(
            one.state is not MachineState.ABSENT and (made or not one.known) for one in found
        ):
            await self._remove()
        if machine is None and not found and (is_master or not self._result.did):
            reset = "ktool reset --no-leave" if is_master else "ktool reset"
            self._result.remains.append(f"ktool on {self._name}, which the inventory does not have: `{reset}` there")
        if had_node:
            # Not before: an agent that still runs registers its Node again.
            await self._delete_node()
        self._journal.forget(self._name)

    async def _may_leave(self, machine: Machine | None, found: Sequence[Found]) -> bool:
        """Whether it is a master, or was one when it was in the inventory: then its vote in etcd is to go first.

        KtoolError where the others could not go on without it.
        """
        if not self._open.state.kubeconfig.exists() or (machine is not None and not machine.is_master):
            return False
        if machine is None:
            try:
                await self._open.master_connection()
            except KtoolError:
                if not self._options.force:
                    raise
                return False
            if not self._open.facts[self._open.master.name].services.get("etcd"):
                return False
        try:
            members = await etcd.members(self._open)
        except KtoolError as error:
            self._require_lost(error, gone=await self._is_gone(machine, found))
            return False
        etcd.require_leave(members, self._name)
        return machine is not None or self._name in {one.name for one in members}

    async def _is_gone(self, machine: Machine | None, found: Sequence[Found]) -> bool:
        """Whether there is no machine any more, or none within reach that ktool would clear or remove."""
        if machine is None or machine.provider in MAKING:
            return self._absent or not found
        try:
            await self._open.reach(machine, lambda line: None, timeout=LOOK_SECONDS)
        except KtoolError:
            return True
        return False

    def _require_lost(self, error: KtoolError, *, gone: bool) -> None:
        """KtoolError where no other master can say what would become of the cluster without this one; but with `force`
        a machine may be forgotten that is gone already."""
        source = self._open.lab.source
        if not gone:
            raise KtoolError(
                f"{self._name} is a master, and no other one can say whether they can do without it",
                found=error.found or str(error),
                wanted="another master that serves: this one may have all that is left of the cluster's state",
                mend=f"bring the others back (ktool lab create -i {source}); what the last one has can be saved as "
                f"docs/masters.md says; ktool lab destroy -i {source} gives all of it up",
            ) from error
        if not self._options.force:
            raise KtoolError(
                f"no other master can take {self._name} out of etcd",
                found=error.found or str(error),
                wanted="a majority of masters that serve",
                mend=f"bring them back (ktool lab create -i {source}); --force takes the machine out all the same",
            ) from error
        self._result.remains.append(
            f"its member in etcd, as no master answers: once one does, `ktool etcd remove {self._name}` there"
        )

    async def _drain(self) -> bool:
        """Move the pods away; True if there is a Node. With `force`, where nobody can be asked it stays."""
        if not self._open.state.kubeconfig.exists():
            return False
        try:
            return await self._drain_by_api()
        except (drain.PodsWouldBeLost, drain.DrainTimedOut):
            raise
        except (KtoolError, ApiError, ConnectionError, TimeoutError) as error:
            source = self._open.lab.source
            found = str(error) or type(error).__name__
            if not self._options.force:
                raise KtoolError(
                    f"the cluster cannot be asked to do without {self._name}",
                    found=found,
                    wanted="an API server that moves its pods away and forgets its node",
                    mend=f"see why (ktool lab status -i {source}), bring it back (ktool lab create -i {source}); "
                    f"--force takes the machine out all the same, and leaves its Node",
                ) from error
            self._result.remains.append(
                f"the Node {self._name}, as no API server answers ({found}): once one does, "
                f"`ktool node remove {self._name} -i {source}` again"
            )
            return False

    async def _drain_by_api(self) -> bool:
        state = self._open.state
        master = await self._open.master_connection()
        async with cluster.connected(state, master, port=self._open.lab.api_port) as client:
            views = await cluster.nodes(client)
            if self._name not in views:
                return False
            # Its Node may still be Ready: nobody has missed it for long enough.
            ends_pods = views[self._name].ready and not self._absent
            with doing(self._progress, self._journal, self._name, LabStep.DRAIN) as step:
                try:
                    gone = await drain.drain(
                        client,
                        self._name,
                        timeout=self._options.drain_timeout if ends_pods else 5.0,
                        force=self._options.force,
                        report=step.report,
                    )
                except drain.DrainTimedOut:
                    # A node that is gone for good never tells that its pods have ended.
                    if not self._options.force and ends_pods:
                        raise
                    gone = []
                step.result = f"{len(gone)} pods moved away"
        self._result.did.append(f"{len(gone)} pods moved away")
        return True

    async def _remove(self) -> None:
        """Have every provider that makes machines remove its own of that name."""
        with doing(self._progress, self._journal, self._name, LabStep.REMOVE, result="removed") as step:
            for name, provider in self._open.providers.items():
                if name in MAKING and await asyncio.to_thread(provider.remove, self._name, step.report):
                    off = name is ProviderName.REDFISH
                    self._result.did.append("machine switched off" if off else "machine removed, with its disks")

    async def _delete_node(self) -> None:
        master = await self._open.master_connection()
        async with cluster.connected(self._open.state, master, port=self._open.lab.api_port) as client:
            # First: the machine may live, with a certificate that is good for a year, and register itself again.
            await removed_nodes.note(client, self._name, clock=SystemClock())
            try:
                await client.delete(core_v1.Node, self._name)
            except ApiError as error:
                if error.code != 404:
                    raise
        self._result.did.append("node deleted, its certificates refused")

    async def _clear(self) -> None:
        """Undo on the machine what ktool did to it."""
        machine = self._open.lab.machine(self._name)
        assert machine is not None
        try:
            facts = await self._open.reach(machine, lambda line: None, timeout=LOOK_SECONDS)
        except KtoolError:
            if not self._options.force:
                raise
            self._result.remains.append(f"ktool on {self._name}, which does not answer: `ktool reset` on it undoes it")
            return
        state = self._open.state
        if foreign := stranger(self._name, facts, lab_id=state.id, ca_pin=pin_of(state.kubeconfig)):
            raise foreign
        if is_bare(facts):
            return
        # A master's member of etcd has been taken out by now.
        ended = await apply.reset(
            self._open, [self._name], progress=self._progress, journal=self._journal, leave=not machine.is_master
        )
        if (error := ended[self._name].error) is not None:
            raise error
        self._result.did += ended[self._name].did
        self._result.remains += ended[self._name].remains
