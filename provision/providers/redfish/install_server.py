"""The HTTP server that installs machines: it hands out the installer and the image, and hears what the installer says.

Each installation has a URL of its own with a secret in it, which is told to this one machine only (by dnsmasq, to its
hardware address) and ends with the installation. Without it nothing can be read or reported. Boot scripts of machines
that are not to be installed just let them go on to their disk.

It runs in threads of ktool's process: if ktool dies, so does it, and an installer that loses it switches its machine
off.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kube.errors import KtoolError
from provision.providers.provider import Report
from provision.providers.redfish import ipxe

logger = logging.getLogger(__name__)

BODY_BYTES = 4096
BLOCK_BYTES = 1 << 20
SOCKET_SECONDS = 120.0
FIRST_WORD_SECONDS = 900.0  # a server's firmware takes minutes before it looks at its network
SILENCE_SECONDS = 300.0
LOOK_SECONDS = 10.0
LINES_KEPT = 20
LINE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Installed:
    """What a successful installer reported. `address` is where it spoke from."""

    host_key: str
    disk: str
    address: str


@dataclass(frozen=True, slots=True)
class _Word:
    """Something that an installer did or said; the last one of an installation has `installed` or `failed`."""

    text: str
    installed: Installed | None = None
    failed: bool = False


@dataclass(slots=True)
class Installing:
    """One machine's installation under way. `files` are those that can be fetched, by name; `texts` small contents."""

    name: str
    mac: str
    files: dict[str, Path]
    texts: dict[str, bytes]
    words: queue.SimpleQueue[_Word] = field(default_factory=queue.SimpleQueue)
    heard: list[str] = field(default_factory=list)

    def wait(
        self,
        report: Report,
        *,
        first: float = FIRST_WORD_SECONDS,
        silence: float = SILENCE_SECONDS,
        is_off: Callable[[], bool] = lambda: False,
    ) -> Installed:
        """Wait for the end, reporting what is heard. `is_off` looks at the machine's power while nothing is heard.

        KtoolError if the installer fails, does not begin within `first` seconds, says nothing (and fetches nothing) for
        `silence` seconds, or the machine is off without a result.
        """
        patience = first
        deadline = time.monotonic() + patience
        off = False
        while True:
            try:
                word = self.words.get(timeout=max(0.0, min(deadline - time.monotonic(), LOOK_SECONDS)))
            except queue.Empty:
                if off:
                    raise self._switched_off() from None
                if time.monotonic() >= deadline:
                    raise self._silent(patience) from None
                # Its last word may be on its way: off counts when it is still silent at the next look.
                off = is_off()
                continue
            patience = silence
            deadline = time.monotonic() + patience
            if word.failed:
                raise KtoolError(
                    f"{self.name}: the installer failed",
                    found=word.text,
                    wanted="an installed machine",
                    mend="mend what it says and run the same command again: it installs the machine anew",
                )
            report(word.text)
            if word.installed is not None:
                return word.installed

    def say(self, text: str, *, installed: Installed | None = None, failed: bool = False) -> None:
        """Note what was heard."""
        self.heard = [*self.heard[-LINES_KEPT + 1 :], text]
        self.words.put(_Word(text, installed, failed))

    def _switched_off(self) -> KtoolError:
        last = f"its last word: {self.heard[-1]}" if self.heard else "it said nothing"
        return KtoolError(
            f"{self.name}: the machine switched itself off before it was installed",
            found=last,
            wanted="an installed machine",
            mend="its console has the reason (no network card with its address, no DHCP answer, a lost connection)",
        )

    def _silent(self, seconds: float) -> KtoolError:
        if not self.heard:
            return KtoolError(
                f"{self.name}: it was switched on, but does not boot from the network",
                found=f"no request from {self.mac} within {seconds:.0f} s",
                wanted="a machine that loads its installer",
                mend="check the cable, that `ktool_mac` is the network card that boots, and that network boot is"
                " switched on in the firmware",
            )
        return KtoolError(
            f"{self.name}: the installer has fallen silent",
            found=f"nothing for {seconds:.0f} s after: {self.heard[-1]}",
            wanted="an installed machine",
            mend="look at the machine's console, then run the same command again: it installs the machine anew",
        )


