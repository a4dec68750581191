"""A connection to one machine over SSH: one TCP connection, used for everything, by as many threads as like.

Nothing is sent before the server has shown a host key that is known to be the machine's. Which keys are known the
`Endpoint` says: pinned ones, or those in known_hosts files. A key that is not known is never taken on trust: the error
shows it, and how to find out whether it is the right one.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from provision.ssh import errors, known_hosts
from provision.ssh.authentication import PASSWORD_TRIES, Ask, authenticate
from provision.ssh.commands import Become, Commands, Output
from provision.ssh.endpoint import Endpoint
from provision.ssh.execution import Execution
from provision.ssh.forward import LocalForward
from provision.ssh.known_hosts import HostKey
from provision.ssh.shell import OnLine

if TYPE_CHECKING:
    from paramiko import Channel, Transport

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 15
# A peer that acknowledges nothing for so long is gone; the keepalives see to it that there is something to acknowledge.
DEAD_AFTER_SECONDS = 60
# A slow machine (a guest without hardware help) needs seconds for the key exchange, and again for sudo's first call.
HANDSHAKE_SECONDS = 45.0
CHANNEL_SECONDS = 30.0
# sshd lets 10 sessions into one connection (MaxSessions).
SESSIONS = 8
_TCP_USER_TIMEOUT = 18  # linux/tcp.h


@dataclass(frozen=True, slots=True)
class _Trust:
    """Which host keys will do, and what to say if none comes."""

    keys: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]
    pinned: bool
    files: tuple[Path, ...]


class Connection(Commands):
    """An open connection. A `Shell`; made by `Connection.open`, or by `reach`, which waits for the machine."""

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        host_key: HostKey,
        *,
        own_jump: Connection | None = None,
        local_address: str = "",
        ask: Ask | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._ask = ask
        self._become_password = endpoint.become_password
        self._questions = 0
        self._local_address = local_address
        self._transport = transport
        self._host_key = host_key
        self._own_jump = own_jump
        self._forwards: list[LocalForward] = []
        self._sessions = threading.BoundedSemaphore(SESSIONS)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, endpoint: Endpoint, *, ask: Ask | None = None, via: Connection | None = None) -> Connection:
        """Connect and log in, through the endpoint's jump hosts if it has any.

        `ask` is called for passphrases and passwords that are missing. `via` is an open connection to the endpoint's
        jump host; it stays open at the end, one that is made here does not. Raises an error of provision.ssh.errors.
        """
        own = cls.open(endpoint.jump, ask=ask) if endpoint.jump is not None and via is None else None
        through = via or own
        try:
            if through is None:
                stream: socket.socket | Channel = _connect(endpoint)
            else:
                stream = through.open_channel(endpoint.address, endpoint.port, timeout=endpoint.connect_timeout)
            try:
                transport, host_key = _handshake(endpoint, stream, ask)
            except BaseException:
                stream.close()
                raise
        except BaseException:
            if own is not None:
                own.close()
            raise
        here = str(stream.getsockname()[0]) if isinstance(stream, socket.socket) else ""
        return cls(endpoint, transport, host_key, own_jump=own, local_address=here, ask=ask)

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.endpoint.name

    @property
    def host_key(self) -> str:
        """The key that the server showed and that was accepted: "TYPE DATA", to be pinned."""
        return str(self._host_key)

    @property
    def local_address(self) -> str:
        """This side's address in the connection, as the machine may reach us; empty behind a jump host."""
        return self._local_address

    @property
    def active(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return bool(self._transport.is_active())

    def open_channel(self, host: str, port: int, *, timeout: float = CHANNEL_SECONDS) -> Channel:
        """A connection from the machine to `host:port`, as something like a socket (OpenSSH: `ssh -W`)."""
        from paramiko import ChannelException, SSHException

        try:
            return self._transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=timeout)
        except ChannelException as error:
            forbidden = error.code == 1  # RFC 4254: SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
            raise errors.ForwardRefused(
                self.name,
                f"did not pass a connection on to {host}:{port}",
                found=error.text,
                wanted="AllowTcpForwarding yes in its sshd_config" if forbidden else f"a listener at {host}:{port}",
                mend="allow it and restart sshd" if forbidden else f"see there: ss -ltn 'sport = {port}'",
            ) from error
        except (SSHException, EOFError, OSError) as error:
            raise self._lost(str(error)) from error

    def forward_local(self, remote_host: str, remote_port: int, *, local_port: int = 0) -> tuple[str, int]:
        """See `Shell.forward_local`; `local_port` is a wanted port here (0: any that is free)."""
        forward = LocalForward(lambda: self.open_channel(remote_host, remote_port), port=local_port)
        with self._lock:
            self._forwards.append(forward)
        return forward.address

    def close(self) -> None:
        """End the connection and what goes through it; harmless to call again."""
        with self._lock:
            forwards, self._forwards = self._forwards, []
        for forward in forwards:
            forward.close()
        self._transport.close()
        if self._own_jump is not None:
            self._own_jump.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _become(self) -> Become | None:
        if self.endpoint.user == "root" or not self.endpoint.become:
            return None
        return Become.new(self._become_password)

    def _learn(self) -> bool:
        with self._lock:
            if self._ask is None or self.endpoint.become_password or self._questions == PASSWORD_TRIES:
                return False
            self._questions += 1
            self._become_password = self._ask(f"sudo password for {self.endpoint.user}@{self.name}: ") or ""
            return bool(self._become_password)

    def _execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Path,
        timeout: float,
        become: Become | None,
        on_line: OnLine | None,
    ) -> Output:
        from paramiko import SSHException

        begun = time.monotonic()
        with self._sessions:
            try:
                channel = self._transport.open_session(timeout=CHANNEL_SECONDS)
                channel.exec_command(shlex.join(argv))
            except (SSHException, EOFError, OSError) as error:
                raise self._lost(str(error)) from error
            remaining = max(timeout - (time.monotonic() - begun), 1.0)
            try:
                output = Execution(channel, become=become, on_line=on_line).run(stdin, timeout=remaining)
            except OSError as error:
                raise self._lost(str(error)) from error
        if output.status is None and not self.active:
            raise self._lost("it ended while a command ran")
        return output

    def _lost(self, found: str) -> errors.ConnectionLost:
        return errors.ConnectionLost(
            self.name,
            "the SSH connection was lost",
            found=found or "it ended",
            wanted="a connection that stands until the work is done",
            mend="run the command again; it goes on where this one stopped",
        )


