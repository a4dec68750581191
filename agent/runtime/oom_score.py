"""How low a container's oom_score_adj may be on this node.

Kubernetes gives important pods a negative score. The kernel lets only a process with CAP_SYS_RESOURCE lower the score
below its own, and where the engine lacks it (in many virtual machines and containers), a container with a negative
score does not start at all, with an error that speaks of a pipe. So the engine's capabilities are read first.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

CAP_SYS_RESOURCE = 24
LOWEST = -1000
HIGHEST = 1000


def lowest_allowed(status: str, own_score: int) -> int:
    """The lowest score that a process may set.

    `status` is the text of its /proc/PID/status, `own_score` its own oom_score_adj.
    """
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            capabilities = int(line.split()[1], 16)
            return LOWEST if capabilities >> CAP_SYS_RESOURCE & 1 else own_score
    return own_score


def clamp(score: int, lowest: int) -> int:
    """`score` within what the node allows."""
    return min(max(score, lowest), HIGHEST)


def lowest_for_server(path: Path) -> int:
    """The lowest score that the process listening on this unix socket may set.

    Raises OSError if nothing listens there.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = struct.unpack("3i", credentials)[0]
    # The kernel says 0 for a process that this namespace cannot see; what we may is then the best guess.
    process = Path("/proc") / str(pid or os.getpid())
    return lowest_allowed((process / "status").read_text(), int((process / "oom_score_adj").read_text()))
