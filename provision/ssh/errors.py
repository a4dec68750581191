"""What can go wrong between here and a machine's shell, each as an error of its own with its mend.

`transient` says whether waiting may help: a machine that boots refuses, then resets, then answers.
"""

from __future__ import annotations

import errno
import socket
from typing import ClassVar

from kube.errors import KtoolError
from provision.ssh.endpoint import Endpoint


class SSHError(KtoolError):
    """A machine could not be worked with over SSH. `machine` is its name."""

    transient: ClassVar[bool] = False
    # A few words for a line of progress.
    reason: ClassVar[str] = "SSH failed"

    def __init__(self, machine: str, what: str, *, found: str = "", wanted: str = "", mend: str = "") -> None:
        super().__init__(f"{machine}: {what}", found=found, wanted=wanted, mend=mend)
        self.machine = machine


class Refused(SSHError):
    """The machine is there and nothing listens on the port."""

    transient = True
    reason = "connection refused"


class Unanswered(SSHError):
    """No answer in time: not to the connection, or not from the SSH server after it."""

    transient = True
    reason = "no answer"


class NoRoute(SSHError):
    """The network says that the machine cannot be reached."""

    transient = True
    reason = "no route"


class NameUnknown(SSHError):
    """The machine's address is a name that does not resolve."""

    reason = "unknown name"


class Broken(SSHError):
    """The server ended the connection, or spoke something else than SSH, before anybody was let in."""

    transient = True
    reason = "connection broken"


class ConnectionLost(SSHError):
    """An established connection ended while it was used."""

    transient = True
    reason = "connection lost"


class HostKeyError(SSHError):
    """The server did not show a key that is known to be the machine's. `offered` is the line that it showed."""

    reason = "host key not accepted"

    def __init__(
        self, machine: str, what: str, *, offered: str, found: str = "", wanted: str = "", mend: str = ""
    ) -> None:
        super().__init__(machine, what, found=found, wanted=wanted, mend=mend)
        self.offered = offered


class HostKeyUnknown(HostKeyError):
    """No key of this machine is known."""

    reason = "host key unknown"


class HostKeyMismatch(HostKeyError):
    """Another key than the known one: the machine was made anew, or it is another machine."""

    reason = "host key differs"


class AuthenticationFailed(SSHError):
    """The server let us in by none of the ways that we have."""

    reason = "not let in"


class BecomeFailed(SSHError):
    """The user may not become root by sudo."""

    reason = "sudo failed"


class ForwardRefused(SSHError):
    """The server did not pass a connection on: forbidden, or nobody listens there."""

    reason = "forward refused"


def of_socket(endpoint: Endpoint, error: OSError) -> SSHError:
    """The error that a failed TCP connection means."""
    where = f"{endpoint.address}:{endpoint.port}"
    wanted = f"an SSH server at {where}"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return Unanswered(
            endpoint.name,
            "does not answer",
            found=f"no answer from {where} within {endpoint.connect_timeout:g} s",
            wanted=wanted,
            mend="see that the machine runs, that the address is right, and that no firewall drops the port",
        )
    if isinstance(error, socket.gaierror):
        return NameUnknown(
            endpoint.name,
            "its address cannot be found",
            found=f"{endpoint.address!r} does not resolve ({error.strerror})",
            wanted="an address, or a name that resolves",
            mend="set ansible_host in the inventory",
        )
    if isinstance(error, ConnectionRefusedError):
        return Refused(
            endpoint.name,
            "refuses SSH",
            found=f"nothing listens at {where}",
            wanted=wanted,
            mend="start sshd on it (systemctl start ssh), or set ansible_port in the inventory",
        )
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
        return NoRoute(
            endpoint.name,
            "cannot be reached",
            found=f"{where}: {error.strerror}",
            wanted=wanted,
            mend="see that the machine is on, and that this machine has a route to it (ip route get "
            f"{endpoint.address})",
        )
    return broken(endpoint, str(error))


def broken(endpoint: Endpoint, found: str) -> Broken:
    """The server hung up or spoke in riddles before the session stood."""
    return Broken(
        endpoint.name,
        "the SSH connection could not be set up",
        found=found,
        wanted=f"an SSH server at {endpoint.address}:{endpoint.port} that speaks",
        mend="look at sshd's log on the machine (journalctl -u ssh)",
    )
