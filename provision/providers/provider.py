"""What every provider can do.

A provider's methods are idempotent and take a call again after a crash at any point: they look first and do what is
missing. What a provider makes it tags as ktool's and as this lab's, and only what carries the tag is ever removed.
Methods block (they run in worker threads, for several machines side by side); `report` takes one line about what goes
on and may be called often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from provision.inventory.lab import Machine
from provision.ssh.endpoint import Endpoint

Report = Callable[[str], None]


class MachineState(StrEnum):
    """What a machine is doing."""

    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    BROKEN = "broken"  # half made: create() mends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A machine as the provider sees it. `differences` says in words where it is not what the inventory wants
    ("memory: 512 MiB, wanted 1024 MiB"); `known` is False for one that the inventory does not have (any more)."""

    name: str
    state: MachineState
    address: str = ""
    differences: tuple[str, ...] = ()
    known: bool = True


class Provider(Protocol):
    """Makes machines of one kind for one lab (given when it is built, as is the lab's state directory)."""

    def find(self) -> list[Found]:
        """Every machine of the lab: one for each of the inventory's machines of this provider, in its order, then
        those that carry the lab's tag without being in the inventory. Reads only."""
        ...

    def prepare(self, machines: Sequence[Machine], report: Report) -> bool:
        """Have ready what the machines share: images and networks. True if something had to be made."""
        ...

    def create(self, machine: Machine, report: Report) -> bool:
        """Have the machine made and running; True if something had to be done."""
        ...

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """Where the running machine answers SSH, with its host key pinned where the provider can know it.

        Waits up to `timeout` seconds for address and key. KtoolError with a diagnosis if they do not come.
        """
        ...

    def diagnose(self, machine: Machine) -> str:
        """What can be seen of a machine from outside: leases, the console's last lines. May be empty."""
        ...

    def stop(self, machine: Machine, report: Report) -> bool:
        """Shut the machine down (bounded, then by force); True if it was running."""
        ...

    def remove(self, name: str, report: Report) -> bool:
        """Remove a machine of the lab, with its disks; True if there was one."""
        ...

    def cleanup(self, report: Report) -> list[str]:
        """Remove what the lab's machines shared once none is left (networks, not the cache of images); what was
        removed, in words."""
        ...

    def snapshot(self, machine: Machine, name: str, report: Report) -> None:
        """Keep the machine's present state under a name. KtoolError where the provider has no snapshots."""
        ...

    def restore(self, machine: Machine, name: str, report: Report) -> None:
        """Bring a snapshot back. KtoolError if there is none of that name, which lists those there are."""
        ...

    def snapshots(self, machine: Machine) -> list[str]:
        """Names of the machine's snapshots."""
        ...
