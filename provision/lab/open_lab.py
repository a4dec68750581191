"""A lab at hand: its providers, and connections to its machines that are opened once and used by every step.

What stands in the way of one machine is kept with that machine (`problems`) and never stops the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from kube.errors import KtoolError
from provision.facts.facts import RemoteFacts
from provision.facts.gather import gather
from provision.inventory.lab import Lab, Machine, ProviderName
from provision.lab.passwords import NO_PASSWORDS as NO_PASSWORDS
from provision.lab.passwords import Passwords as Passwords
from provision.lab.plan import Installed
from provision.lab_state import LabState
from provision.providers.factory import providers_for
from provision.providers.provider import Found, MachineState, Provider, Report
from provision.ssh.connection import Connection
from provision.ssh.endpoint import Endpoint
from provision.ssh.jump_hosts import JumpHosts
from provision.ssh.reach import reach
from provision.ssh.shell import Shell

# How long a machine that runs already may take to answer when nothing but a look is wanted.
LOOK_SECONDS = 20.0


class OpenLab:
    """One lab and everything that is open to it; made by `opened`."""

    def __init__(
        self, lab: Lab, state: LabState, *, layer: Path | None = None, passwords: Passwords = NO_PASSWORDS
    ) -> None:
        self.lab = lab
        self.state = state
        self._passwords = passwords
        self._jumps = JumpHosts()
        self.providers: Mapping[ProviderName, Provider] = providers_for(lab, state, layer=layer)
        self.endpoints: dict[str, Endpoint] = {}
        self.connections: dict[str, Shell] = {}
        self.facts: dict[str, RemoteFacts] = {}
        self.problems: dict[str, KtoolError] = {}
        self._found: dict[str, Found] = {}
        # A master that is being taken out, or upgraded: nothing is asked of it where there is another.
        self.passed_over = ""

    def provider(self, machine: Machine) -> Provider:
        """The provider of a machine."""
        return self.providers[machine.provider]

    @property
    def backends(self) -> dict[str, str]:
        """The addresses of the masters by name, also of those that are out of reach at the moment as far as inventory
        or provider tell: a load balancer is to know them when they come back."""
        known = {}
        for machine in self.lab.masters:
            found = self._found.get(machine.name)
            elsewhere = machine.address or (found.address if found else "") or machine.ssh.address
            known[machine.name] = self.address(machine) if machine.name in self.facts else elsewhere
        return {name: address for name, address in known.items() if address}

    async def find(self) -> dict[str, Found]:
        """Every machine as its provider sees it, the inventory's first; then those that it does not know. One that was
        made by another provider than the inventory's has that in its key: "NAME (PROVIDER)"."""
        looks = await asyncio.gather(*(asyncio.to_thread(p.find) for p in self.providers.values()))
        every = [(provider, one) for provider, several in zip(self.providers, looks, strict=True) for one in several]
        known = self._found = {one.name: one for _, one in every if one.known}
        extra = [(provider, one) for provider, one in every if not one.known]
        return {m.name: known[m.name] for m in self.lab.machines if m.name in known} | {
            f"{one.name} ({provider})" if one.name in known else one.name: one for provider, one in extra
        }

    async def reach(self, machine: Machine, report: Report, *, timeout: float) -> RemoteFacts:
        """Connect to a running machine and look at it. KtoolError if it does not answer within `timeout` seconds."""
        if machine.name in self.facts:
            return self.facts[machine.name]
        provider = self.provider(machine)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        endpoint = await asyncio.to_thread(provider.endpoint, machine, report, timeout=timeout)
        endpoint = self._passwords.given_to(endpoint)
        left = max(5.0, deadline - loop.time())
        connection = await asyncio.to_thread(reach, endpoint, timeout=left, report=report, jumps=self._jumps)
        self.connections[machine.name] = connection
        if isinstance(connection, Connection):
            # Ansible is to meet the very same machine, by whatever file its key was found to be right.
            endpoint = replace(endpoint, host_keys=(connection.host_key,))
        self.endpoints[machine.name] = endpoint
        return await self.look(machine)

    async def look(self, machine: Machine) -> RemoteFacts:
        """The facts of a connected machine, gathered anew."""
        facts = await asyncio.to_thread(gather, self.connections[machine.name])
        self.facts[machine.name] = facts
        return facts

    async def look_at_all(self, found: Mapping[str, Found], *, timeout: float = LOOK_SECONDS) -> None:
        """Reach every machine that runs; what fails is in `problems`."""

        async def one(machine: Machine) -> None:
            try:
                await self.reach(machine, lambda line: None, timeout=timeout)
            except KtoolError as error:
                self.problems[machine.name] = error

        running = [m for m in self.lab.machines if m.name in found and found[m.name].state is MachineState.RUNNING]
        await asyncio.gather(*(one(machine) for machine in running))

    @property
    def master(self) -> Machine:
        """The machine whose API server is asked, and by which others join: of several, one whose API server runs as
        far as is known by now; then one that has had a cluster; then the first that nothing speaks against."""
        staying = [machine for machine in self.lab.masters if machine.name != self.passed_over]
        return best_master(staying or self.lab.masters, self.facts, self.problems)

    async def master_connection(self) -> Shell:
        """A connection to a master, to one that serves if there is one. KtoolError if none can be reached."""
        failure: KtoolError | None = None
        for machine in self.lab.masters:
            if self._serves(self.master):
                break
            if machine.name in self.connections or machine.name == self.passed_over:
                continue
            try:
                await self.reach(machine, lambda line: None, timeout=LOOK_SECONDS)
            except KtoolError as error:
                failure = failure or error
        master = self.master
        if master.name not in self.connections:
            raise failure or self.problems[master.name]
        return self.connections[master.name]

    def _serves(self, machine: Machine) -> bool:
        facts = self.facts.get(machine.name)
        return facts is not None and (bool(facts.services.get("master")) or len(self.lab.masters) == 1)

    @property
    def balanced_server(self) -> str:
        """The API server's URL as machines of the lab reach it through its load balancer; empty where there is none
        (that has been reached)."""
        there = [machine for machine in self.lab.balancers if machine.name in self.facts]
        return f"https://{self.address(there[0])}:{self.lab.api_port}" if there else ""

    def address(self, machine: Machine) -> str:
        """The address at which the lab's other machines reach this one (it must have been reached)."""
        return self.facts[machine.name].address(machine.address)

    async def close(self) -> None:
        """Close all connections."""
        for connection in self.connections.values():
            with contextlib.suppress(KtoolError, OSError):
                await asyncio.to_thread(connection.close)
        self.connections.clear()
        await asyncio.to_thread(self._jumps.close)


