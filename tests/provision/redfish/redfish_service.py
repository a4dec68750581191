"""A Redfish service on the loopback: sushy-tools' emulator, with TLS and a password, as a BMC has them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt

from kube import pki
from kube.clock import SystemClock
from provision.inventory.lab import RedfishSettings
from tests.ports import free_port

USER, PASSWORD = "admin", "correct horse"
START_SECONDS = 30.0
# The emulator's fakes take up to eleven seconds for a change of power, by lot; the least will do.
_EMULATOR = "import random; random.randint = min; from sushy_tools.emulator import main; main.main()"
# Emulated machines that exist nowhere but in the emulator's own memory.
FAKE = {
    "SUSHY_EMULATOR_FAKE_DRIVER": True,
    "SUSHY_EMULATOR_FAKE_SYSTEMS": [
        {
            "uuid": f"11111111-2222-3333-4444-55555555550{number}",
            "name": f"metal-{number}",
            "power_state": "Off",
            "nics": [{"mac": f"52:54:00:aa:00:0{number}", "ip": f"198.51.100.2{number}"}],
        }
        for number in (1, 2)
    ],
}


@dataclass(frozen=True)
class RedfishService:
    """A running service. `ca_file` is the authority that vouches for it."""

    url: str
    ca_file: Path
    pid: int

    def settings(self, system: str, **more: Any) -> RedfishSettings:
        """An inventory's settings for one of its systems."""
        return RedfishSettings(**{"url": self.url, "system": system, "user": USER, "ca_file": self.ca_file} | more)


@contextlib.contextmanager
def redfish_service(folder: Path, config: Mapping[str, Any]) -> Iterator[RedfishService]:
    """The emulator with this configuration (sushy-tools' own names), until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    ca = pki.create_ca("bmc-ca", clock=clock)
    server = pki.issue_server(ca, "bmc", dns_names=["localhost"], ips=["127.0.0.1"], clock=clock)
    pki.save_pair(server, cert=folder / "bmc.crt", key=folder / "bmc.key")
    (folder / "ca.crt").write_bytes(ca.cert_pem)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, prefix=b"2b")).decode().replace("$2b$", "$2y$")
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    port = free_port()
    settings = {
        "SUSHY_EMULATOR_LISTEN_IP": "127.0.0.1",
        "SUSHY_EMULATOR_LISTEN_PORT": port,
        "SUSHY_EMULATOR_SSL_CERT": str(folder / "bmc.crt"),
        "SUSHY_EMULATOR_SSL_KEY": str(folder / "bmc.key"),
        "SUSHY_EMULATOR_AUTH_FILE": str(folder / "htpasswd"),
        "SUSHY_EMULATOR_STATE_DIR": str(folder),
        **config,
    }
    (folder / "emulator.conf").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _EMULATOR, "--config", str(folder / "emulator.conf")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(process, port, folder / "emulator.log")
        yield RedfishService(f"https://127.0.0.1:{port}", folder / "ca.crt", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, f"the emulator did not start:\n{log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, "the emulator does not listen"
        time.sleep(0.1)
