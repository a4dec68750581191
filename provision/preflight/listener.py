"""Runs on a machine by `python3 -`: listens on ports until so many connections came, or so many seconds passed.

Like the probe: standard library only, from Python 3.6 on.
"""

import json
import os
import select
import socket
import sys
import time

GREETING = b"ktool\n"


def main() -> None:
    """Listen, say so, greet whoever comes."""
    want = json.loads(sys.argv[1])
    sockets = []
    for port in want["ports"]:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", port))
        one.listen(128)
        sockets.append(one)
    print("listening", os.getpid(), flush=True)
    deadline = time.monotonic() + want["seconds"]
    came = 0
    while came < want["connections"] and time.monotonic() < deadline:
        for one in select.select(sockets, [], [], max(deadline - time.monotonic(), 0))[0]:
            client, _ = one.accept()
            came += 1
            try:
                client.settimeout(1)
                client.sendall(GREETING)
            except OSError:
                pass
            client.close()


if __name__ == "__main__":
    main()
