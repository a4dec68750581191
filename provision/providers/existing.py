"""What providers of machines that exist have in common: they neither make nor remove anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, ProviderName
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState, Report


class ExistingMachines:
    """The part of a Provider for which there is nothing to do."""

    name: ProviderName

    def __init__(self, lab: Lab, state: LabState) -> None:
        self._lab = lab
        self._state = state

    @property
    def _machines(self) -> list[Machine]:
        return [machine for machine in self._lab.machines if machine.provider is self.name]

    def find(self) -> list[Found]:
        """They are there; whether they answer is seen when they are reached."""
        return [
            Found(name=machine.name, state=MachineState.RUNNING, address=machine.ssh.address or machine.address)
            for machine in self._machines
        ]

    def prepare(self, machines: Sequence[Machine], report: Report) -> bool:
        """Nothing to prepare."""
        return False

    def create(self, machine: Machine, report: Report) -> bool:
        """Nothing to make."""
        return False

    def diagnose(self, machine: Machine) -> str:
        """Nothing can be seen from outside."""
        return ""

    def stop(self, machine: Machine, report: Report) -> bool:
        """They are not ktool's to stop."""
        return False

    def remove(self, name: str, report: Report) -> bool:
        """They are not ktool's to remove."""
        return False

    def cleanup(self, report: Report) -> list[str]:
        """Nothing was made."""
        return []

    def snapshot(self, machine: Machine, name: str, report: Report) -> None:
        """KtoolError: there are none."""
        self._no_snapshots(machine)

    def restore(self, machine: Machine, name: str, report: Report) -> None:
        """KtoolError: there are none."""
        self._no_snapshots(machine)

    def snapshots(self, machine: Machine) -> list[str]:
        """None."""
        return []

    def _no_snapshots(self, machine: Machine) -> NoReturn:
        raise KtoolError(
            f"{machine.name}: machines that ktool did not make have no snapshots",
            found=f"ktool_provider: {self.name}",
            wanted="a machine of the provider libvirt or nspawn",
            mend="leave it out with --limit",
        )
