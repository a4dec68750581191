"""The image of the pause container, made on the spot: the process that holds a pod's namespaces open.

A pod's network and IPC namespaces live as long as some process is in them. The containers of the pod come and go,
so the engine's sandbox runs one more process that does nothing, as Kubernetes' `pause` does. There is one for every
pod on the node, so it should cost nothing: on amd64 it is a program of 304 bytes that
occupies 12 KiB of memory. Elsewhere it is busybox, which does the same in about 100 KiB.

What the program must do as process 1 of the sandbox:
- end at SIGTERM or SIGINT, at once. Process 1 has no default signal actions (the kernel drops the signal), but a
  *blocked* signal is kept for it, so the program blocks both and waits for one of them;
- leave no zombies if the pod shares one process namespace: with SIGCHLD ignored the kernel reaps by itself.
"""

from __future__ import annotations

import struct

from kube.image_archive import EntryType, ImageSource, architecture, busybox_root, file

PAUSE_REFERENCE = "ktool.local/pause:1"
PAUSE_LABEL = "io.ktool.image"

_ADDRESS = 0x400000
_HEADERS = 64 + 2 * 56
_AMD64_CODE = bytes.fromhex(
    # struct sigaction ignore = {SIG_IGN}; rt_sigaction(SIGCHLD, &ignore, NULL, 8)
    "b80d000000"  # mov eax, 13
    "bf11000000"  # mov edi, 17
    "488d354f000000"  # lea rsi, [rip + ignore]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    # rt_sigprocmask(SIG_BLOCK, &stop, NULL, 8)
    "b80e000000"  # mov eax, 14
    "31ff"  # xor edi, edi
    "488d352f000000"  # lea rsi, [rip + stop]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    # do { n = rt_sigtimedwait(&stop, NULL, NULL, 8) } while (n < 0): it may be interrupted
    "b880000000"  # mov eax, 128
    "488d3d19000000"  # lea rdi, [rip + stop]
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "78e4"  # js (back to the wait)
    # exit(0)
    "b83c000000"  # mov eax, 60
    "31ff"  # xor edi, edi
    "0f05"  # syscall
    # stop: the set of SIGINT (2) and SIGTERM (15)
    "0240000000000000"
    # ignore: handler 1 = SIG_IGN, no flags, no restorer, empty mask
    "0100000000000000" + 24 * "00"
)
_BUSYBOX_SCRIPT = "trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait $!; done"


def pause_image(machine: str = "") -> ImageSource:
    """The pause image for a machine type (`uname -m`; this machine's when empty).

    Raises KtoolError when it needs busybox (no amd64) and the machine has no static one.
    """
    name = architecture(machine)
    labels = {PAUSE_LABEL: "pause"}
    if name == "amd64":
        program = file("pause", pause_program(), mode=0o755)
        return ImageSource((PAUSE_REFERENCE,), (program,), ("/pause",), labels=labels, architecture=name)
    entries = tuple(entry for entry in busybox_root(applets=("sh", "sleep")) if entry.type is not EntryType.DIRECTORY)
    entrypoint = ("/bin/sh", "-c", _BUSYBOX_SCRIPT)
    return ImageSource((PAUSE_REFERENCE,), entries, entrypoint, labels=labels, architecture=name)


def pause_program() -> bytes:
    """The amd64 program as an ELF executable: one readable and executable segment, a stack that is not executable."""
    size = _HEADERS + len(_AMD64_CODE)
    identification = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little endian, version 1, System V
    # executable, amd64, version, entry, program headers at 64, no sections, flags, sizes and counts
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _ADDRESS + _HEADERS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return identification + header + load + stack + _AMD64_CODE