def best_master(
    masters: Sequence[Machine], facts: Mapping[str, RemoteFacts], problems: Mapping[str, KtoolError]
) -> Machine:
    """See `OpenLab.master`."""

    def rank(machine: Machine) -> int:
        seen = facts.get(machine.name)
        if seen is not None and seen.services.get("master"):
            return 0
        if seen is not None and seen.has_master:
            return 1
        if machine.name in problems:
            return 4
        return 2 if seen is not None else 3

    return min(masters, key=rank)


def installed(facts: RemoteFacts) -> Installed:
    """What the facts say of ktool on the machine."""
    return Installed(
        runtime=facts.runtime_key,
        applied=facts.applied,
        services=frozenset(name for name, active in facts.services.items() if active),
    )


@asynccontextmanager
async def opened(
    lab: Lab, state: LabState, *, layer: Path | None = None, passwords: Passwords = NO_PASSWORDS
) -> AsyncIterator[OpenLab]:
    """A lab at hand while the block runs. KtoolError if the lab of that name is another inventory's: what is done is
    done to its machines."""
    state.require_source(lab.source)
    # Work on machines is waiting, in a thread for each; the loop's own default would be six of them here.
    pool = ThreadPoolExecutor(max_workers=max(8, 2 * len(lab.machines)), thread_name_prefix="lab")
    asyncio.get_running_loop().set_default_executor(pool)
    it = OpenLab(lab, state, layer=layer, passwords=passwords)
    try:
        yield it
    finally:
        await it.close()