def _quiet_log() -> str:
    """The name of the log for paramiko, which tells every failed attempt as an error with its traceback: what it has
    to say stands in our errors, and the rest is for -v."""
    name = f"{__name__}.transport"
    if not logger.isEnabledFor(logging.DEBUG):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return name


def _connect(endpoint: Endpoint) -> socket.socket:
    try:
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout=endpoint.connect_timeout)
    except OSError as error:
        raise errors.of_socket(endpoint, error) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, DEAD_AFTER_SECONDS * 1000)
    return sock


def _handshake(endpoint: Endpoint, stream: socket.socket | Channel, ask: Ask | None) -> tuple[Transport, HostKey]:
    """Exchange keys, check the server's, log in."""
    from paramiko import SSHException, Transport

    trust = _trust(endpoint)
    transport = Transport(stream)
    transport.set_log_channel(_quiet_log())
    try:
        patience = max(HANDSHAKE_SECONDS, endpoint.connect_timeout)
        transport.banner_timeout = endpoint.connect_timeout
        transport.handshake_timeout = patience
        transport.auth_timeout = patience
        _prefer(transport, trust.keys)
        try:
            transport.start_client(timeout=patience)
            shown = transport.get_remote_server_key()
        except (SSHException, EOFError, OSError) as error:
            raise _not_spoken(endpoint, error) from error
        host_key = HostKey(shown.get_name(), shown.get_base64())
        _check(endpoint, trust, host_key)
        transport.set_keepalive(KEEPALIVE_SECONDS)
        authenticate(transport, endpoint, ask)
    except BaseException:
        transport.close()
        raise
    return transport, host_key


