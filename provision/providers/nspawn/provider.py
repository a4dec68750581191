"""Lab machines by systemd-nspawn on this host (Provider).

A machine is a folder (folder.py) and a service (provision.services): the service's process prepares network, mounts
and control groups, and becomes systemd-nspawn (boot.py). So machines live on when ktool ends, come back when they
crash or reboot, and after a reboot of the host where systemd is pid 1; there a machine is the unit
`ktool-lab-<lab>-<machine>.service`. Elsewhere a supervisord of the lab's own looks after them.

Everything of a lab is below one folder, tagged on the host by names made of that folder and the machine's name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from kube.files import SECRET, write_atomic
from provision import mounts, processes
from provision.inventory.lab import Lab, Machine, ProviderName
from provision.lab_state import LabState, cache_dir
from provision.machine_image import uses
from provision.providers.nspawn import boot, cgroups, images, network, outside_view, requirements, seed
from provision.providers.nspawn.config import (
    MachineConfig,
    NetworkConfig,
    addresses,
    differences,
    hardware_address,
    identity,
    network_config,
    service_name,
)
from provision.providers.nspawn.folder import MachineFolder, all_folders, sweep
from provision.providers.provider import Found, MachineState, Report
from provision.services.detect import detect
from provision.services.service import Limits, RestartPolicy, ServiceSpec, ServiceSupervisor, tail
from provision.ssh import keys, known_hosts
from provision.ssh.endpoint import Endpoint

# From the start of systemd-nspawn to a systemd inside; a machine under load takes a second.
START_SECONDS = 30.0
# Machines get this long to shut down in order.
STOP_SECONDS = 30.0
# So long a starting systemd may be deaf to signals.
HEARING_SECONDS = 10.0
_RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


class NspawnProvider:
    """See Provider. `cache` is where built roots are kept, `layer` an archive that is laid over them."""

    def __init__(self, lab: Lab, state: LabState, *, cache: Path | None = None, layer: Path | None = None) -> None:
        self._lab = lab
        self._state = state
        self._cache = cache or cache_dir()
        self._layer = layer
        self._path = state.provider(ProviderName.NSPAWN.value).absolute()
        self._machines = self._path / "machines"
        self._allotting = threading.Lock()

    @cached_property
    def _services(self) -> ServiceSupervisor:
        return detect(self._path)

    # ---- Provider

    def find(self) -> list[Found]:
        """See Provider."""
        wanted = {machine.name: machine for machine in self._lab.machines if machine.provider is ProviderName.NSPAWN}
        there = {folder.path.name: folder for folder in all_folders(self._machines)}
        found = [self._look(name, there.get(name), machine) for name, machine in wanted.items()]
        return found + [self._look(name, folder, None) for name, folder in there.items() if name not in wanted]

    def prepare(self, machines: Sequence[Machine], report: Report) -> bool:
        """See Provider. KtoolError if this host cannot have nspawn machines, or the network's range is in use."""
        requirements.require(self._path)
        self._state.create()
        made = not self._state.identity.exists()
        keys.ensure_key(self._state.identity, comment=f"ktool lab {self._lab.name}")
        for image in dict.fromkeys(machine.image for machine in machines):
            roots = [images.root(image, self._cache, report, layer=layer) for layer in (self._layer, None)]
            uses.note(self._cache, self._state.path, f"nspawn {images.label(image)}", roots)
        return self._have_network(report) or made

    def create(self, machine: Machine, report: Report) -> bool:
        """See Provider.

        Memory and processors of a machine that runs are changed on the spot; other differences are only told by
        `find`. KtoolError with the console's last lines if the machine does not start.
        """
        self.prepare([machine], report)
        folder = self.folder(machine.name)
        before = folder.config()
        changed = False
        if before is None or not before.made:
            report("writing its files")
            self._make(machine, folder, report)
            changed = True
        if restoring := folder.unfinished_restore:
            report(f"restoring the snapshot {restoring}")
            self._halt(machine.name)
            folder.bring_back(restoring)
            changed = True
        changed |= self._adjust(machine, folder)
        return self._run(machine.name, report) or changed

    def endpoint(self, machine: Machine, report: Report, *, timeout: float) -> Endpoint:
        """See Provider."""
        folder = self.folder(machine.name)
        config = folder.config()
        key = seed.host_key(folder.seed)
        if config is None or not key:
            raise KtoolError(
                f"the machine {machine.name} does not exist",
                found="no such nspawn machine in this lab",
                wanted="one that was made",
                mend="ktool lab create",
            )
        report(f"waiting for SSH at {config.address}")
        self._wait_for_ssh(machine, config.address, machine.ssh.port, timeout=timeout)
        return Endpoint(
            name=machine.name,
            address=config.address,
            port=machine.ssh.port,
            user=machine.ssh.user,
            identity_files=(machine.ssh.identity_file or self._state.identity,),
            host_keys=(key,),
            known_hosts=(self._state.known_hosts,),
            agent=False,
            become=machine.ssh.become,
        )

    def diagnose(self, machine: Machine) -> str:
        """See Provider."""
        folder = self.folder(machine.name)
        config = folder.config()
        if config is None:
            return "there is no such machine"
        status = self._services.status(self._service(machine.name))
        net = self._network()
        bridge = net.bridge if net else "none"
        lines = [
            f"service: {status.state or 'unknown'}, started again {status.restarts} times",
            f"address: {config.address}; {config.interface} {network.link_state(config.interface) or 'absent'}, "
            f"bridge {bridge} {network.link_state(bridge) or 'absent'}",
        ]
        if console := tail(folder.console):
            lines += ["console:", *(f"  {line}" for line in outside_view.plain(console).splitlines())]
        return "\n".join(lines)

    def stop(self, machine: Machine, report: Report) -> bool:
        """See Provider."""
        report("shutting down")
        return self._halt(machine.name)

    def remove(self, name: str, report: Report) -> bool:
        """See Provider."""
        folder = self.folder(name)
        config = folder.config()
        service = self._service(name)
        if self._services.log_path(service) is not None or self._services.status(service).running:
            report("shutting down")
            self._halt(name)
            self._services.remove(service)
        elif not folder.path.exists():
            return False
        report("removing its files")
        if config is not None:
            self._sweep_host(config)
        known_hosts.unpin(self._state.known_hosts, name)
        folder.remove()
        return True

    def cleanup(self, report: Report) -> list[str]:
        """See Provider."""
        sweep(self._machines)
        if not self._path.exists() or all_folders(self._machines):
            return []
        report("removing the network")
        self._services.shutdown()
        net = self._network()
        removed = network.remove(net, self._path) if net else []
        mounts.remove_tree(self._path)
        return removed

    def snapshot(self, machine: Machine, name: str, report: Report) -> None:
        """See Provider. The machine is stopped meanwhile."""
        self._while_down(machine, report, lambda folder: folder.keep(name))

    def restore(self, machine: Machine, name: str, report: Report) -> None:
        """See Provider. The machine is stopped meanwhile, and runs afterwards if it did before."""
        self.folder(machine.name).require_snapshot(name)
        self._while_down(machine, report, lambda folder: folder.bring_back(name))

    def snapshots(self, machine: Machine) -> list[str]:
        """See Provider."""
        return self.folder(machine.name).snapshots()

    # ---- looking

    def first_process(self, name: str) -> int | None:
        """The pid of a machine's own pid 1, as the host sees it; None while there is none."""
        status = self._services.status(self._service(name))
        if not status.running or status.pid is None:
            return None
        return outside_view.first_process(status.pid)

    def config(self, name: str) -> MachineConfig | None:
        """How a machine was made; None if there is none."""
        return self.folder(name).config()

    def folder(self, name: str) -> MachineFolder:
        """Where a machine's files are."""
        return MachineFolder(self._machines / name)

    def _look(self, name: str, folder: MachineFolder | None, machine: Machine | None) -> Found:
        config = folder.config() if folder else None
        known = machine is not None
        if folder is None:
            return Found(name=name, state=MachineState.ABSENT, known=known)
        if config is None or not config.made or folder.unfinished_restore:
            return Found(name=name, state=MachineState.BROKEN, known=known)
        status = self._services.status(self._service(name))
        unlike: tuple[str, ...] = ()
        if machine is not None:
            unlike = differences(config, machine, image=images.label(machine.image))
            net = self._network()
            wanted = network_config(self._lab, self._path)
            if net is not None and (net.mode, net.cidr) != (wanted.mode, wanted.cidr):
                unlike += (f"network: {net.mode} {net.cidr}, wanted {wanted.mode} {wanted.cidr}",)
        state = MachineState.RUNNING if status.running else MachineState.STOPPED
        if status.running and self.first_process(name) is None:  # on its way up, or ends at each start
            state = MachineState.BROKEN
        if not all(Path(layer).is_dir() for layer in config.layers):
            state, unlike = MachineState.BROKEN, (*unlike, f"image: {config.layers[-1]} is gone")
        return Found(name=name, state=state, address=config.address, differences=unlike, known=known)

    def _service(self, name: str) -> str:
        return service_name(self._lab.name, name)

    def _network(self) -> NetworkConfig | None:
        try:
            return boot.load_network(self._path)
        except FileNotFoundError:
            return None

    # ---- making

    def _have_network(self, report: Report) -> bool:
        """Have the network as it was made at first: machines keep their addresses when the inventory's range changes,
        which `find` tells as a difference."""
        with self._allotting:
            config = self._network()
            noted = config is not None
            if config is None:
                config = network.completed(network_config(self._lab, self._path))
                self._machines.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(self._path / "network.json", msgspec.json.encode(config), mode=SECRET)
            made = network.ensure(config, self._path)
        if made:
            report(f"network {config.cidr} on {config.bridge}")
        return made or not noted

    def _make(self, machine: Machine, folder: MachineFolder, report: Report) -> None:
        layers = (str(images.root(machine.image, self._cache, report, layer=self._layer)),)
        with self._allotting:
            net = self._network()
            others = [found for one in all_folders(self._machines) if (found := one.config()) is not None]
            taken = {one.name: one.address for one in others}
            reserved = [address for address in (net.host_address, net.gateway) if address] if net else []
            config = MachineConfig(
                lab=self._lab.name,
                name=machine.name,
                identity=identity(self._path, machine.name),
                address=addresses(self._lab, taken=taken, reserved=reserved)[machine.name],
                mac=machine.mac.lower() or hardware_address(self._lab.name, machine.name),
                memory_mib=machine.memory_mib,
                cpus=machine.cpus,
                user=machine.ssh.user,
                image=images.label(machine.image),
                layers=layers,
                autostart=machine.autostart,
            )
            folder.save(config)
        files = seed.files(
            name=machine.name,
            address=config.address,
            user=machine.ssh.user,
            authorized_key=keys.ensure_key(self._state.identity, comment=f"ktool lab {self._lab.name}"),
            resolv_conf=_host_resolv_conf() if net and net.gateway else "",
            accounts=seed.accounts(layers),
        )
        key = folder.make(config, files)
        known_hosts.pin(self._state.known_hosts, machine.name, [key])
        folder.save(msgspec.structs.replace(config, made=True))

    def _adjust(self, machine: Machine, folder: MachineFolder) -> bool:
        """Bring what can be changed at once to what the inventory wants; True if something was."""
        made = folder.config()
        assert made is not None, "it has been made"
        wanted = msgspec.structs.replace(
            made, memory_mib=machine.memory_mib, cpus=machine.cpus, autostart=machine.autostart
        )
        if wanted == made:
            return False
        if (pid := self.first_process(machine.name)) is not None:
            cgroups.limit(wanted.identity, memory_bytes=wanted.memory_bytes, cpus=wanted.cpus, pid=pid)
        folder.save(wanted)
        return True

    def _run(self, name: str, report: Report) -> bool:
        folder, service = self.folder(name), self._service(name)
        config = folder.config()
        assert config is not None, "it has been made"
        for orphan in self._services.recover():  # the supervisor was killed: machines need a new one
            self._services.start(orphan)
        self._services.install(
            ServiceSpec(
                name=service,
                description=f"ktool lab {self._lab.name}: machine {name}",
                argv=boot.service_command(folder.path),
                log_path=folder.console,
                restart=RestartPolicy.ON_FAILURE,
                stop_timeout=STOP_SECONDS,
                limits=Limits(open_files=None),
                autostart=config.autostart,
            )
        )
        if self.first_process(name) is not None:
            return False
        report("starting")
        if not self._services.status(service).running:
            self._sweep_host(config)
            self._services.start(service)
        self._wait_for_start(name)
        return True

    def _wait_for_start(self, name: str) -> None:
        service = self._service(name)
        deadline = time.monotonic() + START_SECONDS
        while self.first_process(name) is None:
            status = self._services.status(service)
            if time.monotonic() > deadline or status.restarts >= 2:
                self._services.stop(service)
                raise KtoolError(
                    f"the machine {name} does not start",
                    found=outside_view.plain(tail(self.folder(name).console, lines=5)) or status.state,
                    wanted=f"systemd in it within {START_SECONDS:g} s",
                    mend=f"see {self.folder(name).console}",
                )
            time.sleep(outside_view.POLL_SECONDS)

    def _wait_for_ssh(self, machine: Machine, address: str, port: int, *, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not (
            outside_view.answers_ssh(address, port, timeout=min(2.0, timeout)) and self._lets_users_in(machine.name)
        ):
            down = not self._services.status(self._service(machine.name)).running
            if down or time.monotonic() > deadline:
                raise KtoolError(
                    f"the machine {machine.name} does not answer SSH",
                    found="it is not running" if down else f"nothing at {address}:{port} within {timeout:g} s",
                    wanted=f"an SSH server at {address}:{port}",
                    mend=f"what is seen of it from outside:\n{self.diagnose(machine)}",
                )
            time.sleep(outside_view.POLL_SECONDS)

    def _lets_users_in(self, name: str) -> bool:
        """While a machine boots, only root may log in (pam_nologin(8))."""
        first = self.first_process(name)
        return first is not None and not Path(f"/proc/{first}/root/run/nologin").exists()

    # ---- ending

    def _halt(self, name: str) -> bool:
        service = self._service(name)
        running = self._services.status(service).running
        first = self.first_process(name)
        if running:
            if first is not None:
                outside_view.wait(lambda: outside_view.hears(first), HEARING_SECONDS)
            self._services.stop(service)
            if first is not None and not processes.wait_gone(first, START_SECONDS):
                raise KtoolError(f"the machine {name} does not end", found=f"pid {first}", mend=f"kill -9 {first}")
        config = self.folder(name).config()
        if config is not None:
            self._sweep_host(config)
        return running

    def _sweep_host(self, config: MachineConfig) -> None:
        """Remove what a machine that has ended may have left on the host."""
        net = self._network()
        if net is not None:
            network.disconnect(config, net)
        cgroups.remove(config.identity)

    def _while_down(self, machine: Machine, report: Report, work: Callable[[MachineFolder], None]) -> None:
        folder = self.folder(machine.name)
        config = folder.config()
        if config is None or not config.made:
            raise KtoolError(f"the machine {machine.name} does not exist", wanted="a machine", mend="ktool lab create")
        report("shutting down")
        was_running = self._halt(machine.name)
        try:
            report("copying its files")
            work(folder)
        finally:
            if was_running:
                self._run(machine.name, report)


def _host_resolv_conf() -> str:
    return next((path.read_text() for path in _RESOLV_CONF if path.is_file()), "")
