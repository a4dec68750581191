"""Lab machines by libvirt (Provider).

A machine is a domain `LAB-MACHINE` with a linked clone of the image as its disk, in a storage pool of the lab's own.
The domain's metadata say whose it is; only what says so is ever changed or removed. Everything is looked at before it
is made, in the order lease, volume, definition, start: whatever an interrupted run left is taken up where it ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import libvirt

from kube.errors import KtoolError
from kube.files import write_secret
from provision import mounts
from provision.inventory.lab import Lab, Machine, NetworkMode, ProviderName
from provision.lab_state import LabState, cache_dir
from provision.machine_image.recipe import is_built
from provision.providers.libvirt import console, power, snapshots, volume_names, warm_starts
from provision.providers.libvirt.connection import Connection, Handle, doing
from provision.providers.libvirt.definitions import DomainFacts, domain_xml, read_domain
from provision.providers.libvirt.domains import LabDomains
from provision.providers.libvirt.drift import Wanted, differences
from provision.providers.libvirt.images import GIB, LabImages, label, require_room
from provision.providers.libvirt.machine_parts import MachineParts
from provision.providers.libvirt.names import (
    domain_name,
    mac_for,
    mac_of,
    ours,
    require_distinct,
)
from provision.providers.libvirt.network import LabNetwork
from provision.providers.libvirt.storage import Storage
from provision.providers.libvirt.warm_starts import WarmStarts
from provision.providers.provider import Found, MachineState, Report
from provision.ssh import keys, known_hosts
from provision.ssh.endpoint import Endpoint

CONSOLE_LINES = 15
# A console on this host is a file; libvirt, and one on another host, are asked less often: asking takes from the
# processors that an emulated machine boots on.
_READ_SECONDS = 0.1
_ASK_SECONDS = 0.5


class LibvirtProvider:
    """See Provider. `cache` is where images are kept, `layer` a tar that is laid over those that are built."""

    def __init__(self, lab: Lab, state: LabState, *, cache: Path | None = None, layer: Path | None = None) -> None:
        require_distinct(lab)
        self._state = state
        # Where machines were made, they are looked for and removed, whatever the inventory says by now.
        self._asked_uri = lab.libvirt_uri
        self._note = state.provider(ProviderName.LIBVIRT.value) / "uri"
        noted = self._note.read_text().strip() if self._note.exists() else ""
        self._lab = lab = replace(lab, libvirt_uri=noted or lab.libvirt_uri)
        self._connection = Connection(lab.libvirt_uri)
        self._storage = Storage(self._connection, lab.name, state)
        self._network = LabNetwork(self._connection, lab, state)
        self._domains = LabDomains(self._connection, lab, state)
        self._images = LabImages(self._connection, self._storage, state, cache=cache or cache_dir(), layer=layer)
        self._warm = WarmStarts(
            self._connection, state.path, cache=cache or cache_dir(), mode=self._network.wanted.mode
        )
        self._parts = MachineParts(lab, state, self._storage, self._network, self._images)

    # ---- Provider

    def find(self) -> list[Found]:
        """See Provider."""
        with doing("libvirt does not tell of the lab's machines"):
            return self._find()

    def _find(self) -> list[Found]:
        domains = {facts.machine: (domain, facts) for domain, facts in self._domains.all()}
        found = [self._look(machine, *domains.get(machine.name, (None, None))) for machine in ours(self._lab)]
        wanted = {machine.name for machine in ours(self._lab)}
        for name, (domain, facts) in domains.items():
            if name not in wanted:
                found.append(
                    Found(
                        name=name, state=power.state_of(domain), address=self._network.address(facts.mac), known=False
                    )
                )
        return found

    def prepare(self, machines: Sequence[Machine], report: Report) -> bool:
        """See Provider. KtoolError if libvirt does not answer, an image cannot be had, or the network cannot be."""
        if self._network.wanted.mode is NetworkMode.USER and not self._connection.place.is_local:
            raise KtoolError(
                "the user network works on this host only",
                found=f"ktool_network_mode: user, at {self._lab.libvirt_uri}",
                wanted="nat, isolated or existing on another host",
                mend="set ktool_network_mode: nat",
            )
        self._require_same_place()
        _ = self._connection.handle
        self._state.create()
        self._domains.all()  # another lab's of the same name are told before anything is made
        if not self._note.exists():
            write_secret(self._note, f"{self._lab.libvirt_uri}\n".encode())
        made = not self._state.identity.exists()
        keys.ensure_key(self._state.identity, comment=f"ktool lab {self._lab.name}")
        made |= self._network.define(report)  # before anything is made for a lab whose network cannot be
        # libvirt waits for the network's DHCP server, and meanwhile takes images.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="network") as pool:
            network = pool.submit(self._network.ensure, report)
            for machine in machines:
                image = self._images.image(machine.image, report)
                require_room(machine, image)
                made |= self._images.upload(image, report)
                self._images.domain_type(image, report)
                if not self._parts.has_disk(machine):
                    self._warm_disk(machine, report)
            return network.result() or made

    def create(self, machine: Machine, report: Report) -> bool:
        """See Provider. Other memory or processors take effect when the machine starts next; `find` tells until then.

        KtoolError if the domain's name belongs to somebody else, or libvirt refuses.
        """
        changed = self.prepare([machine], report)
        domain = self._domains.named(machine.name)
        with doing(f"libvirt does not tell of the machine {machine.name}"):
            before = read_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain is not None else None
            running = domain is not None and bool(domain.isActive())
        image = self._images.image(machine.image, report)
        # Only a machine of which nothing is there goes on from kept memory: all others have been somebody already.
        warm = self._warm_disk(machine, report) if before is None and not self._parts.has_disk(machine) else None
        try:
            new_disk = self._parts.have_disk(machine, image, report, running=running, warm=warm)
        except OSError as error:
            if warm is None:
                raise
            report(f"the kept memory cannot be copied, so it boots: {error}")
            warm = None
            new_disk = self._parts.have_disk(machine, image, report, running=running)
        changed |= new_disk
        if before is None or new_disk or self._parts.must_redefine(machine, before):
            report("defining the machine" if before is None else "changing the machine's definition")
            settings = self._parts.settings(machine, image, before, report)
            if warm is not None:
                settings = replace(settings, seed=self._parts.identity(machine))
            with doing(f"the machine {machine.name} cannot be defined"):
                domain = self._connection.handle.defineXML(domain_xml(settings))
            changed = True
        with doing(f"the machine {machine.name} cannot be started"):
            if warm is None and not new_disk:
                changed |= warm_starts.forget(domain, "" if running else self._parts.own_disk(machine), report)
            if bool(domain.autostart()) != machine.autostart:
                domain.setAutostart(int(machine.autostart))
                changed = True
            if warm is not None and warm_starts.wake(domain, report):
                return True
            return power.start(domain, report) or changed

    def _warm_disk(self, machine: Machine, report: Report) -> Path | None:
        if not self._storage.takes_copies():
            return None
        image = self._images.image(machine.image, report)
        kind = self._images.domain_type(image, report)
        return self._warm.disk(machine, image, report, kind=kind, arch=self._images.arch)

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """See Provider. The host key comes from the machine's console, which nobody on the network can write to."""
        end = time.monotonic() + timeout
        pause = _READ_SECONDS if self._connection.place.is_local else _ASK_SECONDS
        asked = float("-inf")
        told = ""
        while True:
            key = self._host_key(machine)
            if key or time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                address, port = self._address(self._facts(machine))
                if key and address:
                    return Endpoint(
                        name=machine.name,
                        address=address,
                        port=port,
                        user=self._user(machine),
                        identity_files=(self._state.identity,),
                        host_keys=(key,),
                        jump=self._connection.place.jump,
                        agent=False,
                        become=self._user(machine) != "root",
                    )
            doing_now = "waiting for its address" if key else "booting: waiting for its host key"
            if doing_now != told:
                told = doing_now
                report(told)
            if time.monotonic() > end:
                lacking = "an address" if key else "a host key on its console"
                raise KtoolError(
                    f"{machine.name} does not come up",
                    found=f"no {lacking.split(' ', 1)[1]} after {timeout:.0f} s\n{self.diagnose(machine)}".strip(),
                    wanted=lacking,
                    mend=f"look at it: virsh -c {self._lab.libvirt_uri} console "
                    f"{domain_name(self._lab.name, machine.name)}; give it more time: ktool lab create",
                )
            time.sleep(pause)

    def diagnose(self, machine: Machine) -> str:
        """See Provider."""
        domain = self._domains.named(machine.name)
        if domain is None:
            return f"{domain_name(self._lab.name, machine.name)}: no such domain"
        mac = mac_of(self._lab, machine)
        with doing(f"libvirt does not tell of the machine {machine.name}"):
            lines = [f"domain {domain.name()}: {power.describe(domain)}"]
        leases = self._network.leases()
        for lease in leases:
            mark = "  <- this machine" if str(lease.get("mac", "")).lower() == mac else ""
            lines.append(f"lease {lease.get('ipaddr')} {lease.get('mac')} {lease.get('hostname') or '-'}{mark}")
        if not leases and self._network.wanted.name:
            lines.append(f"no leases on the network {self._network.wanted.name}")
        said = console.last_lines(self._console(machine.name), CONSOLE_LINES)
        lines += ["console:", *(f"  {line}" for line in said)] if said else ["nothing on the console"]
        return "\n".join(lines)

    def stop(self, machine: Machine, report: Report) -> bool:
        """See Provider."""
        domain = self._domains.named(machine.name)
        if domain is None:
            return False
        with doing(f"{machine.name} cannot be shut down"):
            if not domain.isActive():
                return False
            report("shutting down")
            power.shut_down(domain, report)
        return True

    def remove(self, name: str, report: Report) -> bool:
        """See Provider."""
        domain = next((domain for domain, facts in self._domains.all() if facts.machine == name), None)
        machine = self._lab.machine(name)
        mac = mac_of(self._lab, machine) if machine is not None else mac_for(self._lab.name, name)
        if domain is not None:
            report("removing the machine")
            with doing(f"{name} cannot be removed"):
                mac = read_domain(domain.XMLDesc()).mac or mac
                if domain.isActive():
                    domain.destroy()
                flags = (
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                )
                domain.undefineFlags(flags)
        removed = [self._storage.delete(volume) for volume in volume_names.of_machine(name)]
        self._network.forget(mac)
        known_hosts.unpin(self._state.known_hosts, name)
        return domain is not None or any(removed)

    def cleanup(self, report: Report) -> list[str]:
        """See Provider."""
        if any(True for _ in self._domains.all()):
            return []
        removed = []
        if self._network.remove():
            removed.append(f"network {self._network.wanted.name}")
        if self._storage.remove():
            removed.append(f"storage pool {self._storage.pool}")
        for line in removed:
            report(f"removed the {line}")
        mounts.remove_tree(self._note.parent)
        self._connection.close()
        return removed

    def snapshot(self, machine: Machine, name: str, report: Report) -> None:
        """See Provider. Of a running machine with its memory, so that a restored one goes on where it was."""
        report(f"keeping the snapshot {name}")
        snapshots.take(self._domains.existing(machine), machine.name, name)

    def restore(self, machine: Machine, name: str, report: Report) -> None:
        """See Provider. A restored machine's clock shows the snapshot's time until somebody sets it."""
        domain = self._domains.existing(machine)
        report(f"restoring the snapshot {name}")
        snapshots.restore(domain, machine.name, name)

    def snapshots(self, machine: Machine) -> list[str]:
        """See Provider."""
        domain = self._domains.named(machine.name)
        return snapshots.names(domain) if domain is not None else []

    # ---- looking

    def _require_same_place(self) -> None:
        if self._asked_uri != self._lab.libvirt_uri:
            raise KtoolError(
                "the lab's machines were made by another libvirt than the inventory names",
                found=f"ktool_libvirt_uri: {self._asked_uri}",
                wanted=self._lab.libvirt_uri,
                mend="put that back, or remove the lab first: ktool lab destroy",
            )

    def _facts(self, machine: Machine) -> DomainFacts:
        domain = self._domains.existing(machine)
        with doing(f"libvirt does not tell of the machine {machine.name}"):
            active, text = bool(domain.isActive()), domain.XMLDesc()
        if not active:
            raise KtoolError(
                f"{machine.name} has stopped while it was waited for",
                found=self.diagnose(machine),
                wanted="a running machine",
                mend="ktool lab create starts it again",
            )
        return read_domain(text)

    def _look(self, machine: Machine, domain: Handle, facts: DomainFacts | None) -> Found:
        disk = self._storage.volume(volume_names.disk(machine.name))
        if domain is None or facts is None:
            return Found(name=machine.name, state=MachineState.ABSENT if disk is None else MachineState.BROKEN)
        wanted = Wanted(
            memory_mib=machine.memory_mib,
            cpus=machine.cpus,
            disk_bytes=machine.disk_gib * GIB,
            mac=mac_of(self._lab, machine),
            image=label(machine.image),
        )
        return Found(
            name=machine.name,
            state=power.state_of(domain) if disk is not None else MachineState.BROKEN,
            address=self._address(facts)[0],
            differences=tuple(differences(facts, wanted, disk_bytes=disk.capacity if disk else 0)),
        )

    def _address(self, facts: DomainFacts) -> tuple[str, int]:
        if facts.port:
            return "127.0.0.1", facts.port
        if self._network.wanted.mode is NetworkMode.EXISTING and not self._network.wanted.name:
            return self._seen_address(facts), 22
        return self._network.address(facts.mac), 22

    def _seen_address(self, facts: DomainFacts) -> str:
        """On a bridge that libvirt does not serve: what the host's neighbour table has."""
        machine = self._lab.machine(facts.machine)
        if machine is not None and machine.address:
            return machine.address
        domain = self._domains.named(facts.machine)
        source = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP
        with contextlib.suppress(libvirt.libvirtError):
            for interface in domain.interfaceAddresses(source).values():
                if str(interface.get("hwaddr", "")).lower() == facts.mac:
                    return next((str(a["addr"]) for a in interface.get("addrs") or ()), "")
        return ""

    def _console(self, name: str) -> str:
        return self._storage.read_end(volume_names.log(name), console.TAIL_BYTES).decode(errors="replace")

    def _host_key(self, machine: Machine) -> str:
        """The pinned host key; the console's, pinned now, if there is none yet."""
        if machine.ssh.host_key:
            return machine.ssh.host_key
        if pinned := known_hosts.pinned(self._state.known_hosts, machine.name):
            return pinned[0]
        if told := console.host_key(self._console(machine.name)):
            known_hosts.pin(self._state.known_hosts, machine.name, [told])
        return told

    def _user(self, machine: Machine) -> str:
        """Images built by ktool let root in; others the inventory's user, whom cloud-init makes."""
        return "root" if is_built(machine.image) else machine.ssh.user
