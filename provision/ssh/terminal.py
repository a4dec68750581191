"""OpenSSH's own client on the user's terminal: a shell on a machine, with a password that was asked for before.

ssh takes a password from a terminal or from a program that it starts (ssh(1): SSH_ASKPASS), never from its arguments.
So the password lies in a folder that only the user can open, beside a program that hands it over, for as long as ssh
runs. That program answers nothing else: no question for a key's passphrase, and no jump host's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kube.files import write_secret

_ANSWER = """\
#!/bin/sh
case "$1" in
*"$KTOOL_JUMP"*) exit 1 ;;
*[Pp]assword*) exec cat -- "${0%/*}/password" ;;
esac
exit 1
"""


def run(argv: Sequence[str], *, password: str, jump: str) -> int:
    """Run ssh with the terminal that we have, answering its question for a password; its exit status.

    `jump` is in the names of jump hosts, to which that password does not go.
    """
    # What Ctrl-C means is for the other end to say; we wait for ssh in any case. (A handler of ours, other than
    # SIG_IGN, is none of ssh's.)
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with tempfile.TemporaryDirectory(prefix="ktool-ssh-") as folder:
            write_secret(Path(folder, "password"), f"{password}\n".encode())
            program = Path(folder, "answer")
            program.write_text(_ANSWER)
            program.chmod(0o700)
            asking = {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "KTOOL_JUMP": jump}
            # Once: a second question means that it was the wrong one.
            line = [argv[0], "-o", "NumberOfPasswordPrompts=1", *argv[1:]]
            return subprocess.run(line, env={**os.environ, **asking}, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
