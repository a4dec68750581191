"""The command `ktool` where a process with everything loaded stands by (ktool/standby.py, which has the protocol).

Run as a file of its own, without ktool's packages in sight: that is what makes it quick.

    python -I -S standby_client.py SOCKET INTERPRETER ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import socket
import sys

COMMAND = "from ktool.__main__ import main; import sys; sys.exit(main())"


def main(path: str, interpreter: str, arguments: list[str]) -> int:
    """Have the command run; its status. Where nobody stands by any more, it runs as ever, in this process's place."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        server.connect(path)
    except OSError:
        os.execv(interpreter, [interpreter, "-c", COMMAND, *arguments])  # noqa: S606 (what is called here)
    umask = os.umask(0)
    os.umask(umask)
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    fields = [os.getcwd(), str(umask), str(len(arguments)), *arguments, *variables]
    socket.send_fds(server, ["\0".join(fields).encode(errors="surrogateescape")], [0, 1, 2])
    pid = int(server.recv(64) or 0)
    if not pid:
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    return int(server.recv(64) or 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
