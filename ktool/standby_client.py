"""The command `ktool` where a process with everything loaded stands by (ktool/standby.py, which has the protocol).

Run as a file of its own, without ktool's packages in sight: that is what makes it quick.

    python -I -S standby_client.py SOCKET INTERPRETER ARGUMENT...
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

COMMAND = "from ktool.__main__ import main; import sys; sys.exit(main())"


# Of a message to the process that stands by; who has more to say loads ktool anew.
MESSAGE_BYTES = 128 * 1024


def main(path: str, interpreter: str, arguments: list[str]) -> int:
    """Have the command run; its status. Where nobody stands by (any more), it runs as ever, in this process's place."""
    try:
        server, pid = _ask(path, arguments)
    except (OSError, ValueError):
        # Nothing was begun: a command's pid is told before it does anything.
        os.execv(interpreter, [interpreter, "-c", COMMAND, *arguments])  # noqa: S606 (what is called here)
    forwarded = 0

    def forward(received: int, _: object) -> None:
        nonlocal forwarded
        forwarded = received
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, received)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, forward)
    try:
        server.send(b"begin")
        said = server.recv(64)
    except OSError:
        said = b""
    # One that ended by a signal says nothing; a shell would say it so.
    return int(said) if said else 128 + (forwarded or signal.SIGKILL)


def _ask(path: str, arguments: list[str]) -> tuple[socket.socket, int]:
    """The connection, and the pid of the command, which waits for us."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if server.fileno() <= 2:  # in place of a standard file, which is closed
        raise ValueError(server.fileno())
    server.connect(path)
    umask = os.umask(0)
    os.umask(umask)
    variables = [b"%b=%b" % both for both in os.environb.items()]
    words = [*map(os.fsencode, arguments), *variables]
    message = b"\0".join([os.getcwdb(), b"%d" % umask, b"%d" % len(arguments), *words])
    if len(message) > MESSAGE_BYTES:
        raise ValueError(len(message))
    socket.send_fds(server, [message], [0, 1, 2])
    return server, int(server.recv(64))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
