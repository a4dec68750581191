"""The connection to libvirt: opened when it is first needed, and its errors told as what a user can mend."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from kube.errors import KtoolError
from provision.ssh.endpoint import Endpoint

# libvirt's objects have no types of their own: what is passed around under this name is one of them.
Handle = Any


@dataclass(frozen=True, slots=True)
class Place:
    """What a libvirt URI says of where it leads. `host` empty: this machine; `session`: a plain user's libvirt."""

    uri: str
    host: str = ""
    user: str = ""
    port: int = 0
    session: bool = False
    keyfile: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the machines are made on this host."""
        return not self.host

    @property
    def jump(self) -> Endpoint | None:
        """How SSH passes to machines that only the libvirt host reaches; None where that is this machine."""
        if self.is_local:
            return None
        return Endpoint(
            name=self.host,
            address=self.host,
            port=self.port or 22,
            user=self.user or getpass.getuser(),
            identity_files=(Path(self.keyfile),) if self.keyfile else (),
            become=False,
        )

    def pool_path(self, pool: str) -> str:
        """The folder for a lab's disks on the libvirt host. KtoolError for a remote session, whose home is unknown."""
        if not self.session:
            return f"/var/lib/libvirt/images/{pool}"
        if not self.is_local:
            raise KtoolError(
                "a remote libvirt session is not supported",
                found=self.uri,
                wanted="the system's libvirt of that host, for example qemu+ssh://root@host/system",
            )
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
        return f"{data}/libvirt/images/{pool}"


def place(uri: str) -> Place:
    """Read a libvirt URI (libvirt: "Connection URIs")."""
    parts = urllib.parse.urlsplit(uri)
    options = urllib.parse.parse_qs(parts.query)
    return Place(
        uri=uri,
        host=parts.hostname or "",
        user=parts.username or "",
        port=parts.port or 0,
        session=parts.path == "/session",
        keyfile=next(iter(options.get("keyfile", [])), ""),
    )


class Connection:
    """One connection, shared by the threads that work on a lab's machines."""

    def __init__(self, uri: str) -> None:
        self.place = place(uri)
        self._lock = threading.Lock()
        self._handle: Handle = None

    @property
    def handle(self) -> Handle:
        """libvirt's connection (virConnect). KtoolError if there is none to be had."""
        with self._lock:
            if self._handle is None or not self._handle.isAlive():
                # Errors are exceptions here; by default libvirt prints each one as well.
                libvirt.registerErrorHandler(lambda *_: None, None)
                try:
                    self._handle = libvirt.open(self.place.uri)
                except libvirt.libvirtError as error:
                    raise unreachable(self.place, error.get_error_message() or str(error)) from error
            return self._handle

    def close(self) -> None:
        """Close the connection; it opens again when it is needed."""
        with self._lock:
            if self._handle is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._handle.close()
                self._handle = None


def unreachable(where: Place, message: str) -> KtoolError:
    """Why libvirt does not answer, and what mends it."""
    lower = message.lower()
    if not where.is_local:
        mend = f"try it by hand: virsh -c {shlex.quote(where.uri)} list"
    elif "permission denied" in lower or "authentication" in lower or "polkit" in lower:
        mend = "add yourself to the group libvirt (usermod -aG libvirt $USER, then log in again), or use sudo"
    elif where.session:
        mend = "apt-get install libvirt-daemon qemu-system-x86 (and set XDG_RUNTIME_DIR)"
    else:
        mend = "systemctl start libvirtd (apt-get install libvirt-daemon-system qemu-system-x86 if it is missing)"
    return KtoolError("libvirt does not answer", found=f"{where.uri}: {message}", wanted="a connection", mend=mend)


@contextlib.contextmanager
def doing(what: str, *, wanted: str = "", mend: str = "") -> Iterator[None]:
    """What libvirt refuses in the block becomes a KtoolError that begins with `what`."""
    try:
        yield
    except libvirt.libvirtError as error:
        message = error.get_error_message() or str(error)
        raise KtoolError(
            what,
            found=message,
            wanted=wanted or "libvirt does what it is asked",
            mend=mend or mend_for(message) or "what libvirt says of it: journalctl -u libvirtd",
        ) from error


# The daemon went away while it was talked to.
_LOST = ("client socket is closed", "connection reset", "end of file while reading", "broken pipe", "keepalive")


def mend_for(message: str) -> str:
    """What mends some of libvirt's usual complaints; empty for others."""
    lower = message.lower()
    if "permission denied" in lower:
        return "let QEMU's user read the file, or see `user` and `group` in /etc/libvirt/qemu.conf"
    if ("cannot find" in lower and "emulator" in lower) or "could not find capabilities" in lower:
        return "apt-get install qemu-system-x86"
    if "cannot allocate memory" in lower or "cannot set up guest memory" in lower:
        return "give the machines less memory: ktool_memory_mib in the inventory"
    if "virtlogd" in lower or "virtlogd-sock" in lower:
        return "systemctl start virtlogd.socket"
    if any(sign in lower for sign in _LOST):
        return "systemctl status libvirtd; when it runs again, the same command goes on"
    if "no space left" in lower:
        return "make room on the libvirt host"
    if "dnsmasq" in lower:
        return "apt-get install dnsmasq-base, or look which program uses port 53 or 67 of that address"
    return ""


def missing(error: libvirt.libvirtError) -> bool:
    """Whether an error says that there is no such thing."""
    return error.get_error_code() in (
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
    )


def lookup(find: Any, name: str) -> Handle:
    """What one of libvirt's lookup functions finds; None if there is nothing of that name."""
    with doing(f"libvirt does not tell whether there is {name}"):
        try:
            return find(name)
        except libvirt.libvirtError as error:
            if missing(error):
                return None
            raise
