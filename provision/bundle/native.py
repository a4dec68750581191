"""Compiled libraries without what no program loads.

Many wheels carry their libraries with all that a debugger wants: of uvloop's 13.6 MB 1.6 MB are ever loaded. What a
program needs of a library is described by its program headers (ELF: `PT_LOAD`, `PT_DYNAMIC`); symbols for debuggers and
the table of sections usually come after all of that, and are cut off. What is loaded stays the same, byte for byte.
"""

from __future__ import annotations

import struct

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian: what ktool's machines have
_SHARED_OBJECT = 3
_SECTIONS_AT = 40  # e_shoff
_COUNTS_AT = 60  # e_shnum, e_shstrndx
_HEADER_BYTES = 64
_SEGMENT_BYTES = 56
# Where less would be saved, a library stays as it came.
_WORTH = 0.05


def loaded(library: bytes) -> bytes:
    """The part of a shared library that is loaded; anything else as it is."""
    if len(library) < _HEADER_BYTES or not library.startswith(_MAGIC):
        return library
    (kind,) = struct.unpack_from("<H", library, 16)
    (segments,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    if kind != _SHARED_OBJECT or size != _SEGMENT_BYTES or segments + size * count > len(library):
        return library
    end = segments + size * count
    for number in range(count):
        offset, _, _, length = struct.unpack_from("<QQQQ", library, segments + size * number + 8)
        end = max(end, offset + length)
    if end > len(library) * (1 - _WORTH):
        return library
    kept = bytearray(library[:end])
    struct.pack_into("<Q", kept, _SECTIONS_AT, 0)
    struct.pack_into("<HH", kept, _COUNTS_AT, 0, 0)
    return bytes(kept)
