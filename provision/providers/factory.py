"""The providers that a lab's machines need, each imported only if it is needed."""

from __future__ import annotations

from pathlib import Path

from provision.inventory.lab import Lab, Machine, ProviderName
from provision.lab_state import LabState
from provision.providers.provider import Provider

# They have a folder in the lab's from the first thing they make until the last is removed.
_REMEMBERING = (ProviderName.LIBVIRT, ProviderName.NSPAWN, ProviderName.REDFISH)


def providers_for(lab: Lab, state: LabState, *, layer: Path | None = None) -> dict[ProviderName, Provider]:
    """A provider for each kind of machine in the lab, and for those kinds of which something was made for it before:
    the inventory may have changed since. `layer` is the node runtime that is baked into images.

    KtoolError if a library or a service that a provider needs is missing.
    """
    remembered = [name for name in _REMEMBERING if state.provider(name.value).exists()]
    names = dict.fromkeys([*(machine.provider for machine in lab.machines), *remembered])
    return {name: _provider(name, lab, state, layer) for name in names}


def provider_for(lab: Lab, state: LabState, machine: Machine) -> Provider:
    """The provider of one machine."""
    return _provider(machine.provider, lab, state, None)


def _provider(name: ProviderName, lab: Lab, state: LabState, layer: Path | None) -> Provider:
    match name:
        case ProviderName.LIBVIRT:
            from provision.providers.libvirt.provider import LibvirtProvider

            return LibvirtProvider(lab, state, layer=layer)
        case ProviderName.NSPAWN:
            from provision.providers.nspawn.provider import NspawnProvider

            return NspawnProvider(lab, state, layer=layer)
        case ProviderName.REDFISH:
            from provision.providers.redfish.provider import RedfishProvider

            return RedfishProvider(lab, state, layer=layer)
        case ProviderName.LOCAL:
            from provision.providers.local import LocalProvider

            return LocalProvider(lab, state)
        case ProviderName.SSH:
            from provision.providers.ssh import SSHProvider

            return SSHProvider(lab, state)
