"""Word from the kernel that links or routes of this network namespace have changed (rtnetlink's multicast groups)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator

log = logging.getLogger(__name__)

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_ROUTE = 0x40


def links(settle: float = 0.1) -> AsyncGenerator[None]:
    """Yields once at the beginning (of what changed before nobody tells: it is time to look), then whenever links came,
    went or changed, `settle` seconds after the first change (a pod that starts makes many)."""
    return _changes(_RTMGRP_LINK, settle)


def routes(settle: float = 0.1) -> AsyncGenerator[None]:
    """Yields once at the beginning, then whenever IPv4 routes came or went. Those that a link takes along are not told,
    but the route to its own network is when it comes up again."""
    return _changes(_RTMGRP_IPV4_ROUTE, settle)


async def _changes(groups: int, settle: float) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, groups))
        yield
        while True:
            try:
                await loop.sock_recv(netlink, 65_536)
                await asyncio.sleep(settle)
                while True:
                    netlink.recv(65_536)
            except BlockingIOError:
                yield
            except OSError as error:
                # more changes than the socket holds: which ones does not matter here
                log.debug("netlink changes: %s", error)
                yield