def _not_spoken(endpoint: Endpoint, error: Exception) -> errors.SSHError:
    if isinstance(error.__context__, TimeoutError):  # while the server's first line was awaited
        return errors.Unanswered(
            endpoint.name,
            "accepts the connection and then says nothing",
            found=f"no SSH banner from {endpoint.address}:{endpoint.port} within {endpoint.connect_timeout:g} s",
            wanted="an SSH server",
            mend="see that sshd runs there (systemctl status ssh), and that the port is its",
        )
    return errors.broken(endpoint, str(error) or type(error).__name__)


def _trust(endpoint: Endpoint) -> _Trust:
    if endpoint.host_keys:
        return _Trust(tuple(known_hosts.parse(key) for key in endpoint.host_keys), (), True, ())
    address = known_hosts.host_name(endpoint.address, endpoint.port)
    files = endpoint.known_hosts or known_hosts.USERS_FILES
    # A file of our own has machines by name; in the user's a name would be somebody else's machine.
    users = [file for file in files if file in known_hosts.USERS_FILES]
    own = [file for file in files if file not in known_hosts.USERS_FILES]
    by_name, by_address = known_hosts.lookup(own, [endpoint.name, address]), known_hosts.lookup(users, [address])
    keys = tuple(dict.fromkeys(by_name.keys + by_address.keys))
    return _Trust(keys, by_name.revoked + by_address.revoked, False, tuple(files))


def _prefer(transport: Transport, keys: Sequence[HostKey]) -> None:
    """Ask for the types of key that are known: otherwise the server may show another of its keys."""
    wanted = {"rsa-sha2-512", "rsa-sha2-256"} if any(key.type == "ssh-rsa" for key in keys) else set()
    wanted |= {key.type for key in keys}
    options = transport.get_security_options()
    options.key_types = tuple(sorted(options.key_types, key=lambda kind: kind not in wanted))


def _check(endpoint: Endpoint, trust: _Trust, offered: HostKey) -> None:
    shown = f"{offered.type} {offered.fingerprint}"
    where = "its pin" if trust.pinned else " or ".join(map(str, trust.files[:2]))
    on_console = f"ssh-keygen -lf /etc/ssh/ssh_host_{offered.type.removeprefix('ssh-').split('-')[0]}_key.pub"
    if offered in trust.revoked:
        raise errors.HostKeyMismatch(
            endpoint.name,
            "showed a revoked host key",
            offered=str(offered),
            found=shown,
            wanted="a key that is not marked @revoked",
            mend="do not use this machine until it has new keys",
        )
    if offered in trust.keys:
        return
    if trust.keys:
        expected = ", ".join(f"{key.type} {key.fingerprint}" for key in trust.keys)
        raise errors.HostKeyMismatch(
            endpoint.name,
            "is not the machine that it was: its host key differs",
            offered=str(offered),
            found=shown,
            wanted=f"{expected} (from {where})",
            mend="if it was installed anew, compare on its console "
            f"(`{on_console}`) and replace the old key; otherwise somebody is in between",
        )
    name = known_hosts.host_name(endpoint.address, endpoint.port)
    raise errors.HostKeyUnknown(
        endpoint.name,
        "its host key is not known",
        offered=str(offered),
        found=shown,
        wanted=f"a key in {where}, or pinned by ktool_ssh_host_key in the inventory",
        mend=f"compare on the machine's console: `{on_console}`; if it is the same, set "
        f'ktool_ssh_host_key: "{offered}", or add it to known_hosts: '
        f"echo '{name} {offered}' >> ~/.ssh/known_hosts",
    )
