"""Wake-on-LAN: the frame that switches a sleeping machine on (AMD's "Magic Packet Technology")."""

from __future__ import annotations

import re
import socket

from kube.errors import KtoolError

# The discard service: whoever reads the frame is the network card, not a program.
PORT = 9
REPEATS = 16
TIMES = 3


def magic_packet(mac: str) -> bytes:
    """Six bytes of ones, then the hardware address sixteen times. KtoolError if it is none."""
    digits = re.sub(r"[:.-]", "", mac)
    if not re.fullmatch(r"[0-9a-fA-F]{12}", digits):
        raise KtoolError(
            "this is no hardware address",
            found=repr(mac),
            wanted="six bytes, such as 52:54:00:12:34:56",
            mend="set ktool_mac in the inventory to that of the machine's network card (ip link, there)",
        )
    return b"\xff" * 6 + bytes.fromhex(digits) * REPEATS


def wake(mac: str, *, broadcast: str = "255.255.255.255", port: int = PORT) -> None:
    """Send the packet to a broadcast address, a few times: nobody acknowledges it."""
    packet = magic_packet(mac)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(TIMES):
            sender.sendto(packet, (broadcast, port))
