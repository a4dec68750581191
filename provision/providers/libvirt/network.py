"""A lab's network: made, given fixed leases while it runs, removed; or one that was there before, only looked at."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import threading
from collections.abc import Mapping, Sequence

import libvirt

from kube.errors import KtoolError
from provision.command import attempt, run
from provision.inventory.lab import Lab, NetworkMode
from provision.lab_state import LabState
from provision.providers.libvirt.connection import Connection, Handle, doing, lookup
from provision.providers.libvirt.definitions import host_xml, network_xml, read_network
from provision.providers.libvirt.names import addresses, mac_of, network_of, ours
from provision.providers.libvirt.ownership import require_same_lab
from provision.providers.provider import Report


class LabNetwork:
    """The network of one lab. Own ones are recognised by their bridge's name, which follows from the lab's, and their
    UUID, which is the lab's id."""

    def __init__(self, connection: Connection, lab: Lab, state: LabState) -> None:
        self._connection = connection
        self._state = state
        self._lab = lab
        self.wanted = network_of(lab)
        self._changing = threading.Lock()

    def define(self, report: Report) -> bool:
        """Have the network defined; True if it was not.

        KtoolError if its name or range belongs to somebody else, or an existing one is not there.
        """
        if self.wanted.mode is NetworkMode.USER:
            return False
        if not self.wanted.own:
            self._require_existing()
            return False
        with self._changing:
            return self._define(report)[1]

    def ensure(self, report: Report) -> bool:
        """Have the network running, with a fixed lease for each machine; True if something had to be done.

        KtoolError as for `define`, and if it cannot be started.
        """
        if not self.wanted.own:
            return self.define(report)
        with self._changing:
            handle, changed = self._define(report)
            with doing(
                f"the network {self.wanted.name} cannot be started", wanted=f"{self._range} for the lab's machines"
            ):
                if not handle.isActive():
                    handle.create()
                    changed = True
                if not handle.autostart():
                    handle.setAutostart(1)
            return self._lease_addresses(handle) or changed

    def _define(self, report: Report) -> tuple[Handle, bool]:
        handle = self._find()
        if handle is not None:
            return handle, False
        self._require_free_range()
        report(f"making the network {self.wanted.name} ({self._range})")
        text = network_xml(
            self.wanted,
            addresses(self._lab, self.wanted),
            names=self._names(),
            domain=self._lab.name,
            uuid=self._state.id,
        )
        with doing(f"the network {self.wanted.name} cannot be made"):
            return self._connection.handle.networkDefineXML(text), True

    def address(self, mac: str) -> str:
        """The address that the machine with that hardware address has, or will get; empty if that is not known."""
        if self.wanted.own:
            handle = self._find()
            return self._read(handle)[1].get(mac, "") if handle is not None else ""
        for lease in self.leases():
            if str(lease.get("mac", "")).lower() == mac and lease.get("type") == 0:
                return str(lease["ipaddr"])
        return ""

    def leases(self) -> Sequence[Mapping[str, object]]:
        """The present leases of libvirt's DHCP server; none where another serves."""
        handle = self._look(self.wanted.name) if self.wanted.name else None
        if handle is None:
            return []
        with contextlib.suppress(libvirt.libvirtError):  # one that does not run has none, and some serve none
            return list(handle.DHCPLeases()) if handle.isActive() else []
        return []

    def forget(self, mac: str) -> None:
        """Take back a machine's fixed lease."""
        if not self.wanted.own:
            return
        with self._changing:
            handle = self._find()
            there = self._read(handle)[1] if handle is not None else {}
            if mac in there:
                with doing(f"the lease of {mac} cannot be removed"):
                    self._update(handle, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, host_xml(mac, there[mac], ""))

    def remove(self) -> bool:
        """Remove an own network; True if there was one."""
        if not self.wanted.own:
            return False
        with self._changing:
            handle = self._look(self.wanted.name)
            if handle is None or self._read(handle)[0] != self.wanted.bridge:
                return False
            self._require_own(handle)
            with doing(f"the network {self.wanted.name} cannot be removed"):
                if handle.isActive():
                    handle.destroy()
                handle.undefine()
            return True

    @property
    def _range(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"{self.wanted.address}/{self.wanted.prefix}", strict=False)

    def _names(self) -> dict[str, str]:
        return {mac_of(self._lab, machine): machine.name for machine in ours(self._lab)}

    def _look(self, name: str) -> Handle:
        return lookup(self._connection.handle.networkLookupByName, name)

    def _find(self) -> Handle:
        handle = self._look(self.wanted.name)
        if handle is None:
            return None
        bridge, _, address = self._read(handle)
        if bridge != self.wanted.bridge:
            raise KtoolError(
                f"there is a network {self.wanted.name} that ktool has not made",
                found=f"its bridge is {bridge or 'none'}",
                wanted=f"a name that is free, or the bridge {self.wanted.bridge}",
                mend="name another (ktool_network), or use that one: ktool_network_mode: existing",
            )
        self._require_own(handle)
        if address != f"{self.wanted.address}/{self.wanted.prefix}":
            raise KtoolError(
                f"the network {self.wanted.name} has other addresses than the inventory wants",
                found=address,
                wanted=f"{self.wanted.address}/{self.wanted.prefix}",
                mend="put the old ktool_network_cidr back, or make the lab anew: ktool lab destroy, ktool lab create",
            )
        return handle

    def _require_own(self, handle: Handle) -> None:
        what = f"the network {self.wanted.name}"
        with self._asking():
            uuid = handle.UUIDString()
        require_same_lab(what, lab=self._lab.name, other=uuid, state=self._state)

    def _read(self, handle: Handle) -> tuple[str, dict[str, str], str]:
        """Bridge, fixed leases and address of a network (read_network)."""
        with self._asking():
            return read_network(handle.XMLDesc())

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return doing(f"libvirt does not tell of the network {self.wanted.name}")

    def _require_existing(self) -> None:
        if self.wanted.bridge:
            return  # whether the device exists is for libvirt to say, on its host
        handle = self._look(self.wanted.name)
        with self._asking():
            active = handle is not None and bool(handle.isActive())
            known = [] if active else [network.name() for network in self._connection.handle.listAllNetworks()]
        if not active:
            raise KtoolError(
                f"the network {self.wanted.name} is not there for the machines to connect to",
                found=f"networks: {', '.join(known) or 'none'}" if handle is None else "it is not started",
                wanted="a running network of libvirt's",
                mend=f"virsh net-start {self.wanted.name}, or let ktool make one: ktool_network_mode: nat",
            )

    def _require_free_range(self) -> None:
        with doing("libvirt does not tell which networks there are"):
            others = [
                (other.name(), read_network(other.XMLDesc())[2]) for other in self._connection.handle.listAllNetworks()
            ]
        for name, address in others:
            if address and ipaddress.IPv4Interface(address).network.overlaps(self._range):
                raise self._taken(f"libvirt's network {name} has {address}")
        if self._connection.place.is_local:
            for there, device in _routes(attempt(run, ["ip", "-json", "-4", "route", "show"]) or "[]"):
                if there.overlaps(self._range):
                    raise self._taken(f"{there} is routed to {device}")

    def _taken(self, found: str) -> KtoolError:
        return KtoolError(
            f"the addresses for the network {self.wanted.name} are in use on the host",
            found=found,
            wanted=f"{self._range} for the lab",
            mend="choose another range in the inventory: ktool_network_cidr",
        )

    def _lease_addresses(self, handle: Handle) -> bool:
        """Bring the fixed leases of the running network to what the machines want."""
        there = self._read(handle)[1]
        names = self._names()
        wanted = addresses(self._lab, self.wanted, taken=there)
        changed = False
        with doing(f"the leases of the network {self.wanted.name} cannot be changed"):
            for mac, address in wanted.items():
                if there.get(mac) == address:
                    continue
                if mac in there:
                    self._update(handle, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, host_xml(mac, there[mac], ""))
                add = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
                self._update(handle, add, host_xml(mac, address, names.get(mac, "")))
                changed = True
        return changed

    def _update(self, handle: Handle, command: int, text: str) -> None:
        flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        if handle.isActive():
            flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
        handle.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, text, flags)


def _routes(text: str) -> list[tuple[ipaddress.IPv4Network, str]]:
    """Networks of `ip -json route`, with their devices; the default route is none."""
    found = []
    for route in json.loads(text or "[]"):
        with contextlib.suppress(ValueError):
            found.append((ipaddress.IPv4Network(route["dst"], strict=False), str(route.get("dev", "nothing"))))
    return found
