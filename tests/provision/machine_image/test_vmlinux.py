from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess

import pytest

from provision.machine_image.vmlinux import has_pvh_entry, unpack_kernel


def elf(note: int) -> bytes:
    """An ELF file of 64 bits with one program header: a note of Xen's with that number."""
    notes = struct.pack("<III4sQ", 4, 8, note, b"Xen\0", 0x1000000)
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(notes), len(notes), 4) + notes + bytes(5000)


def bz_image(payload: bytes) -> bytes:
    image = bytearray(2 * 512)
    image[0x1F1] = 1
    image[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x20F)
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload + bytes(100)


KERNEL = elf(18)
SIZE = struct.pack("<I", len(KERNEL))  # stands after the packed data


@pytest.mark.parametrize("payload", [lzma.compress(KERNEL) + SIZE, gzip.compress(KERNEL) + SIZE])
def test_unpacks(payload: bytes) -> None:
    assert unpack_kernel(bz_image(payload)) == KERNEL


@pytest.mark.parametrize(("program", "options"), [("zstd", ["-qc"]), ("lz4", ["-lqc"])])
def test_unpacks_with_a_program(program: str, options: list[str]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")
    packed = subprocess.run([program, *options], input=KERNEL, capture_output=True, check=True, timeout=10).stdout
    assert unpack_kernel(bz_image(packed + SIZE)) == KERNEL


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF" + bytes(5000),
        bz_image(b"unknown packing"),
        bz_image(lzma.compress(elf(17)) + SIZE),  # cannot be started unpacked
        bz_image(lzma.compress(KERNEL)[:40] + SIZE),
    ],
)
def test_else_it_stays_as_it_is(image: bytes) -> None:
    assert unpack_kernel(image) == image


def test_the_note() -> None:
    assert has_pvh_entry(KERNEL)
    assert not has_pvh_entry(elf(17))
    assert not has_pvh_entry(b"text")
