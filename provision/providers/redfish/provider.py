"""Bare metal with a BMC (Provider): powered by Redfish, installed over the network, then like any other machine.

What is to be done is decided in `actions.py`; how far ktool has come with a machine is remembered in `installation.py`.
A machine that runs and that ktool has not installed is never touched. What `remove` leaves is the disk as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, ProviderName, RedfishSettings
from provision.lab_state import LabState, cache_dir
from provision.machine_image import uses
from provision.machine_image.bootable import PIECE_MIB
from provision.providers.provider import Found, MachineState, Report
from provision.providers.redfish import power, segment
from provision.providers.redfish.actions import Action, Answer, Phase, Refusal, Seen, decide
from provision.providers.redfish.artifacts import Artifacts, artifacts
from provision.providers.redfish.bmc import Bmc, BootDevice, Power, password_of
from provision.providers.redfish.diagnosis import diagnosis, last_lines, told
from provision.providers.redfish.install_server import Installed, Installing, InstallServer
from provision.providers.redfish.installation import Installation, Installations, begun
from provision.providers.redfish.network_boot import Bootable, NetworkBootService
from provision.providers.redfish.seed import FixedAddress, Seed, archive, pieces_text, plan_text, seed_files
from provision.ssh import keys, known_hosts
from provision.ssh.endpoint import Endpoint

LOOK_SECONDS = 8.0
LOOKS_AT_ONCE = 8
_RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


class RedfishProvider:
    """See Provider. `cache` is where images are kept, `layer` an archive that is laid over built ones."""

    def __init__(self, lab: Lab, state: LabState, *, cache: Path | None = None, layer: Path | None = None) -> None:
        self._lab = lab
        self._state = state
        self._cache = cache or cache_dir()
        self._layer = layer
        self._path = state.provider(ProviderName.REDFISH.value).absolute()
        self._memory = Installations(self._path)
        self._machines = {m.name: m for m in lab.machines if m.provider is ProviderName.REDFISH}
        self._bmcs: dict[str, Bmc] = {}
        self._macs: dict[str, str] = {}
        self._boot = NetworkBootService(
            self._path, segment=self._segment, machines=self._bootable, proxy=self._is_proxy()
        )

    # ---- Provider

    def find(self) -> list[Found]:
        """See Provider. A BMC that does not answer is told as a difference."""
        left = [one for one in self._memory.all() if one.name not in self._machines]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            found = list(pool.map(self._look, self._machines.values()))
        return found + [
            Found(name=one.name, state=_state(one.phase, Power.UNKNOWN), address=one.address, known=False)
            for one in left
        ]

    def prepare(self, machines: Sequence[Machine], report: Report) -> bool:
        """See Provider."""
        self._state.create()
        made = not self._state.identity.exists()
        keys.ensure_key(self._state.identity, comment=f"ktool lab {self._lab.name}")
        if self._boot.end_leftover():
            report("ended the network boot server of an earlier run")
        # Images are for machines that are to be installed; one that only is off needs none.
        waiting = [machine for machine in machines if self._phase(machine.name) in (Phase.NEW, Phase.INSTALLING)]
        for image in dict.fromkeys(machine.image for machine in waiting):
            whole = artifacts(image, self._cache, report, layer=self._layer)
            uses.note(self._cache, self._state.path, f"redfish {image.source}", [whole.disk.folder, whole.kernel])
        return made

    def create(self, machine: Machine, report: Report) -> bool:
        """See Provider. KtoolError if the machine runs without having been installed by ktool: only a machine that is
        switched off is installed, for its disk is overwritten."""
        bmc = self._bmc(machine)
        decided = decide(self._seen(machine, bmc, report))
        if isinstance(decided, Refusal):
            raise self._refused(machine, decided)
        if decided:
            self.prepare([machine], report)
            self._perform(machine, bmc, decided, report)
        return any(action is not Action.REMEMBER for action in decided)

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """See Provider. Address and key are known since the installation; nothing is waited for."""
        installation = self._memory.of(machine.name)
        if installation is None or not installation.host_key:
            raise KtoolError(
                f"the machine {machine.name} is not installed",
                found=f"its installation is {'unfinished' if installation else 'not begun'}",
                wanted="one that ktool has installed",
                mend="ktool lab create",
            )
        return self._endpoint(machine, installation)

    def diagnose(self, machine: Machine) -> str:
        """See Provider."""
        installation = self._memory.of(machine.name)
        try:
            bmc = told(self._bmc(machine).status())
        except KtoolError as error:
            bmc = f"{error.what} ({error.found})"
        mac = machine.mac or (installation.mac if installation else "")
        return diagnosis(
            installation,
            bmc=bmc,
            address=self._address(machine, installation),
            installer=last_lines(self._log(machine.name)),
            dnsmasq=last_lines(self._boot.log_file, containing=mac.lower()),
        )

    def stop(self, machine: Machine, report: Report) -> bool:
        """See Provider. A machine that ktool has not installed is left alone."""
        if self._memory.of(machine.name) is None:
            return False
        return power.shut_down(self._bmc(machine), machine.name, report)

    def remove(self, name: str, report: Report) -> bool:
        """See Provider. The machine is switched off and forgotten; its disk stays as it is."""
        installation = self._memory.of(name)
        if installation is None:
            return False
        machine = self._machines.get(name)
        bmc = self._bmc(machine) if machine else Bmc(name, installation.bmc, password_of({}))
        power.shut_down(bmc, name, report)
        self._memory.forget(name)
        self._log(name).unlink(missing_ok=True)
        known_hosts.unpin(self._state.known_hosts, name)
        report(f"switched off; what was installed stays on {installation.disk or 'its disk'}")
        return True

    def cleanup(self, report: Report) -> list[str]:
        """See Provider."""
        if self._memory.all() or not self._path.exists():
            return []
        removed = ["the network boot server of an earlier run"] if self._boot.end_leftover() else []
        for path in sorted(self._path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self._path.rmdir()
        return removed

    def snapshot(self, machine: Machine, name: str, report: Report) -> None:
        """Bare metal has no snapshots: KtoolError."""
        raise _no_snapshots(machine)

    def restore(self, machine: Machine, name: str, report: Report) -> None:
        """Bare metal has no snapshots: KtoolError."""
        raise _no_snapshots(machine)

    def snapshots(self, machine: Machine) -> list[str]:
        """None."""
        return []

    # ---- looking

    def _look(self, machine: Machine) -> Found:
        phase = self._phase(machine.name)
        installation = self._memory.of(machine.name)
        address = self._address(machine, installation)
        differences: list[str] = []
        try:
            now = self._bmc(machine).status().power
        except KtoolError as error:
            now = Power.UNKNOWN
            differences.append(f"{error.what}: {error.found}")
        if installation is not None and phase is Phase.INSTALLED and now is not Power.OFF:
            answer = self._answer(self._endpoint(machine, installation))
            if answer is Answer.OTHER:
                differences.append(f"SSH at {address}: {Refusal.OTHER_KEY.value}")
            if now is Power.UNKNOWN and answer is Answer.OURS:
                now = Power.ON
        if phase is Phase.NEW and now is Power.ON:
            differences.append(f"power: {Refusal.FOREIGN.value}")
        return Found(name=machine.name, state=_state(phase, now), address=address, differences=tuple(differences))

    def _seen(self, machine: Machine, bmc: Bmc, report: Report) -> Seen:
        status = power.settled(bmc, report)
        installation = self._memory.of(machine.name)
        answer = Answer.NOBODY
        if installation is not None and installation.phase is Phase.INSTALLED and status.power is not Power.OFF:
            answer = self._answer(self._endpoint(machine, installation))
        return Seen(self._phase(machine.name), status.power, status.boot, answer)

    def _answer(self, endpoint: Endpoint) -> Answer:
        """Who answers there; a login is no condition, the host key is."""
        from provision.ssh.connection import Connection
        from provision.ssh.errors import AuthenticationFailed, HostKeyError, SSHError

        try:
            Connection.open(dataclasses.replace(endpoint, connect_timeout=LOOK_SECONDS)).close()
        except HostKeyError:
            return Answer.OTHER
        except AuthenticationFailed:
            return Answer.OURS
        except SSHError:
            return Answer.NOBODY
        return Answer.OURS

    def _phase(self, name: str) -> Phase:
        installation = self._memory.of(name)
        return installation.phase if installation else Phase.NEW

    def _endpoint(self, machine: Machine, installation: Installation) -> Endpoint:
        return Endpoint(
            name=machine.name,
            address=self._address(machine, installation),
            port=machine.ssh.port,
            user=machine.ssh.user,
            identity_files=(machine.ssh.identity_file or self._state.identity,),
            host_keys=(installation.host_key,),
            known_hosts=(self._state.known_hosts,),
            agent=False,
            become=machine.ssh.become,
        )

    def _address(self, machine: Machine, installation: Installation | None) -> str:
        return machine.ssh.address or machine.address or (installation.address if installation else "")

    def _refused(self, machine: Machine, refusal: Refusal) -> KtoolError:
        if refusal is Refusal.FOREIGN:
            return KtoolError(
                f"{machine.name} is left alone: {refusal.value}",
                found="its power is on",
                wanted="a machine that is switched off, as installing overwrites its disk",
                mend="switch it off if that is what you want, then run the same command again",
            )
        return KtoolError(
            f"{machine.name} is left alone: {refusal.value}",
            found=f"another SSH host key at {self._address(machine, self._memory.of(machine.name))}",
            wanted="the one that its installer made",
            mend=f"find out who answers there; to install the machine anew: ktool node remove {machine.name}",
        )

    # ---- doing

    def _perform(self, machine: Machine, bmc: Bmc, actions: Sequence[Action], report: Report) -> None:
        with contextlib.ExitStack() as stack:
            installing: Installing | None = None
            for action in actions:
                match action:
                    case Action.POWER_OFF:
                        report("switching it off")
                        power.cut(bmc, machine.name)
                    case Action.BOOT_NETWORK:
                        installing = self._begin(machine, stack, report)
                        bmc.boot_from(BootDevice.NETWORK)
                    case Action.BOOT_DISK:
                        bmc.boot_from(BootDevice.DISK)
                    case Action.POWER_ON:
                        report("switching it on")
                        power.switch_on(bmc, machine.name)
                    case Action.INSTALL:
                        assert installing is not None, "a network boot comes first"
                        self._written(machine, self._install(machine, bmc, installing, report))
                    case Action.WAIT_OFF:
                        if not bmc.wait_power(Power.OFF, timeout=power.POWER_SECONDS):
                            power.cut(bmc, machine.name)
                        # The boot server is not needed any more; other machines may still be at it.
                        stack.close()
                    case Action.REMEMBER:
                        self._remember(machine)

    def _begin(self, machine: Machine, stack: contextlib.ExitStack, report: Report) -> Installing:
        """Have everything ready before the machine is switched on: files, servers, a note that it was begun."""
        made = artifacts(machine.image, self._cache, report, layer=self._layer)
        settings = self._settings(machine)
        mac = self._mac(machine)
        server: InstallServer = stack.enter_context(self._boot.running())
        self._memory.keep(msgspec.structs.replace(begun(machine, settings, image=made.disk.digest), mac=mac))
        self._log(machine.name).unlink(missing_ok=True)
        installing = Installing(name=machine.name, mac=mac, files=made.files, texts=self._texts(machine, mac, made))
        return stack.enter_context(server.installing(installing))

    def _texts(self, machine: Machine, mac: str, made: Artifacts) -> dict[str, bytes]:
        fixed = None
        if machine.address:
            there = self._segment()
            fixed = FixedAddress(
                address=f"{machine.address}/{there.network.prefixlen}",
                mac=mac,
                gateway=there.gateway,
                name_servers=self._name_servers(),
            )
        public = self._state.identity.with_name(self._state.identity.name + ".pub").read_text().strip()
        seed = Seed(name=machine.name, user=machine.ssh.user, keys=(public,), fixed=fixed, cloud_init=made.given)
        disk = self._settings(machine).disk
        plan = plan_text(disk=disk, size=made.disk.size, piece_mib=PIECE_MIB, user=machine.ssh.user)
        pieces = pieces_text((piece.name, piece.sha256) for piece in made.disk.pieces)
        return {"plan": plan.encode(), "pieces": pieces.encode(), "seed.tar": archive(seed_files(seed))}

    def _install(self, machine: Machine, bmc: Bmc, installing: Installing, report: Report) -> Installed:
        log = self._log(machine.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:

            def both(line: str) -> None:
                file.write(f"{line}\n")
                file.flush()
                report(line)

            try:
                return installing.wait(both, is_off=lambda: bmc.status().power is Power.OFF)
            except KtoolError as error:
                file.write(f"{error.what}: {error.found}\n")
                # It is ours since it was switched on for this. Running on, it would help nobody.
                with contextlib.suppress(KtoolError):
                    bmc.power_off(force=True)
                raise

    def _written(self, machine: Machine, installed: Installed) -> None:
        before = self._memory.of(machine.name)
        assert before is not None, "an installation was begun"
        known_hosts.pin(self._state.known_hosts, machine.name, [installed.host_key])
        self._memory.keep(
            msgspec.structs.replace(
                before,
                phase=Phase.WRITTEN,
                host_key=installed.host_key,
                disk=installed.disk,
                address=machine.address or installed.address,
            )
        )

    def _remember(self, machine: Machine) -> None:
        before = self._memory.of(machine.name)
        assert before is not None, "an installation was written"
        self._memory.keep(msgspec.structs.replace(before, phase=Phase.INSTALLED))

    # ---- what belongs to a machine or to the lab

    def _settings(self, machine: Machine) -> RedfishSettings:
        if machine.redfish is None or not machine.redfish.url:
            raise KtoolError(
                f"{machine.name} has no BMC, so it can be neither switched on nor installed",
                found="no ktool_redfish_url",
                wanted="the URL of its BMC",
                mend="install it by hand and use `ktool_provider: ssh`, which wakes it with `ktool_wake_on_lan: true`",
            )
        return machine.redfish

    def _bmc(self, machine: Machine) -> Bmc:
        if machine.name not in self._bmcs:
            self._bmcs[machine.name] = Bmc(machine.name, self._settings(machine), password_of(machine.variables))
        return self._bmcs[machine.name]

    def _mac(self, machine: Machine) -> str:
        """The hardware address that the machine boots from: the inventory's, else the BMC's word if it knows one."""
        if machine.name not in self._macs:
            self._macs[machine.name] = machine.mac.lower() or self._bmc(machine).only_mac()
        return self._macs[machine.name]

    def _bootable(self) -> list[Bootable]:
        found = []
        for machine in self._machines.values():
            # Who cannot be asked now cannot be installed now either, and will say why itself.
            with contextlib.suppress(KtoolError):
                found.append(Bootable(machine.name, self._mac(machine), machine.address))
        return found

    def _is_proxy(self) -> bool:
        """ktool gives addresses only if the inventory has one for each machine and names no other DHCP server."""
        return any(not m.address or (m.redfish is not None and m.redfish.proxy_dhcp) for m in self._machines.values())

    def _segment(self) -> segment.Segment:
        addresses = [machine.address or machine.ssh.address for machine in self._machines.values()]
        return segment.choose(
            segment.interfaces_of_host(),
            bridge=self._lab.network.bridge,
            addresses=[address for address in addresses if re.fullmatch(r"[0-9.]+", address)],
            gateways=segment.gateways_of_host(),
        )

    def _name_servers(self) -> tuple[str, ...]:
        path = next((path for path in _RESOLV_CONF if path.exists()), None)
        return segment.name_servers(path.read_text(errors="replace")) if path else ()

    def _log(self, name: str) -> Path:
        return self._path / "logs" / f"{name}.log"


def _state(phase: Phase, power: Power) -> MachineState:
    if phase is Phase.NEW:
        return MachineState.ABSENT
    if phase is not Phase.INSTALLED:
        return MachineState.BROKEN
    if power is Power.OFF:
        return MachineState.STOPPED
    return MachineState.RUNNING if power is Power.ON else MachineState.BROKEN


def _no_snapshots(machine: Machine) -> KtoolError:
    return KtoolError(
        "bare metal has no snapshots",
        found=f"{machine.name} has ktool_provider: redfish",
        wanted="a machine of libvirt or nspawn",
    )
