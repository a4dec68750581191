"""This machine as a machine of a lab: nothing is made, and no SSH is needed."""

from __future__ import annotations

from provision.inventory.lab import Machine, ProviderName
from provision.providers.existing import ExistingMachines
from provision.providers.provider import Report
from provision.ssh.endpoint import Endpoint


class LocalProvider(ExistingMachines):
    """Provider of the machine that ktool runs on."""

    name = ProviderName.LOCAL

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """See Provider."""
        from provision.machine import node_address

        address = machine.address or node_address() or "127.0.0.1"
        password = str(machine.variables.get("ansible_become_password") or "")
        return Endpoint(
            name=machine.name,
            address=address,
            become=machine.ssh.become,
            become_password=password,
            local=True,
        )
