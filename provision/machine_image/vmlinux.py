"""Unpacks a Linux kernel, so that a virtual machine need not.

A distribution's kernel (bzImage) unpacks itself when it starts: instant on real hardware, seconds where each
instruction is emulated. QEMU also starts the unpacked ELF file, if the kernel has the entry point for that (Xen's PVH
notes). Where the payload lies is told in the kernel's header (Linux: Documentation/arch/x86/boot.rst, protocol 2.08).
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib

_HEADER_MAGIC = b"HdrS"
_ELF = b"\x7fELF"
_PT_NOTE = 4
_PVH_NOTE = 18  # XEN_ELFNOTE_PHYS32_ENTRY


def unpack_kernel(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage, or `image` as it is: where it is none, packed in a way that is not known here,
    or cannot be started unpacked."""
    payload = _payload(image)
    if payload is None:
        return image
    kernel = _decompress(payload)
    return kernel if kernel is not None and has_pvh_entry(kernel) else image


def _payload(image: bytes) -> bytes | None:
    if len(image) < 0x250 or image[0x202:0x206] != _HEADER_MAGIC or struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        return None
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start : start + length]


def _decompress(payload: bytes) -> bytes | None:
    # After the packed data stands its unpacked size, which is none of ours.
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            xz = lzma.LZMADecompressor()
            unpacked = xz.decompress(payload)
            return unpacked if xz.eof else None
        if payload.startswith(b"\x1f\x8b"):
            gz = zlib.decompressobj(wbits=31)
            unpacked = gz.decompress(payload)
            return unpacked if gz.eof else None
        for magic, program in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
            if payload.startswith(magic):
                packed = payload[:-4]
                done = subprocess.run([program, "-dcq"], input=packed, capture_output=True, timeout=60, check=False)
                return done.stdout or None
    except (lzma.LZMAError, zlib.error, OSError, subprocess.TimeoutExpired):
        return None
    return None


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether an ELF file of 64 bits has the note by which QEMU starts it."""
    if not kernel.startswith(_ELF) or len(kernel) < 64 or kernel[4] != 2:
        return False
    (table,) = struct.unpack_from("<Q", kernel, 0x20)
    size, count = struct.unpack_from("<HH", kernel, 0x36)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", kernel, table + number * size)
        if kind == _PT_NOTE and _has_note(kernel[offset : offset + length]):
            return True
    return False


def _has_note(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name, content, kind = struct.unpack_from("<III", notes, at)
        if kind == _PVH_NOTE and notes[at + 12 : at + 16] == b"Xen\0":
            return True
        at += 12 + (name + 3 & ~3) + (content + 3 & ~3)
    return False
