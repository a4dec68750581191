"""A PXE client's first words, as raw frames: what does a DHCP server tell a machine of this hardware address?

The frames go out of an interface that needs no address, and are broadcast both ways, as firmware does it (RFC 2131,
and the PXE specification's options 60, 93 and 97).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

MAGIC = b"\x63\x82\x53\x63"
DISCOVER, REQUEST, PROXY_PORT = 1, 3, 4011
OPTION_SERVER, OPTION_BOOTFILE, OPTION_ROUTER, OPTION_VENDOR = 54, 67, 3, 43
BIOS, EFI = 0, 7
IPXE = {175: b"\xb1\x05\x01\x10\xec\x81\x39"}


@dataclass(frozen=True)
class Offer:
    """What a server answered."""

    address: str
    boot_file: str
    options: Mapping[int, bytes] = field(default_factory=dict)


def discover(
    interface: str, mac: str, *, architecture: int = BIOS, ipxe: bool = False, timeout: float = 4.0
) -> Offer | None:
    """Send a DHCPDISCOVER; the first answer, or None if there is none in `timeout` seconds."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    transaction = struct.unpack("!I", hardware[2:])[0]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
        wire.bind((interface, 0))
        wire.send(_frame(hardware, _message(hardware, transaction, architecture, ipxe=ipxe)))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            wire.settimeout(left)
            try:
                frame = wire.recv(2048)
            except TimeoutError:
                break
            if offer := _offer(frame, transaction):
                return offer
    return None


def _message(hardware: bytes, transaction: int, architecture: int, *, ipxe: bool) -> bytes:
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, transaction, 0, 0x8000) + bytes(16) + hardware + bytes(10) + bytes(192)
    options: dict[int, bytes] = {
        53: bytes([DISCOVER]),
        55: bytes([1, 3, 6, 43, 60, 66, 67]),
        60: f"PXEClient:Arch:{architecture:05}:UNDI:003000".encode(),
        93: struct.pack("!H", architecture),
        94: b"\x01\x03\x00",
        97: b"\x00" + hardware + bytes(10),
        **(IPXE | {77: b"iPXE"} if ipxe else {}),
    }
    body = b"".join(bytes([code, len(value)]) + value for code, value in options.items())
    return head + MAGIC + body + b"\xff"


def _frame(hardware: bytes, message: bytes) -> bytes:
    udp = struct.pack("!HHHH", 68, 67, 8 + len(message), 0) + message
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return b"\xff" * 6 + hardware + b"\x08\x00" + head + udp


def _offer(frame: bytes, transaction: int) -> Offer | None:
    if frame[23] != 17 or struct.unpack("!H", frame[36:38])[0] != 68:
        return None
    message = frame[42:]
    if message[0] != 2 or struct.unpack("!I", message[4:8])[0] != transaction:
        return None
    options: dict[int, bytes] = {}
    at = 240
    while at < len(message) and message[at] != 255:
        code = message[at]
        if code:
            options[code] = message[at + 2 : at + 2 + message[at + 1]]
            at += 1 + message[at + 1]
        at += 1
    named = options.get(OPTION_BOOTFILE, b"") or message[108:236]
    return Offer(address=socket.inet_ntoa(message[16:20]), boot_file=named.split(b"\0")[0].decode(), options=options)
