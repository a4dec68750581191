"""Asking for passwords and passphrases on the terminal, one question at a time."""

from __future__ import annotations

import getpass
import threading
from pathlib import Path

from provision.ssh.authentication import Ask


def terminal() -> Ask | None:
    """What asks on the terminal of this process without showing the answer; None where there is none.

    Several machines are worked on at once: questions wait for each other.
    """
    try:
        with Path("/dev/tty").open("rb"):
            pass
    except OSError:
        return None
    one_at_a_time = threading.Lock()

    def ask(question: str) -> str | None:
        with one_at_a_time:
            try:
                return getpass.getpass(question) or None
            except EOFError:
                return None

    return ask
