"""Waiting for a machine until SSH answers, for so long and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from provision.ssh.authentication import Ask
from provision.ssh.connection import Connection
from provision.ssh.endpoint import Endpoint
from provision.ssh.errors import AuthenticationFailed, SSHError
from provision.ssh.jump_hosts import JumpHosts
from provision.ssh.local import LocalConnection

# Each pause is a sixth of what has been waited so far: so much of the time is lost at most when a machine comes up.
FIRST_PAUSE = 0.1
LONGER = 1.2
LONGEST_PAUSE = 2.0


def reach(
    endpoint: Endpoint,
    *,
    timeout: float,
    report: Callable[[str], None] = lambda line: None,
    ask: Ask | None = None,
    settle: float = 0.0,
    jumps: JumpHosts | None = None,
) -> Connection | LocalConnection:
    """A connection, as soon as the machine answers; waits up to `timeout` seconds. This machine itself always does.

    What waiting may mend (refused, no answer, no route, ended in the key exchange) is tried again; the rest fails at
    once: a wrong host key, a name that does not resolve, not being let in. `settle`: for so many seconds of those
    also not being let in is borne, where first-boot seeding may create the user after sshd has started. `report` is
    told when the reason for the waiting changes. `jumps` are jump hosts shared with other machines. The error raised is
    the last attempt's.
    """
    if endpoint.local:
        return LocalConnection(endpoint)
    begun = time.monotonic()
    pause = FIRST_PAUSE
    told = ""
    while True:
        remaining = timeout - (time.monotonic() - begun)
        try:
            via = None
            if jumps is not None and endpoint.jump is not None:
                via = jumps.connection(endpoint.jump, ask=ask)
            return Connection.open(_hurried(endpoint, remaining), ask=ask, via=via)
        except SSHError as error:
            waited = time.monotonic() - begun
            bearable = error.transient or (isinstance(error, AuthenticationFailed) and waited < settle)
            if not bearable or waited + pause >= timeout:
                if bearable:
                    error.found = f"{error.found}; waited {waited:.0f} s"
                raise
            if error.reason != told:
                told = error.reason
                report(f"waiting for SSH: {told}")
        time.sleep(pause)
        pause = min(pause * LONGER, LONGEST_PAUSE)


def _hurried(endpoint: Endpoint, remaining: float) -> Endpoint:
    """The endpoint with a time limit for the attempt that fits into what remains."""
    jump = _hurried(endpoint.jump, remaining) if endpoint.jump is not None else None
    return replace(endpoint, connect_timeout=max(min(endpoint.connect_timeout, remaining), 1.0), jump=jump)