class InstallServer:
    """Serves on one address while it is open. `names` are the machines that may ask, by hardware address."""

    def __init__(self, address: str, names: dict[str, str], *, port: int = 0) -> None:
        self._secrets = {mac.lower(): secrets.token_urlsafe(24) for mac in names}
        self._names = {mac.lower(): name for mac, name in names.items()}
        self._running: dict[str, Installing] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            """Requests to this very server."""

            install_server = server

        try:
            self._http = ThreadingHTTPServer((address, port), Handler)
        except OSError as error:
            raise KtoolError(
                "ktool's server for network boot cannot be started",
                found=f"{address}:{port}: {error.strerror}",
                wanted="an address of this machine",
                mend="name the interface that the machines boot from: ktool_network_bridge",
            ) from error
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, name="ktool-install-server", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._http.server_address[1])

    def url(self, mac: str) -> str:
        """The base URL of a machine, with its secret."""
        return f"http://{self._http.server_address[0]!s}:{self.port}/{self._secrets[mac.lower()]}"

    def script_url(self, mac: str) -> str:
        """Where iPXE finds what to do."""
        return f"{self.url(mac)}/boot.ipxe"

    @contextlib.contextmanager
    def installing(self, installing: Installing) -> Iterator[Installing]:
        """Serve an installation while the block runs. One at a time for each machine."""
        mac = installing.mac.lower()
        with self._lock:
            self._running[mac] = installing
        try:
            yield installing
        finally:
            with self._lock:
                del self._running[mac]

    def close(self) -> None:
        """Stop serving; whoever fetches something is cut off."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=10)

    def find(self, secret: str) -> tuple[str, Installing | None] | None:
        """Which machine a secret belongs to: its name, and its installation if there is one."""
        for mac, own in self._secrets.items():
            if hmac.compare_digest(own.encode(), secret.encode()):
                with self._lock:
                    return self._names[mac], self._running.get(mac)
        return None


class _Handler(BaseHTTPRequestHandler):
    """One request (http.server). Paths are `/SECRET/NAME`."""

    install_server: InstallServer
    server_version = "ktool"
    sys_version = ""
    timeout = SOCKET_SECONDS

    def do_GET(self) -> None:
        """Hand out the boot script, a text or a file."""
        secret, _, name = self.path.lstrip("/").partition("/")
        known = self.install_server.find(secret)
        if known is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        machine, installing = known
        if name == "boot.ipxe":
            self._script(machine, installing)
        elif installing is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif name in installing.texts:
            self._send(installing.texts[name])
        elif name in installing.files:
            self._send_file(installing, name)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Hear the installer."""
        secret, _, name = self.path.lstrip("/").partition("/")
        known = self.install_server.find(secret)
        installing = known[1] if known else None
        length = int(self.headers.get("Content-Length") or 0)
        if installing is None or name not in ("say", "failed", "done") or length > BODY_BYTES:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        text = printable(self.rfile.read(length).decode(errors="replace"))
        if name == "say":
            installing.say(text)
        elif name == "failed":
            installing.say(text or "it did not say why", failed=True)
        else:
            result = parse_result(text, address=str(self.client_address[0]))
            if result is None:
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            installing.say(f"installed on {result.disk}", installed=result)
        self._send(b"")

    def _script(self, machine: str, installing: Installing | None) -> None:
        if installing is None:
            self._send(ipxe.local_script(machine).encode())
            return
        installing.say("booting from the network")
        url = self.install_server.url(installing.mac)
        self._send(ipxe.install_script(machine, url=url, mac=installing.mac).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_file(self, installing: Installing, name: str) -> None:
        path = installing.files[name]
        names = list(installing.files)
        installing.say(f"loading {name}: {names.index(name) * 100 // len(names)} %")
        with path.open("rb") as file:
            size = path.stat().st_size
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, BLOCK_BYTES)

    def handle(self) -> None:
        """A peer that goes away in the middle is no failure of ours; what it means shows elsewhere."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError) as error:
            logger.debug("a machine's connection ended: %s", error)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Paths hold secrets, so requests are not logged."""


def printable(text: str) -> str:
    """One line of what a machine said, without what could move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text[:LINE_CHARACTERS]).strip()


def parse_result(text: str, *, address: str) -> Installed | None:
    """The installer's last word: `DISK KEYTYPE KEY`; None if it is not of that form."""
    words = text.split()
    if len(words) != 3 or words[1] != "ssh-ed25519" or not words[0].startswith("/dev/"):
        return None
    return Installed(host_key=f"{words[1]} {words[2]}", disk=words[0], address=address)
