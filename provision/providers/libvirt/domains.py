"""The domains of one lab: those that carry its mark, and the refusal of those that only have its names."""

from __future__ import annotations

import libvirt

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine
from provision.lab_state import LabState
from provision.providers.libvirt.connection import Connection, Handle, doing, lookup
from provision.providers.libvirt.definitions import NAMESPACE, DomainFacts, read_domain
from provision.providers.libvirt.names import domain_name
from provision.providers.libvirt.ownership import require_same_lab


class LabDomains:
    """libvirt's domains that are machines of a lab."""

    def __init__(self, connection: Connection, lab: Lab, state: LabState) -> None:
        self._connection = connection
        self._lab = lab
        self._state = state

    def all(self) -> list[tuple[Handle, DomainFacts]]:
        """The domains with this lab's tag. KtoolError if there are some of another lab of its name."""
        found = []
        with doing("libvirt does not tell which machines there are"):
            domains = self._connection.handle.listAllDomains()
            for domain in domains:
                facts = tagged(domain)
                if facts is not None and facts.lab == self._lab.name:
                    self._require_ours(facts)
                    found.append((domain, facts))
        return found

    def _require_ours(self, facts: DomainFacts) -> None:
        what = f"the virtual machine {facts.name}"
        require_same_lab(what, lab=self._lab.name, other=facts.lab_id, state=self._state)

    def named(self, name: str) -> Handle:
        """The machine's domain; None if there is none. KtoolError if the one of that name is not ours."""
        domain = lookup(self._connection.handle.lookupByName, domain_name(self._lab.name, name))
        if domain is None:
            return None
        with doing(f"libvirt does not tell of the machine {name}"):
            facts = read_domain(domain.XMLDesc())
        if facts.lab == self._lab.name:
            self._require_ours(facts)
        else:
            raise KtoolError(
                f"there is a virtual machine {domain.name()} that this lab has not made",
                found="it does not carry the lab's mark in its metadata",
                wanted="a name that is free",
                mend="rename the machine in the inventory, or the lab (ktool_lab)",
            )
        return domain

    def existing(self, machine: Machine) -> Handle:
        domain = self.named(machine.name)
        if domain is None:
            raise KtoolError(
                f"the machine {machine.name} does not exist",
                found=f"no domain {domain_name(self._lab.name, machine.name)} at {self._lab.libvirt_uri}",
                wanted="a machine that was made",
                mend="ktool lab create",
            )
        return domain


def tagged(domain: Handle) -> DomainFacts | None:
    """What a domain with our tag says; None of one without it, or that was removed meanwhile."""
    try:
        domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
        return read_domain(domain.XMLDesc())
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_METADATA):
            return None
        raise
