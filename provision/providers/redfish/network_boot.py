"""Network boot while it is needed: dnsmasq and the install server, shared by all machines of a lab being installed.

The first installation starts both, the last one that ends stops them. dnsmasq is a process of its own (it binds
privileged ports and then gives up its privileges); it is known by its pid and a mark in its environment, so that one
which outlived a killed ktool is found and ended by the next.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from provision import processes
from provision.machine import find_command
from provision.providers.redfish.dnsmasq_conf import BIOS_LOADER, BootHost, NetworkBoot, dnsmasq_conf
from provision.providers.redfish.install_server import InstallServer
from provision.providers.redfish.segment import Segment

MARK_VARIABLE = "KTOOL_NETWORK_BOOT"
LOADERS = Path("/usr/lib/ipxe")
START_SECONDS = 10.0
STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Bootable:
    """A machine that may boot from the network; `address` is the one that it is to get, if ktool gives it."""

    name: str
    mac: str
    address: str = ""


class NetworkBootService:
    """dnsmasq and the install server of one lab; `folder` gets their files.

    `segment` and `machines` are asked for when the service starts. `proxy`: another DHCP server gives the addresses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment: Callable[[], Segment],
        machines: Callable[[], list[Bootable]],
        proxy: bool,
        loaders: Path = LOADERS,
    ) -> None:
        self._folder = folder
        self._segment = segment
        self._machines = machines
        self._proxy = proxy
        self._loaders = loaders
        self._lock = threading.Lock()
        self._users = 0
        self._server: InstallServer | None = None
        self._dnsmasq: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """dnsmasq's log."""
        return self._folder / "dnsmasq.log"

    @contextlib.contextmanager
    def running(self) -> Iterator[InstallServer]:
        """The install server, with dnsmasq beside it, until the block ends.

        KtoolError if dnsmasq or iPXE is missing, or a port is taken.
        """
        with self._lock:
            if self._server is None:
                self._server = self._start()
            self._users += 1
            server = self._server
        try:
            yield server
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._server = None
                    server.close()
                    self._stop_dnsmasq()

    def end_leftover(self) -> bool:
        """End a dnsmasq that outlived its ktool; True if there was one."""
        pid_file = self._folder / "dnsmasq.pid"
        try:
            pid = int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return False
        mark = self._mark
        there = processes.is_alive(pid) and processes.has_mark(pid, mark)
        if there and not processes.end(pid, timeout=STOP_SECONDS, mark=mark):
            raise KtoolError("dnsmasq of an earlier run does not end", found=f"process {pid}", wanted="none")
        pid_file.unlink(missing_ok=True)
        return there

    @property
    def _mark(self) -> str:
        return f"{MARK_VARIABLE}={self._folder}"

    def _start(self) -> InstallServer:
        dnsmasq = find_command("dnsmasq")
        if not dnsmasq or not (self._loaders / BIOS_LOADER).exists():
            raise KtoolError(
                "machines cannot be booted from the network: programs are missing",
                found=f"dnsmasq: {dnsmasq or 'none'}, iPXE: {'there' if self._loaders.exists() else 'none'}",
                wanted="both",
                mend="apt-get install dnsmasq-base ipxe",
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self.end_leftover()
        segment = self._segment()
        machines = self._machines()
        server = InstallServer(segment.address, {machine.mac: machine.name for machine in machines})
        try:
            self._start_dnsmasq(dnsmasq, server, segment, machines)
        except BaseException:
            server.close()
            raise
        return server

    def _start_dnsmasq(self, dnsmasq: str, server: InstallServer, segment: Segment, machines: list[Bootable]) -> None:
        boot = NetworkBoot(
            interface=segment.interface,
            network=segment.network,
            hosts=[
                BootHost(name=one.name, mac=one.mac, script_url=server.script_url(one.mac), address=one.address)
                for one in machines
            ],
            loaders=self._loaders,
            folder=self._folder,
            proxy=self._proxy,
            gateway=segment.gateway,
        )
        for old in (boot.lease_file, boot.log_file):
            old.unlink(missing_ok=True)
        conf = self._folder / "dnsmasq.conf"
        conf.touch(mode=0o600)  # it holds the machines' secrets
        conf.write_text(dnsmasq_conf(boot))
        process = subprocess.Popen(
            [dnsmasq, f"--conf-file={conf}", "--keep-in-foreground"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, MARK_VARIABLE: str(self._folder)},
            start_new_session=True,  # Ctrl-C is for ktool, which stops it in order
        )
        self._dnsmasq = process
        deadline = time.monotonic() + START_SECONDS
        while not boot.pid_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self._stop_dnsmasq()
                said = process.communicate()[1].decode(errors="replace").strip()
                raise KtoolError(
                    f"dnsmasq does not start on {segment.interface}",
                    found=said or f"not ready after {START_SECONDS:.0f} s",
                    wanted="a DHCP and TFTP server there",
                    mend=f"another DHCP server on this very host may hold the port: ss -ulpn 'sport = 67'; see {conf}",
                )
            time.sleep(_POLL_SECONDS)

    def _stop_dnsmasq(self) -> None:
        process, self._dnsmasq = self._dnsmasq, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        finally:
            if process.stderr is not None and process.returncode == 0:
                process.stderr.close()
        for name in ("dnsmasq.pid", "dnsmasq.conf", "dnsmasq.leases"):
            (self._folder / name).unlink(missing_ok=True)
